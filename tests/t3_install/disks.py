"""Raw disk images made without loop devices: a partition table by sfdisk, ext4 file systems filled at their offset by mke2fs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.t3_install.fake import snapshot

MIB = 1 << 20


def make_disk(path: Path, *partitions: Path | None, label: str = "dos", mib: int = 40) -> Path:
    """Make a disk with a partition of `mib` MiB for each tree (None: nothing in it), the first at 1 MiB."""
    with path.open("wb") as file:
        file.truncate((1 + mib * len(partitions) + 1) * MIB)
    table = f"label: {label}\n" + "".join(
        f"start={_start(number, mib) // 512}, size={mib * MIB // 512}\n" for number in range(len(partitions))
    )
    subprocess.run(["sfdisk", "--quiet", str(path)], input=table, text=True, check=True)
    for number, tree in enumerate(partitions):
        if tree:
            make_ext4(path, tree, mib, offset=_start(number, mib))
    return path


def _start(number: int, mib: int) -> int:
    return (1 + number * mib) * MIB


def make_ext4(path: Path, tree: Path, mib: int, *, offset: int = 0) -> Path:
    """Make an ext4 file system with `tree` in it, at an offset of a file, or of the whole file, made for it."""
    if not path.exists():
        with path.open("wb") as file:
            file.truncate(offset + mib * MIB)
    features = "^metadata_csum_seed,^orphan_file"  # which some kernels cannot mount
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-L", "fake", "-E", f"offset={offset}", "-d", str(tree), str(path), f"{mib}M"],
        check=True,
    )
    return path


@contextmanager
def mounted(path: Path, place: Path, *, offset: int = MIB, size: int = 40 * MIB, options: str = "ro") -> Iterator[Path]:
    """Mount a file system of a disk for as long as the block lasts."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", f"loop,offset={offset},sizelimit={size},{options}", str(path), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def content(path: Path, place: Path, **options: Any) -> dict[str, Any]:
    """Return the snapshot of a file system of a disk."""
    with mounted(path, place, **options):
        return snapshot(place)


def loop_devices(path: Path) -> list[str]:
    """Return the loop devices that a file stays attached to: one that the kernel is about to detach is given the time."""
    for _ in range(50):
        if not _attached(path):
            return []
        time.sleep(0.1)
    return _attached(path)


def _attached(path: Path) -> list[str]:
    command = ["losetup", "--noheadings", "--output", "NAME", "--associated", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
