"""What the kernel asks, and what it does not ask twice: every change goes through it, so it may keep what it was told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, wait_until

Requests = dict[str, int]


def read(path: Path) -> bytes:
    """Without Python's file object, which asks whether it is a terminal."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def test_the_second_time_nothing_is_asked(stage: Stage, union: Path) -> None:
    def look() -> None:
        os.stat(union / "directory" / "inner")
        read(union / "file")
        assert not (union / "missing").exists()

    look()
    assert stage.requests(look) == {"open": 1, "release": 1}


def test_an_append_is_four_requests(stage: Stage, union: Path) -> None:
    """Look-up and attributes are known; the write asks once about capabilities, and then no more for this file."""
    os.stat(union / "file")

    def append() -> None:
        with open(union / "file", "ab", buffering=0) as file:
            for _ in range(10):
                file.write(b"x" * 100)

    found = stage.requests(append)
    assert found.pop("write") == 10
    assert found.pop("getxattr", 0) <= 1
    assert found.pop("open") == found.pop("release") == 1
    assert set(found) <= {"flush", "getattr", "ioctl", "lseek"}


@pytest.mark.parametrize(
    ("make", "requests"),
    [
        (lambda new: os.mkdir(new), {"lookup": 1, "mkdir": 1}),
        (lambda new: os.symlink("target", new), {"lookup": 1, "symlink": 1}),
        (lambda new: os.mkfifo(new), {"lookup": 1, "mknod": 1}),
        (lambda new: os.close(os.open(new, os.O_CREAT | os.O_WRONLY)), {"lookup": 1, "create": 1, "release": 1, "flush": 1}),
    ],
)
def test_creating(stage: Stage, union: Path, make: Callable[[str], object], requests: Requests) -> None:
    assert stage.requests(lambda: make(str(union / "new"))) == requests


def test_large_reads_and_writes_are_few(stage: Stage, union: Path) -> None:
    data = os.urandom(8 << 20)
    found = stage.requests(lambda: (union / "large").write_bytes(data))
    if "max_pages" in stage.status()["features"]:
        assert found["write"] == 8
    else:
        assert found["write"] == 64


def test_both_names_of_a_file_are_one_to_the_kernel(stage: Stage, union: Path) -> None:
    """libfuse's path interface would make two inodes of them."""
    read(union / "linked")
    assert stage.requests(lambda: read(union / "file")) == {"lookup": 1, "open": 1, "release": 1}


def test_memory_is_given_back_with_the_kernels(stage: Stage, union: Path) -> None:
    for number in range(500):
        (union / f"file{number}").write_text("x")
    for number in range(500):
        (union / f"file{number}").unlink()
    assert stage.status()["requests"]["create"] == 500
    assert stage.status()["nodes"] < 20
    assert stage.status()["open_files"] == 0


def test_dropping_the_kernels_caches_forgets(stage: Stage) -> None:
    for number in range(500):
        (stage.lower / f"file{number}").write_text("x")
    point = stage.mount()
    for number in range(500):
        os.stat(point / f"file{number}")
    assert stage.status()["requests"]["lookup"] >= 500
    Path("/proc/sys/vm/drop_caches").write_text("2")
    wait_until(lambda: bool(stage.status()["nodes"] < 100), "forgotten")
    assert (point / "file7").read_text() == "x"
