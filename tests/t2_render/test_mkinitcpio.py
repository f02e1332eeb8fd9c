"""What is rendered for an image whose initrds are made by mkinitcpio."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowroot.boot.mkinitcpio import HOME, HOOK, IN_INITRD, INSTALL
from cowroot.boot.render import render
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.config import Config
from tests.t2_render.golden import hold_against

GOLDEN = Path(__file__).parent / "golden/mkinitcpio"
CONF = "/etc/mkinitcpio.conf.d/cowroot.conf"


def _files(target: Target) -> dict[str, RenderedFile]:
    return {each.path: each for each in render(Config.default(), target) if isinstance(each, RenderedFile)}


FILES = _files(Target(initramfs="mkinitcpio"))


def test_all_that_an_image_gets() -> None:
    assert {path: file.mode for path, file in FILES.items() if "initcpio" in path} == {
        CONF: 0o644,
        INSTALL: 0o755,
        HOOK: 0o755,
        f"{HOME}/boot": 0o755,
        f"{HOME}/cowroot-root.service": 0o644,
        f"{HOME}/fsck.conf": 0o644,
        f"{HOME}/functions": 0o644,
    }
    assert not [path for path in FILES if "initramfs" in path or "dracut" in path]
    assert "/etc/systemd/system/cowroot.service" in FILES


@pytest.mark.parametrize("path", [INSTALL, HOOK, CONF])
def test_golden(path: str) -> None:
    hold_against(GOLDEN / path.lstrip("/"), FILES[path].content)


def test_what_it_has_in_common_with_other_initrds() -> None:
    others = {**_files(Target(initramfs="dracut")), **_files(Target())}
    module = "/usr/lib/dracut/modules.d/90cowroot"
    for name in ("boot", "cowroot-root.service", "fsck.conf"):
        assert FILES[f"{HOME}/{name}"].content == others[f"{module}/{name}"].content
    assert FILES[f"{HOME}/functions"].content == others["/etc/initramfs-tools/scripts/cowroot"].content


def test_what_is_looked_for_in_an_initrd_is_what_the_hook_puts_there() -> None:
    build = FILES[INSTALL].content.decode()
    assert '>"${BUILDROOT:?}/etc/cowroot.conf"' in build
    assert " /usr/lib/cowroot-boot/functions " in build
    assert "\tadd_runscript\n" in build  # as /hooks/NAME
    assert IN_INITRD == ("etc/cowroot.conf", "usr/lib/cowroot-boot/functions", "hooks/cowroot")
