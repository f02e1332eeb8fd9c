"""What is rendered for Upstart: which form for which version, what is put into files that are there already, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowroot.boot.render import render
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.boot.upstart import JOB, MOUNTALL, OVERRIDE, knows_overrides, with_block
from cowroot.boot.upstart_syntax import check_stanzas, stanzas_of
from cowroot.config import Config
from cowroot.errors import PreflightError
from tests.t2_render.golden import hold_against

GOLDEN = Path(__file__).parent / "golden/upstart"
RUNTIME = "/usr/lib/cowroot/runtime"
# Like those of Ubuntu's mountall as far as their stanzas go: what the block stands beside.
MOUNTALL_CONF = """\
# mountall - a job for tests
description\t"Mount filesystems on boot"

start on startup
stop on starting rcS

expect daemon
task

emits virtual-filesystems
emits mounted

console output

script
    [ -f /forcefsck ] && force_fsck="--force-fsck"
    exec mountall --daemon $force_fsck # it's up
end script

post-stop script
    rm -f /forcefsck 2>dev/null || true
end script
"""
VERSIONS = {
    "9.10": "0.6.3-11", "10.04": "0.6.5-8", "10.10": "0.6.6-4", "11.04": "0.9.7-1", "11.10": "1.3-0ubuntu12", "12.04": "1.5-0ubuntu7.3",
    "12.10": "1.5-0ubuntu9", "13.04": "1.8-0ubuntu1.1", "13.10": "1.10-0ubuntu7", "14.04": "1.12.1-0ubuntu4.2", "14.10": "1.13.2-0ubuntu1",
}  # fmt: skip
WITHOUT_OVERRIDES = ("9.10", "10.04", "10.10")


def target(release: str, mountall_conf: str = MOUNTALL_CONF, mountall_override: str = "") -> Target:
    """An Ubuntu of that release, with an interpreter of cowroot's."""
    return Target(
        os_id="ubuntu", os_version=release, init="upstart", upstart=VERSIONS[release], grub="", mountall_conf=mountall_conf,
        mountall_override=mountall_override, runtime=RUNTIME, python="/usr/bin/python3.11", libfuse="/lib/libfuse.so.2",
    )  # fmt: skip


def files(release: str, form: str = "pre-start", **facts: str) -> dict[str, RenderedFile]:
    """What is rendered, by path."""
    config = Config.default().with_values({"upstart.form": form}, {})
    return {each.path: each for each in render(config, target(release, **facts)) if isinstance(each, RenderedFile)}


@pytest.mark.parametrize("release", VERSIONS)
def test_the_form_follows_the_version(release: str) -> None:
    old = release in WITHOUT_OVERRIDES
    assert knows_overrides(VERSIONS[release]) == (not old)
    found = set(files(release))
    assert (MOUNTALL in found, OVERRIDE in found, JOB in found) == (old, not old, False)
    found = set(files(release, "job"))
    assert (MOUNTALL in found, OVERRIDE in found, JOB in found) == (False, False, True)


@pytest.mark.parametrize("version", ["", "unknown", "0.6.3-11", "0.8.99"])
def test_a_version_that_may_not_know_overrides_gets_none(version: str) -> None:
    assert not knows_overrides(version)


def test_an_epoch_is_not_a_version() -> None:
    assert knows_overrides("1:0.9.7")
    assert not knows_overrides("1:0.6.5")


@pytest.mark.parametrize(
    ("release", "form"), [("9.10", "pre-start"), ("10.04", "job"), ("11.04", "pre-start"), ("14.04", "pre-start"), ("14.04", "job")]
)
def test_golden(release: str, form: str) -> None:
    for path, file in files(release, form).items():
        # What is the same everywhere is looked at once. (The functions have theirs among those for initramfs-tools; here is a link to it.)
        if path.endswith("/functions"):
            continue
        if not path.startswith("/etc/init/") and (release, form) != ("14.04", "pre-start"):
            continue
        hold_against(GOLDEN / f"{release}-{form}" / path.lstrip("/"), file.content)


def test_the_block_comes_once_and_leaves_the_rest_alone() -> None:
    once = files("10.04")[MOUNTALL].content.decode()
    assert once.startswith(MOUNTALL_CONF)
    assert once.count("pre-start") == 1
    assert files("10.04", mountall_conf=once)[MOUNTALL].content.decode() == once
    changed = once.replace("/usr/lib/cowroot/boot/upstart", "/elsewhere")
    assert files("10.04", mountall_conf=changed)[MOUNTALL].content.decode() == once


def test_an_override_that_is_there_is_added_to() -> None:
    found = files("14.04", mountall_override="# ours\nnice -5")[OVERRIDE].content.decode()
    assert found.startswith("# ours\nnice -5\n\n# BEGIN cowroot\n")
    assert stanzas_of(found) == {"nice", "pre-start"}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"mountall_conf": ""}, "the image has no /etc/init/mountall.conf, before which the union could come up"),
        ({"mountall_conf": MOUNTALL_CONF.replace("task", "tusk")}, "/etc/init/mountall.conf:8: there is no stanza 'tusk'"),
        ({"mountall_override": "pre-start exec true\n"}, "/etc/init/mountall.override has a pre-start process of its own"),
        ({"mountall_override": "script\n  x\n"}, "/etc/init/mountall.override:1: the script has no `end script`"),
    ],
)
def test_what_would_not_work_is_refused(facts: dict[str, str], message: str) -> None:
    with pytest.raises(PreflightError) as caught:
        files("14.04", **facts)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_pre_start_does_not_hinder_the_other_form() -> None:
    assert JOB in files("14.04", "job", mountall_override="pre-start exec true\n")


GOOD = (
    "", "# only a comment", "start on (starting a\n  or stopped b)\n", "start on starting x \\\n  and y\n", "env X='a b'\n",
    'env X="a # b" # c\n', "exec a 'it is' \"one\"\n", "script\nit's (not\nlooked into\nend script\n", "respawn\n", "kill timeout 60\n",
    "post-start script\nx\n  end script  \ntask\n", "respawn limit 10 5\n", "limit nofile 1 2\n", "console log\n", "pre-stop exec x\n",
    "manual",
)  # fmt: skip
BAD = (
    ("strat on x", 1), ("task\n\nexec", 3), ("script\nx", 1), ("pre-start\n", 1), ("pre-start exec\n", 1), ("pre-start run x\n", 1),
    ('description "a', 1), ("description a b\n", 1), ("start on (a or b\n", 1), ("expect nothing\n", 1), ("script x\nend script\n", 1),
    ("task please\n", 1), ("end script\n", 1), ("# x\nkill timeout\n", 2),
)  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_stanzas_that_parse(text: str) -> None:
    check_stanzas(text, "x.conf")


@pytest.mark.parametrize(("text", "line"), BAD)
def test_stanzas_that_do_not(text: str, line: int) -> None:
    with pytest.raises(PreflightError, match=rf"^x\.conf:{line}: "):
        check_stanzas(text, "x.conf")


def test_a_block_does_not_swallow_what_follows_another() -> None:
    twice = with_block(with_block("task\n", "nice 1\n", "x"), "nice 2\n", "x")
    assert twice == "task\n\n# BEGIN cowroot\nnice 2\n# END cowroot\n"
    assert with_block(twice + "umask 022\n", "nice 3\n", "x") == "task\numask 022\n\n# BEGIN cowroot\nnice 3\n# END cowroot\n"
