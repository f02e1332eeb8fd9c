"""Mixed load on a union for as long as one likes, and whether its daemon stays as it was: memory, descriptors, nodes, latency.

python -m tests.t4_mounted.soak --seconds 3600 --engine direct

The load is the storm's (tests/t4_mounted/storm.py), without the kills, and walks over a larger tree that drop the kernel's caches now and
then. The first part is warm-up; after that, the last third is compared with the first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NamedTuple, Optional

from cowroot.union.check import check
from tests.t4_mounted.mounted import SECONDS, Stage, staged
from tests.t4_mounted.storm import LOWER_FILES, WORK, worker

WARM_UP = 0.25  # of the time
SAMPLES = 60
TREE = 40, 50  # directories, files in each
ALLOWED_BYTES, ALLOWED_DESCRIPTORS = 4 << 20, 16  # more than that is growth


class Sample(NamedTuple):
    """What the serving process had at one time; bytes, and milliseconds."""

    rss: int
    descriptors: int
    nodes: int
    open_files: int
    p99: float


def walks(point: Path, chance: random.Random) -> None:
    """Read a part of a larger tree; now and then have the kernel forget names and attributes."""
    place = point.parent / "tree" / str(chance.randrange(TREE[0]))
    for path in place.iterdir():
        assert path.read_text() == path.name
    if chance.random() < 0.02:
        Path("/proc/sys/vm/drop_caches").write_text("2")


def prober(point: Path, ended: Synchronized[int], times: Any) -> None:
    """Ask for something that no cache knows; tell how long it took."""
    number = 0
    while not ended.value:
        began = time.monotonic()
        number += 1
        os.path.lexists(point / f"nothing{number}")
        times.put((time.monotonic() - began) * 1000)
        time.sleep(0.02)


def soak(stage: Stage, seconds: float, engine: str) -> dict[str, Any]:
    """Put load on a stage that is not mounted yet. Returns figures; what failed is among them."""
    for number in range(LOWER_FILES):
        (stage.lower / f"lower{number}").write_bytes(b"x" * (number * 97))
    for directory in range(TREE[0]):
        (stage.lower / "tree" / str(directory)).mkdir(parents=True)
        for number in range(TREE[1]):
            (stage.lower / "tree" / str(directory) / str(number)).write_text(str(number))
    point = stage.mount(f"engine={engine}")
    context = multiprocessing.get_context("fork")
    ended, rounds = context.Value("i", 0), context.Value("i", 0)
    failures, times = context.Queue(), context.Queue()
    crew = [
        context.Process(target=worker, args=(work, point, seed, ended, rounds, failures)) for seed, work in enumerate((*WORK, walks))
    ]
    crew.append(context.Process(target=prober, args=(point, ended, times)))
    for process in crew:
        process.start()
    samples = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and failures.empty():
        time.sleep(seconds / SAMPLES)
        samples.append(_sample(stage, times))
    ended.value = 1
    while any(process.is_alive() for process in crew) and time.monotonic() < deadline + SECONDS:
        _taken(times)  # what a queue still holds would keep its writer
        time.sleep(0.1)
    failed = [f"{process.name} hangs" for process in crew if process.is_alive()]
    for process in crew:
        process.kill()
    while not failures.empty():
        failed.append(failures.get())
    status = stage.status()
    stage.unmount()
    upper, work_directory = os.fsencode(stage.upper), os.fsencode(stage.work)
    failed += [f"cowroot check: {p.path}: {p.what}" for p in check(upper, work_directory, (os.fsencode(stage.lower),))]
    figures = _compared(samples, failed)
    requests = sum(status["requests"].values())
    return {"engine": engine, "seconds": seconds, "rounds": rounds.value, "requests": requests, **figures, "failures": failed}


def _taken(times: Any) -> list[float]:
    taken = []
    while not times.empty():
        taken.append(times.get())
    return taken


def _sample(stage: Stage, times: Any) -> Sample:
    status = stage.status()
    server = status["server"]
    taken = sorted(_taken(times)) or [0.0]
    p99 = taken[int(len(taken) * 0.99)]
    return Sample(status["rss"], len(os.listdir(f"/proc/{server}/fd")), status["nodes"], status["open_files"], p99)


def _compared(samples: list[Sample], failed: list[str]) -> dict[str, Any]:
    """The medians of the first third after the warm-up, and of the last; what grew is added to `failed`."""
    samples = samples[int(len(samples) * WARM_UP) :]
    third = max(1, len(samples) // 3)
    first, last = (
        Sample(*(statistics.median(values) for values in zip(*part))) for part in (samples[:third], samples[-third:])
    )
    if last.rss > first.rss + ALLOWED_BYTES:
        failed.append(f"memory grew from {first.rss} to {last.rss} bytes")
    if last.descriptors > first.descriptors + ALLOWED_DESCRIPTORS:
        failed.append(f"descriptors grew from {first.descriptors} to {last.descriptors}")
    return {name: [round(getattr(first, name), 2), round(getattr(last, name), 2)] for name in Sample._fields}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--engine", choices=("direct", "fusepy"), default="direct")
    chosen = parser.parse_args(arguments)
    with staged("soak-") as stage:
        figures = soak(stage, chosen.seconds, chosen.engine)
    print(json.dumps(figures, indent=2))
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
