"""Changes of names, and copying up."""

from __future__ import annotations

import os
import shutil

from benchmarks.turn import Turn
from benchmarks.workloads import FILES, Row, workload

_KILOBYTE = b"x" * 1024


def _write_new(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, content)
    os.close(fd)


@workload(Row("create", "create 3,000 files", FILES), Row("remove", "remove them", FILES))
def create_and_remove(turn: Turn) -> None:
    """Create files of 1 KiB in a new directory; remove them one by one."""
    directory = turn.point / "new"
    directory.mkdir()
    paths = [f"{directory}/file{number:04}" for number in range(turn.count(3_000))]
    with turn.timed("create", len(paths)):
        for path in paths:
            _write_new(path, _KILOBYTE)
    with turn.timed("remove", len(paths)):
        for path in paths:
            os.unlink(path)


@workload(Row("copy-up-chmod", "copy up 1,000: chmod", FILES))
def change_modes(turn: Turn) -> None:
    """chmod of 1,000 files of the lower."""
    paths = turn.files(range(turn.count(1_000)))
    with turn.timed("copy-up-chmod", len(paths)):
        for path in paths:
            os.chmod(path, 0o600)


@workload(Row("copy-up-append", "copy up 1,000: append", FILES))
def append(turn: Turn) -> None:
    """A few bytes at the end of 1,000 files of the lower."""
    paths = turn.files(range(turn.count(1_000)))
    with turn.timed("copy-up-append", len(paths)):
        for path in paths:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.write(fd, b"ten bytes\n")
            os.close(fd)


@workload(Row("write-rename", "write and rename 1,000", FILES))
def replace(turn: Turn) -> None:
    """A new file beside each of 1,000 files of the lower, renamed over it."""
    paths = turn.files(range(turn.count(1_000)))
    with turn.timed("write-rename", len(paths)):
        for path in paths:
            _write_new(path + ".new", _KILOBYTE)
            os.rename(path + ".new", path)


@workload(Row("remove-tree", "remove a lower subtree of 2,000 files", FILES))
def remove_tree(turn: Turn) -> None:
    """Twenty directories of the lower, with all that is in them."""
    directories = max(1, turn.count(2_000) // 100)
    with turn.timed("remove-tree", directories * 100):
        for number in range(directories):
            shutil.rmtree(turn.point / f"d{number:03}")
