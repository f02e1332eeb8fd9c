"""Disk files made without a partition scanner: a PC partition table, an ext4 file system at an offset, GRUB's boot code by hand.

``grub-install`` wants a loop device whose partitions the kernel has read, which many build machines cannot give. The three things
that it writes are simple enough: boot.img into the first 440 bytes, a core image into the gap before the first partition
(boot.img loads sector 1 unless told otherwise), and the modules into /boot/grub.
"""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SECTOR = 512
FIRST_SECTOR = 2048
OFFSET = FIRST_SECTOR * SECTOR
"""Where the one partition begins, in bytes: 1 MiB, as every partitioner of today does it."""

# Features that GRUB 2.06 (Debian 12) cannot read, or that an older kernel cannot mount, stay off whatever the machine's default is.
_EXT4_FEATURES = "^metadata_csum_seed,^orphan_file"
_CORE_MODULES = ("biosdisk", "part_msdos", "ext2")
# The boot code may take what precedes the disk signature and the table of partitions.
_BOOT_CODE_BYTES = 440


class BuildError(Exception):
    """An image could not be made; the message says which step failed and where its output is."""


def run(command: list[str], log: Path, **environment: str) -> None:
    """Run a build step with its output appended to ``log``; raise BuildError, with the end of that output, if it fails."""
    with log.open("ab") as output:
        output.write(f"+ {' '.join(command)}\n".encode())
        output.flush()
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}, check=False
        ).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"{command[0]} failed (exit code {code}); the whole log is {log}\n{tail}")


def write_disk(tree: Path, disk: Path, mib: int, label: str, log: Path) -> None:
    """Write ``disk``, of ``mib`` MiB, with ``tree`` as the root of its only partition, and make it boot with GRUB on a BIOS.

    The tree must hold grub-pc of its own: its GRUB, not this machine's, goes onto the disk. Raises BuildError.
    """
    _copy_grub_modules(tree)
    with disk.open("wb") as file:
        file.truncate(mib << 20)
    table = disk.with_suffix(".sfdisk")
    table.write_text(f"label: dos\nstart={FIRST_SECTOR}, type=83, bootable\n")
    run(["sh", "-euc", 'exec sfdisk --quiet "$1" <"$2"', "sh", str(disk), str(table)], log)
    table.unlink()
    make_ext4(disk, (mib << 20) - OFFSET, label, log, tree=tree, offset=OFFSET)
    _write_boot_code(tree, disk, log)


def make_ext4(disk: Path, size: int, label: str, log: Path, *, tree: Path | None = None, offset: int = 0) -> None:
    """Make an ext4 file system of ``size`` bytes at ``offset`` in ``disk``, filled with ``tree``. Raises BuildError."""
    source = ["-d", str(tree)] if tree else []
    options = ["-q", "-F", "-t", "ext4", "-O", _EXT4_FEATURES, "-L", label, *source, "-E", f"offset={offset}"]
    run(["mke2fs", *options, str(disk), f"{size >> 10}k"], log)


def make_data_disk(disk: Path, mib: int, label: str, tree: Path | None = None) -> Path:
    """Make ``disk`` a bare ext4 file system (no partition table) of ``mib`` MiB and return it: an upper, or a carrier of files."""
    with disk.open("wb") as file:
        file.truncate(mib << 20)
    log = disk.with_suffix(".log")
    make_ext4(disk, mib << 20, label, log, tree=tree)
    log.unlink()
    return disk


def _copy_grub_modules(tree: Path) -> None:
    modules = tree / "boot/grub/i386-pc"
    modules.mkdir(parents=True, exist_ok=True)
    for file in (tree / "usr/lib/grub/i386-pc").iterdir():
        if file.suffix in {".mod", ".lst"}:
            shutil.copyfile(file, modules / file.name)


def _write_boot_code(tree: Path, disk: Path, log: Path) -> None:
    core = tree / "tmp/core.img"
    run(
        ["chroot", str(tree), "grub-mkimage", "-O", "i386-pc", "-o", "/tmp/core.img", "-p", "(hd0,msdos1)/boot/grub", *_CORE_MODULES], log
    )
    code = core.read_bytes()
    core.unlink()
    if len(code) > OFFSET - SECTOR:
        raise BuildError(f"GRUB's core image ({len(code)} bytes) does not fit before the first partition")
    with disk.open("r+b") as file:
        file.write((tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:_BOOT_CODE_BYTES])
        file.seek(SECTOR)
        file.write(code)
