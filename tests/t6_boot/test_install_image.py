"""`cowroot install` on a real Debian image, with the image's own update-initramfs and update-grub."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cowroot.install.installation import install
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from tests.t3_install.disks import loop_devices, mounted
from tests.t3_install.fake import snapshot
from tests.t6_boot import disk
from tests.t6_boot.image import Image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting an image needs root")


def test_a_real_image_gets_everything_once_and_loses_it_to_the_byte(plain: Image, work: Path) -> None:
    copy = work / "disk.img"
    subprocess.run(["cp", "--sparse=always", str(plain.disk), str(copy)], check=True)
    before = _content(copy, work / "mnt")
    choice, said = Choice(image=copy), list[str]()

    assert install(choice, None, said.append).done == "installed"
    with mounted(copy, work / "mnt", offset=disk.OFFSET, size=_size(copy), options="ro,noload") as root:
        menu = (root / "boot/grub/grub.cfg").read_text()
        assert "cowroot=off" in menu
        assert "root=UUID=" in menu
        assert (root / "boot/grub/grubenv").read_bytes() == b""
        assert list((root / "usr/lib/cowroot/cowroot/union/__pycache__").glob("union.*.pyc"))
    assert any(line.startswith("update-initramfs: ") for line in said)

    said.clear()
    assert install(choice, None, said.append).done == "unchanged"
    assert said == []

    assert uninstall(choice, said.append).done == "uninstalled"
    assert _content(copy, work / "mnt") == before
    assert loop_devices(copy) == []


def _size(copy: Path) -> int:
    return copy.stat().st_size - disk.OFFSET


def _content(copy: Path, place: Path) -> dict[str, Any]:
    with mounted(copy, place, offset=disk.OFFSET, size=_size(copy), options="ro,noload"):
        return snapshot(place)
