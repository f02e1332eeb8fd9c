"""Whether it costs more when there is more of it: layers, entries in a directory, directories above a file."""

from __future__ import annotations

import os

from benchmarks import lowers
from benchmarks.turn import Turn
from benchmarks.workloads import DEPTH, DIRECTORIES, LAYERS, Row, workload

_AGAIN = 20  # times that something short is done when it is known already


def _stat(paths: list[str], times: int = 1) -> None:
    for _ in range(times):
        for path in paths:
            os.stat(path)


def _with_layers(layers: int) -> None:
    cold, warm = f"layers-cold-{layers}", f"layers-warm-{layers}"

    @workload(
        Row(cold, "stat, cold", LAYERS, None, layers), Row(warm, "stat, warm", LAYERS, None, layers),
        lower=f"layered{layers}", changes=False, rounds=2,
    )  # fmt: skip
    def look_up(turn: Turn) -> None:
        """stat of 5,000 files that are spread over the layers; then again."""
        each, numbers = lowers.FILES_EACH, range(turn.count(lowers.LAYERED))
        paths = [f"{turn.point}/d{number // each:02}/file{number % each:02}" for number in numbers]
        turn.forget_names()
        for row in (cold, warm):
            with turn.timed(row, len(paths)):
                _stat(paths)


def _with_entries(entries: int) -> None:
    cold, warm, name = (f"{what}-{entries}" for what in ("list-cold", "list-warm", "entry"))

    @workload(
        Row(cold, "list, cold, by entry", DIRECTORIES, None, entries), Row(warm, "list, warm, by entry", DIRECTORIES, None, entries),
        Row(name, "create and remove one", DIRECTORIES, None, entries), lower=f"wide{entries}", rounds=2,
    )  # fmt: skip
    def look_into(turn: Turn) -> None:
        """List a directory, list it again, and make and remove twenty files in it."""
        directory = os.fspath(turn.point / "wide")
        times = max(1, 1_000 // entries)
        turn.forget_names()
        with turn.timed(cold, entries):
            found = os.listdir(directory)
        if len(found) != entries:
            raise OSError(f"{len(found)} entries instead of {entries}")
        with turn.timed(warm, entries * times):
            for _ in range(times):
                os.listdir(directory)
        with turn.timed(name, _AGAIN):
            for number in range(_AGAIN):
                path = f"{directory}/new{number}"
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                os.unlink(path)


def _with_depth(depth: int) -> None:
    cold, warm = f"depth-cold-{depth}", f"depth-warm-{depth}"

    @workload(Row(cold, "stat, cold", DEPTH, None, depth), Row(warm, "stat, warm", DEPTH, None, depth), lower=f"deep{depth}", changes=False)
    def descend(turn: Turn) -> None:
        """stat of fifty files, each at the end of its own chain of directories; then twenty times more."""
        paths = [f"{turn.point}/{lowers.deep_path(number, depth)}" for number in range(lowers.CHAINS)]
        turn.forget_names()
        for row, times in ((cold, 1), (warm, _AGAIN)):
            with turn.timed(row, len(paths) * times):
                _stat(paths, times)


for _layers in (1, 4, 16):
    _with_layers(_layers)
for _entries in (10, 100, 1_000, 10_000, 100_000):
    _with_entries(_entries)
for _depth in (1, 4, 16, 64):
    _with_depth(_depth)
