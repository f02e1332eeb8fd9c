"""The rounds: for each workload, in each round, everybody has a turn."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Callable, Optional

from benchmarks import lowers
from benchmarks.contenders import Contender
from benchmarks.results import Measured, Results
from benchmarks.stage import Stage
from benchmarks.turn import Sample, Turn
from benchmarks.workloads import Workload

_TURN_LIMIT = 600  # seconds; a file system that hangs must not hang all


def measure(workloads: Sequence[Workload], chosen: set[str], contenders: Sequence[Contender], rounds: int, scale: float) -> Results:
    """Let the contenders take turns. Ctrl-C or SIGTERM ends it early, with the rows that are complete by then.

    Arguments: `chosen`: the ids of the rows to keep. Raises BenchError if there is no place to measure in.
    """
    absent = {one.id: reason for one in contenders if (reason := one.missing())}
    present = [one for one in contenders if one.id not in absent]
    results = Results(
        _machine(), scale, rounds, {one.id: one.label for one in present}, {one.id: one.version() for one in present}, absent
    )  # fmt: skip
    with Stage(scale) as stage, _stopping_early():
        found = _make_lowers(stage, sorted({one.lower for one in workloads}))
        for number, workload in enumerate(workloads, 1):
            measured = {row.id: Measured(row) for row in workload.rows}
            for turn_round in range(min(rounds, workload.rounds)):
                names = ", ".join(row.id for row in workload.rows)
                _say(f"{number}/{len(workloads)} {names}: round {turn_round + 1}")
                shift = turn_round % len(present)
                for contender in present[shift:] + present[:shift]:
                    _take_turn(stage, workload, found[workload.lower], contender, measured)
            results.rows += [each for row, each in measured.items() if row in chosen]
    results.machine["load after"] = _load()
    return results


@contextlib.contextmanager
def _stopping_early() -> Iterator[None]:
    def stop(number: int, frame: Optional[FrameType]) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        _say("stopped early")
    finally:
        signal.signal(signal.SIGTERM, before)


def _make_lowers(stage: Stage, names: Sequence[str]) -> dict[str, list[Path]]:
    found = {}
    for name in names:
        _say(f"lower layer: {name}")
        directory = stage.lower / name
        directory.mkdir()
        found[name] = lowers.BUILDERS[name](directory, stage.scale)
    stage.seal()
    return found


def _take_turn(stage: Stage, workload: Workload, below: list[Path], contender: Contender, measured: dict[str, Measured]) -> None:
    layers = stage.layers(below, workload.changes)
    turn = Turn(contender, layers, stage.scale)
    reason = ""
    try:
        _with_limit(lambda: contender.up(layers))
        try:
            _with_limit(lambda: workload.work(turn))
        finally:
            _with_limit(lambda: contender.down(layers))
    except (OSError, subprocess.SubprocessError, ValueError, sqlite3.Error) as e:
        reason = str(e).replace(f"{layers.base}/", "") or type(e).__name__
        _say(f"  {contender.label}: {reason}")
        with contextlib.suppress(OSError):
            contender.down(layers)
    with contextlib.suppress(OSError):
        stage.discard(layers)
    for row, each in measured.items():
        sample: Optional[Sample] = turn.samples.get(row)
        each.samples.setdefault(contender.id, []).append(sample)
        if sample is None:
            each.failed[contender.id] = reason


def _with_limit(action: Callable[[], None]) -> None:
    def stop(number: int, frame: Optional[FrameType]) -> None:
        raise OSError(f"not done after {_TURN_LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_TURN_LIMIT)
    try:
        action()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _machine() -> dict[str, str]:
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) >> 20
    return {
        "kernel": platform.release().partition("-")[0],
        "architecture": platform.machine(),
        "processors": str(os.cpu_count()),
        "memory": f"{memory} GiB",
        "python": platform.python_version(),
        "load before": _load(),
    }


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
