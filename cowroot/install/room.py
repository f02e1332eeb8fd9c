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
    largest = 0
    for record in records:
        if record.after and record.after.kind == FILE:
            needed[_existing(tree, record.path)] += record.after.size + _BLOCK
        if record.before and record.before.kind == FILE:
            largest = max(largest, record.before.size)
            if not tree.exists(f"{ORIGINALS}/{record.before.sha256}"):
                needed[_existing(tree, STATE_DIRECTORY)] += record.before.size + _BLOCK
    # While a file is put back, it is there twice.
    needed[_existing(tree, STATE_DIRECTORY)] += largest + _SLACK
    totals: dict[int, int] = defaultdict(int)
    places: dict[int, str] = {}
    free: dict[int, int] = {}
    for path, size in needed.items():
        with tree.directory(path) as fd:
            device, status = os.fstat(fd).st_dev, os.fstatvfs(fd)
        totals[device] += size
        places.setdefault(device, path)
        free[device] = status.f_bavail * status.f_frsize
    for device, size in totals.items():
        if size > free[device]:
            raise PreflightError(
                f"{name} is too full: {_mib(size)} are needed at {places[device]} and {_mib(free[device])} are free",
                hint=f"free {_mib(size - free[device])} there, or enlarge the file system",
            )


def _existing(tree: Tree, path: str) -> str:
    parent = os.path.dirname(path)
    while not tree.is_dir(parent):
        parent = os.path.dirname(parent)
    return parent


def _mib(size: int) -> str:
    return f"{-(-size // (1 << 20))} MiB"
