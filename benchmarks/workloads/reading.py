"""Looking at what is there: walks, reading, names that do not exist."""

from __future__ import annotations

import os

from benchmarks import lowers
from benchmarks.stage import run
from benchmarks.turn import Turn
from benchmarks.workloads import FILES, MEMORY, Row, workload

_NEAR = 1.15  # what the kernel can answer from its caches, or passes through
_CHUNK = 128 << 10


def find(turn: Turn) -> None:
    """find(1) with a test that needs each file's attributes."""
    run("find", turn.point, "-size", "+1G")


def _read(paths: list[str]) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        while os.read(fd, _CHUNK):
            pass
        os.close(fd)


@workload(
    Row("find-cold", "find, cold dentries", FILES, _NEAR),
    Row("find-warm", "find, warm", FILES, _NEAR),
    changes=False,
)
def walk(turn: Turn) -> None:
    """find over 12,000 files by an attribute; then again."""
    turn.forget_names()
    for row in ("find-cold", "find-warm"):
        with turn.timed(row, turn.count(lowers.FILES)):
            find(turn)


@workload(Row("read-cold", "read 12,000 files, cold", FILES), Row("read-warm", "read 12,000 files, warm", FILES), changes=False)
def read_files(turn: Turn) -> None:
    """Open, read and close 12,000 files whose names are known; then again."""
    paths = turn.files()
    turn.forget_all()
    for row in ("read-cold", "read-warm"):
        with turn.timed(row, len(paths)):
            _read(paths)


@workload(Row("two-readers", "two readers at once", FILES), changes=False)
def two_readers(turn: Turn) -> None:
    """Two processes read 12,000 files each, which were read before."""
    paths = turn.files()
    _read(paths)
    with turn.timed("two-readers", 2 * len(paths)):
        children = [_fork_reader(paths[half:] + paths[:half]) for half in (0, len(paths) // 2)]
        codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        raise OSError("a reader has failed")


def _fork_reader(paths: list[str]) -> int:
    child = os.fork()
    if child == 0:
        try:
            _read(paths)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def _ask_in_vain(turn: Turn, names: int, times: int) -> None:
    paths = [f"{turn.point}/d000/no-such-file-{number}" for number in range(names)]
    for _ in range(times):
        for path in paths:
            try:
                os.stat(path)
            except FileNotFoundError:
                continue
            raise OSError(f"{path} exists")


@workload(
    Row("negative-first", "2,000 negative look-ups, first time", FILES, None),
    Row("negative", "20,000 negative look-ups", FILES, _NEAR),
    changes=False,
)
def look_in_vain(turn: Turn) -> None:
    """stat of 2,000 names that are not there; then of each of them ten times."""
    names = turn.count(2_000)
    for row, times in (("negative-first", 1), ("negative", 10)):
        with turn.timed(row, names * times):
            _ask_in_vain(turn, names, times)


@workload(
    Row("many-cold", "find on 200,000 files, cold dentries", MEMORY, _NEAR),
    Row("many-warm", "find on 200,000 files, warm", MEMORY, _NEAR),
    lower="many",
    changes=False,
    rounds=2,
)
def walk_many(turn: Turn) -> None:
    """find over 200,000 files by an attribute, with the daemon's memory before and after; then again."""
    turn.forget_names()
    for row in ("many-cold", "many-warm"):
        with turn.timed(row, turn.count(lowers.MANY)):
            find(turn)
