"""One contender's turn at one workload: where it works, how much of it there is, and what is timed."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from benchmarks import lowers
from benchmarks.contenders import Contender, Meter
from benchmarks.stage import Layers, drop_caches


@dataclass(frozen=True)
class Sample:
    """One row, timed once. `cpu`: of the daemon, in seconds; `memory`: what it has before and after, in bytes."""

    seconds: float
    operations: int
    cpu: Optional[float]
    memory: Optional[tuple[int, int]]
    requests: Optional[dict[str, int]]


class Turn:
    """`point` is the mounted union."""

    def __init__(self, contender: Contender, layers: Layers, scale: float) -> None:
        self._contender = contender
        self._layers = layers
        self._scale = scale
        self.point: Path = layers.point
        self.samples: dict[str, Sample] = {}

    def count(self, full: int) -> int:
        """How many of what would be `full` at scale 1."""
        return lowers.count(full, self._scale)

    def mebibytes(self, full: int) -> int:
        """How many MiB of what would be `full` at scale 1."""
        return max(1, int(full * self._scale))

    def files(self, directories: Optional[range] = None) -> list[str]:
        """The paths of the files of the lower `tree`, or of those of its first so many files that a range says."""
        each = lowers.FILES_EACH
        numbers = directories if directories is not None else range(self.count(lowers.FILES))
        return [f"{self.point}/d{number // each:03}/file{number % each:02}" for number in numbers]

    def forget_names(self) -> None:
        """The kernel keeps no name and no inode."""
        drop_caches(names_only=True)

    def forget_all(self) -> None:
        """Nor any file's content."""
        drop_caches(names_only=False)

    @contextlib.contextmanager
    def timed(self, row: str, operations: int) -> Iterator[None]:
        """Time what is done in this context for `row`; it consists of so many operations."""
        before = self._contender.meter(self._layers)
        gc.disable()
        began = time.perf_counter()
        try:
            yield
            seconds = time.perf_counter() - began
        finally:
            gc.enable()
        after = self._contender.meter(self._layers)
        self.samples[row] = Sample(seconds, operations, _cpu(before, after), _memory(before, after), _requests(before, after))


def _cpu(before: Meter, after: Meter) -> Optional[float]:
    return after.cpu - before.cpu if before.cpu is not None and after.cpu is not None else None


def _memory(before: Meter, after: Meter) -> Optional[tuple[int, int]]:
    return (before.memory, after.memory) if before.memory is not None and after.memory is not None else None


def _requests(before: Meter, after: Meter) -> Optional[dict[str, int]]:
    if before.requests is None or after.requests is None:
        return None
    counts = {name: count - before.requests.get(name, 0) for name, count in after.requests.items()}
    return {name: count for name, count in counts.items() if count}
