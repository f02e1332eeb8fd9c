"""What is rendered for an image: which files, and what stands in them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from cowroot.boot.render import render
from cowroot.boot.rendered import RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.boot.templates import render_template, template_root
from cowroot.config import SETTINGS, Config
from cowroot.errors import CowrootError, PreflightError
from tests.t2_render.golden import hold_against

GOLDEN = Path(__file__).parent / "golden/debian13"
# GRUB's files have a test, and golden files, of their own.
RENDERED = [each for each in render(Config.default(), Target()) if "grub" not in each.path]
FILES = {each.path: each for each in RENDERED if isinstance(each, RenderedFile)}


def test_all_that_an_image_gets() -> None:
    assert {each.path: each.mode if isinstance(each, RenderedFile) else each.target for each in RENDERED} == {
        "/etc/initramfs-tools/hooks/cowroot": 0o755,
        "/etc/initramfs-tools/scripts/cowroot": 0o644,
        "/etc/initramfs-tools/scripts/local-premount/cowroot": 0o755,
        "/etc/initramfs-tools/scripts/local-bottom/cowroot": 0o755,
        "/etc/kernel/postinst.d/zz-cowroot": 0o755,
        "/etc/initramfs/post-update.d/cowroot": 0o755,
        "/etc/systemd/system/cowroot.service": 0o644,
        "/etc/systemd/system/multi-user.target.wants/cowroot.service": "../cowroot.service",
        "/etc/systemd/system/cowroot-stages.service": 0o644,
        "/etc/systemd/system/multi-user.target.wants/cowroot-stages.service": "../cowroot-stages.service",
        "/etc/systemd/system/cowroot-window.service": 0o644,
        "/etc/systemd/system/multi-user.target.wants/cowroot-window.service": "../cowroot-window.service",
        "/etc/systemd/system/cowroot-watch.service": 0o644,
        "/etc/systemd/system/cowroot-watch.timer": 0o644,
        "/etc/systemd/system/timers.target.wants/cowroot-watch.timer": "../cowroot-watch.timer",
        "/usr/lib/systemd/system-sleep/cowroot": 0o755,
        "/etc/systemd/system/run-cowroot-lower.mount.d/cowroot.conf": 0o644,
        "/etc/systemd/system/run-cowroot-upper.mount.d/cowroot.conf": 0o644,
        "/etc/systemd/system/run-cowroot-box.mount.d/cowroot.conf": 0o644,
        "/etc/systemd/system/blk-availability.service.d/cowroot.conf": 0o644,
        "/etc/.updated": 0o644,
        "/var/.updated": 0o644,
    }


@pytest.mark.parametrize("path", FILES)
def test_golden(path: str) -> None:
    hold_against(GOLDEN / path.lstrip("/"), FILES[path].content)


@pytest.mark.parametrize("path", FILES)
def test_each_file_names_its_origin(path: str) -> None:
    head = FILES[path].content.decode().splitlines()[:2]
    assert any("cowroot install" in line for line in head)


def test_links_lead_to_what_is_rendered() -> None:
    for each in RENDERED:
        if isinstance(each, RenderedLink):
            assert os.path.normpath(f"{os.path.dirname(each.path)}/{each.target}") in FILES


def test_paths_of_the_target_are_used() -> None:
    target = Target(python="/opt/python", libfuse="/opt/libfuse.so.2")
    files = {each.path: each.content.decode() for each in render(Config.default(), target) if isinstance(each, RenderedFile)}
    script = files["/etc/initramfs-tools/scripts/cowroot"]
    assert 'ln -s /opt/python "$daemon/run/@cowroot"' in script
    assert "FUSE_LIBRARY_PATH=/opt/libfuse.so.2" in script
    assert "[ -x /opt/python ] ||" in files["/etc/initramfs-tools/hooks/cowroot"]


def test_settings_are_not_in_the_boot_files() -> None:
    """They are taken from cowroot.yaml whenever an initrd is made: nothing has to be rendered again after a change."""
    changed = dataclasses.replace(Config.default(), engine="fusepy", on_failure=("shell",))
    files = [each for each in render(changed, Target()) if "grub" not in each.path]
    assert files == RENDERED


def test_every_parameter_is_known_to_the_boot_script() -> None:
    script = FILES["/etc/initramfs-tools/scripts/cowroot"].content.decode()
    for setting in SETTINGS:
        assert (f"\t{setting.parameter}) given_{setting.variable}=" in script) == bool(setting.parameter), setting.key


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(initramfs="booster"), "the image's initrds are made by booster, not by initramfs-tools, dracut or mkinitcpio"),
        (Target(initramfs=""), "the image's initrds are made by nothing that is known, not by initramfs-tools, dracut or mkinitcpio"),
        (Target(init=""), "the image's init system is none that is known, not systemd"),
        (Target(init="upstart"), "the image has no /etc/init/mountall.conf, before which the union could come up"),
    ],
)
def test_an_image_that_cannot_be_booted_so(target: Target, message: str) -> None:
    with pytest.raises(PreflightError) as caught:
        render(Config.default(), target)
    assert caught.value.message == message
    assert caught.value.hint


def test_with_sysvinit_there_are_no_units_and_a_shutdown_is_told_of_the_daemon() -> None:
    files = {each.path: each for each in render(Config.default(), Target(init="sysvinit"))}
    assert not [path for path in files if "systemd" in path]
    assert {"/etc/init.d/cowroot", "/etc/init.d/cowroot-umount"} < set(files)
    functions = files["/etc/initramfs-tools/scripts/cowroot"]
    assert isinstance(functions, RenderedFile)
    text = functions.content.decode()
    assert "sendsigs.omit.d" in text
    assert '"$mounted_device / $mounted_type ro 0 0"' in text


def test_a_family_that_is_not_there() -> None:
    with pytest.raises(CowrootError, match="the templates of nothing are missing"):
        template_root("nothing")


def test_a_value_that_nobody_gave_is_an_error() -> None:
    with pytest.raises(Exception, match="'origin' is undefined"):
        render_template("systemd", "cowroot.service.j2")
