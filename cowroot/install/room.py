"""Whether a disk has room for what is to be written, counted before anything is."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable

from cowroot.errors import PreflightError
from cowroot.install.manifest import ORIGINALS, STATE_DIRECTORY, Record
from cowroot.install.state import FILE
from cowroot.install.tree import Tree

# For directories, the journal and the manifest, and a block at the end of every file.
_SLACK = 2 << 20
_BLOCK = 4096


def check_room(tree: Tree, records: Iterable[Record], name: str) -> None:
    """Raise PreflightError if the file systems of `tree` cannot take the files after, the originals, and one of them once more."""
    needed: dict[str, int] = defaultdict(int)
    made: dict[str, int] = defaultdict(int)
    largest = 0
    for record in records:
        if record.after:
            made[_existing(tree, record.path)] += 1
        if record.after and record.after.kind == FILE:
            needed[_existing(tree, record.path)] += record.after.size + _BLOCK
        if record.before and record.before.kind == FILE:
            largest = max(largest, record.before.size)
            if not tree.exists(f"{ORIGINALS}/{record.before.sha256}"):
                needed[_existing(tree, STATE_DIRECTORY)] += record.before.size + _BLOCK
                made[_existing(tree, STATE_DIRECTORY)] += 1
    # While a file is put back, it is there twice.
    needed[_existing(tree, STATE_DIRECTORY)] += largest + _SLACK
    for place, (size, inodes, status) in _by_file_system(tree, needed, made).items():
        free = status.f_bavail * status.f_frsize
        if size > free:
            raise PreflightError(
                f"{name} is too full: {_mib(size)} are needed at {place} and {_mib(free)} are free",
                hint=f"free {_mib(size - free)} there, or enlarge the file system",
            )
        # btrfs makes inodes as they are needed, and says that it has none at all.
        if status.f_files and inodes > status.f_favail:
            raise PreflightError(
                f"{name} is too full: {inodes} inodes are needed at {place} and {status.f_favail} are free",
                hint="remove files there, or make the file system anew with more inodes (mke2fs -N)",
            )


def _by_file_system(tree: Tree, needed: dict[str, int], made: dict[str, int]) -> dict[str, tuple[int, int, os.statvfs_result]]:
    """Return bytes and inodes needed and what there is, for one directory of each file system."""
    found: dict[str, tuple[int, int, os.statvfs_result]] = {}
    places = {os.fstat(tree.fd).st_dev: "/"}
    for path in sorted({*needed, *made}):
        with tree.directory(path) as fd:
            place = places.setdefault(os.fstat(fd).st_dev, path)
            status = os.fstatvfs(fd)
        size, inodes, _ = found.get(place, (0, 0, status))
        found[place] = (size + needed.get(path, 0), inodes + made.get(path, 0), status)
    return found


def _existing(tree: Tree, path: str) -> str:
    parent = os.path.dirname(path)
    while not tree.is_dir(parent):
        parent = os.path.dirname(parent)
    return parent


def _mib(size: int) -> str:
    return f"{-(-size // (1 << 20))} MiB"
