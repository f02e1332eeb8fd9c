"""What is timed. A workload is a function that works on a mounted union and times one row or several; its doc line says what they are.

Importing `benchmarks.workloads.all_workloads` brings all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

from benchmarks.turn import Turn

FILES, DATA, TOOLS, MEMORY, LAYERS, DIRECTORIES, DEPTH = "files", "data", "tools", "memory", "layers", "directories", "depth"
GROUPS = {
    FILES: "Files and names", DATA: "Data", TOOLS: "Programs", MEMORY: "Many files", LAYERS: "Number of lower layers",
    DIRECTORIES: "Entries of a directory", DEPTH: "Depth of the tree",
}  # fmt: skip
SERIES = (LAYERS, DIRECTORIES, DEPTH)  # groups in which the same is done to something larger and larger


@dataclass(frozen=True)
class Row:
    """One line of the tables. `goal`: the ratio to overlayfs that the direct engine is to stay below; `step`: how large, in a series."""

    id: str
    title: str
    group: str
    goal: Optional[float] = 4.0
    step: Optional[int] = None


@dataclass(frozen=True)
class Workload:
    """`lower`: what lies below, see `lowers.BUILDERS`; `changes`: it writes; `rounds`: the most of them that are worth their time."""

    rows: tuple[Row, ...]
    lower: str
    changes: bool
    rounds: int
    work: Callable[[Turn], None]


WORKLOADS: list[Workload] = []


def workload(
    *rows: Row, lower: str = "tree", changes: bool = True, rounds: int = 99
) -> Callable[[Callable[[Turn], None]], Callable[[Turn], None]]:
    """Register a function that times these rows."""

    def register(work: Callable[[Turn], None]) -> Callable[[Turn], None]:
        WORKLOADS.append(Workload(rows, lower, changes, rounds, work))
        return work

    return register


def all_workloads() -> list[Workload]:
    """Every workload, in the order of the tables."""
    from benchmarks.workloads import data, names, reading, series, tools  # they register themselves

    groups, modules = list(GROUPS), [module.__name__ for module in (reading, names, data, tools, series)]
    return sorted(WORKLOADS, key=lambda one: (groups.index(one.rows[0].group), modules.index(one.work.__module__)))
