"""What is rendered for an image whose initrds are made by dracut."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cowroot.boot.dracut import IN_INITRD, MODULE
from cowroot.boot.guard import INITRD_HOOK, KERNEL_HOOK
from cowroot.boot.render import render
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.config import Config
from tests.t2_render.golden import hold_against

GOLDEN = Path(__file__).parent / "golden/dracut"
FILES = {each.path: each for each in render(Config.default(), Target(initramfs="dracut")) if isinstance(each, RenderedFile)}
DRACUT = sorted(path for path in FILES if "dracut" in path)


def test_all_that_an_image_gets() -> None:
    assert {path: FILES[path].mode for path in DRACUT} == {
        "/etc/dracut.conf.d/cowroot.conf": 0o644,
        f"{MODULE}/boot": 0o755,
        f"{MODULE}/cowroot-root.service": 0o644,
        f"{MODULE}/fsck.conf": 0o644,
        f"{MODULE}/functions": 0o644,
        f"{MODULE}/module-setup.sh": 0o755,
    }
    assert not [path for path in FILES if "initramfs-tools" in path]
    assert "/etc/systemd/system/cowroot.service" in FILES


@pytest.mark.parametrize("path", DRACUT)
def test_golden(path: str) -> None:
    # The functions have theirs among those for initramfs-tools; here is a link to it.
    if path.endswith("/functions"):
        other = Target(initramfs="initramfs-tools")
        same = {each.path: each for each in render(Config.default(), other) if isinstance(each, RenderedFile)}
        assert FILES[path].content == same["/etc/initramfs-tools/scripts/cowroot"].content
        return
    hold_against(GOLDEN / path.lstrip("/"), FILES[path].content)


def test_what_is_looked_for_in_an_initrd_is_what_the_module_puts_there() -> None:
    setup = FILES[f"{MODULE}/module-setup.sh"].content.decode()
    assert '>"$initdir/etc/cowroot.conf"' in setup
    for path in IN_INITRD:
        place = f"/{path}".replace("/usr/lib/systemd/system", "${systemdsystemunitdir:?}")
        assert place in setup or path == "etc/cowroot.conf", path


@pytest.mark.parametrize("lacking", ["", IN_INITRD[1]])
def test_the_installation_of_a_kernel_looks_into_its_initrd(tmp_path: Path, lacking: str) -> None:
    listed = "".join(f"-rw-r--r--   1 root     root          321 Nov 20 10:00 {path}\n" for path in IN_INITRD if path != lacking)
    (tmp_path / "listed").write_text(f"Image: x: 20M\n{listed}")
    (tmp_path / "initramfs-6.1.img").touch()
    (tmp_path / "lsinitrd").write_text(f"#!/bin/sh\ncat {tmp_path}/listed\n")
    (tmp_path / "lsinitrd").chmod(0o755)
    (tmp_path / "hook").write_bytes(FILES[KERNEL_HOOK].content)
    command = ["sh", str(tmp_path / "hook"), "6.1", str(tmp_path / "initramfs-6.1.img")]
    done = subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert (done.returncode, f"lacks {lacking}:" in done.stderr) == ((1, True) if lacking else (0, False))
    assert INITRD_HOOK not in FILES
