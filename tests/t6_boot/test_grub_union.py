"""update-grub inside a union over a real Debian image: the menu must be the one that it writes on the disk itself.

No boot is needed for that. The image's root is mounted read-only, a union over it by ``cowroot mount`` as the initramfs does it, and the
image's own update-grub runs in a chroot there, with all of its own tools. What it asks of the machine (which device is / on, where is
its UUID) is answered by a /dev made for it; the device is not called /dev/loop0 there, since 10_linux makes no entry for that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cowroot.boot.grub import render_grub
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.config import Config
from tests.t6_boot import disk, image

GRUB_CFG = "boot/grub/grub.cfg"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting an image takes root")

# Arguments: an empty directory, the image, its offset, how the union names its source, a directory to copy into the union first.
# Leaves grub.cfg in the directory: before and after, and on the disk.
_IN_UNION = """
mkdir "$1/dev" "$1/lower" "$1/writes" "$1/union"
loop=$(losetup --find --show --read-only --offset "$3" "$2")
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
for node in null zero random urandom tty fuse; do cp -a "/dev/$node" "$1/dev/"; done
cp -a "$loop" "$1/dev/appliance"
mkdir -p "$1/dev/disk/by-uuid"
ln -s ../../appliance "$1/dev/disk/by-uuid/$(blkid --probe --output value --match-tag UUID "$loop")"
mount -t ext4 -o ro,noload "$loop" "$1/lower"
losetup --detach "$loop"   # once it is no longer mounted
mount --move "$1/dev" /dev
mount -t tmpfs tmpfs "$1/writes"
mkdir "$1/writes/upper" "$1/writes/work"
"$PYTHON" -m cowroot mount -o "lowerdir=$1/lower,upperdir=$1/writes/upper,workdir=$1/writes/work,dev,suid,fsname=$4" "$1/union"
cp -rT "$5" "$1/union"
mount --rbind /dev "$1/union/dev"
mount --rbind /proc "$1/union/proc"
mount --rbind /sys "$1/union/sys"
cp "$1/union/boot/grub/grub.cfg" "$1/before.cfg"
code=0
chroot "$1/union" update-grub || code=$?
cp "$1/union/boot/grub/grub.cfg" "$1/after.cfg"
cp "$1/lower/boot/grub/grub.cfg" "$1/disk.cfg"
umount -R "$1/union/dev" "$1/union/proc" "$1/union/sys"
"${PYTHON%/*}/umount.fuse.cowroot" "$1/union"   # which waits for the daemon: it holds the layers for a moment more
umount "$1/writes" "$1/lower"
exit "$code"
"""


def update_grub(place: Path, *, source: str, files: dict[str, tuple[bytes, int]]) -> subprocess.CompletedProcess[str]:
    """Run the image's update-grub in a union whose source is called `source`, after some files (content, mode) have come to lie in it."""
    extra = place / "extra"
    extra.mkdir()
    for name, (content, mode) in files.items():
        path = extra / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
    work = place / "work"
    work.mkdir()
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", _IN_UNION, "sh",
         str(work), str(image.plain().disk), str(disk.OFFSET), source, str(extra)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "PYTHON": sys.executable, "PYTHONPATH": str(image.CHECKOUT)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip


def menu(place: Path, which: str) -> str:
    """The menu before or after, or on the disk after all."""
    return (place / "work" / f"{which}.cfg").read_text()


def cowroot_files() -> dict[str, tuple[bytes, int]]:
    """What `cowroot install` puts into the image for GRUB."""
    rendered = render_grub(Config.default(), Target())
    return {file.path.lstrip("/"): (file.content, file.mode) for file in rendered if isinstance(file, RenderedFile)}


def test_the_menu_written_in_the_union_is_the_disk_s(tmp_path: Path) -> None:
    done = update_grub(tmp_path, source="/dev/appliance", files={})
    assert done.returncode == 0, done.stdout
    assert "Found linux image" in done.stdout
    assert "\tlinux\t" in menu(tmp_path, "before")
    assert menu(tmp_path, "after") == menu(tmp_path, "before")


def test_cowroot_adds_its_section_and_no_more(tmp_path: Path) -> None:
    done = update_grub(tmp_path, source="/dev/appliance", files=cowroot_files())
    assert done.returncode == 0, done.stdout
    before, after = menu(tmp_path, "before"), menu(tmp_path, "after")
    section = "\n### BEGIN /etc/grub.d/99_cowroot ###\n"
    unchanged, _, added = after.partition(section)
    assert "cowroot=off" not in unchanged
    # Of the header, only the seconds to wait after a failure are others.
    failed = 'if [ "${recordfail}" = 1 ] ; then\n  set timeout='
    assert unchanged == before.replace(f"{failed}30\n", f"{failed}0\n")
    first = next(line for line in before.splitlines() if line.startswith("\tlinux\t"))
    assert "root=UUID=" in first
    assert f"{first} cowroot=off\n" in added
    assert menu(tmp_path, "disk") == before


def test_a_union_that_hides_its_disk_keeps_the_menu(tmp_path: Path) -> None:
    done = update_grub(tmp_path, source="cowroot", files=cowroot_files())
    assert done.returncode != 0
    assert "grub-probe: error" in done.stdout
    assert menu(tmp_path, "after") == menu(tmp_path, "before")
