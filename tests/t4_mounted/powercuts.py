"""Cut the power of the disk that a union's upper lies on, at random moments, and see whether what was promised is there.

python -m tests.t4_mounted.powercuts --cuts 200

Several programs work on the union while all that is written to the upper's device is recorded (recording.py). For each cut a disk is made
that holds what was flushed before it, and some of the rest. It is mounted, checked, a union is mounted over it, and each work is judged
(cutwork.py). `--engine none` works on the file system itself, which shows what it promises; `--engine overlayfs` on the kernel's union.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Optional

from cowroot.install.namespace import private_mounts
from cowroot.union.check import Problem, check
from tests.behaviour.backends import mount_image
from tests.t4_mounted.cutwork import WORKS, Work
from tests.t4_mounted.mounted import COWROOT, run
from tests.t4_mounted.recording import RecordingDisk, copy, unmount

LEFT = "left from a"  # how the check describes what every crash may leave, and the next mount removes


class Stage:
    """A file system at `disk` with an upper and a work directory, over a `lower`, and where to see the result."""

    def __init__(self, base: Path, lower: Path, disk: Path, engine: str) -> None:
        self.lower, self.disk, self.engine = lower, disk, engine
        self.upper, self.work = disk / "upper", disk / "work"
        self.point = disk / "tree" if engine == "none" else base / "union"

    def prepare(self) -> None:
        """On a new file system."""
        if self.engine == "none":
            run("cp", "-a", self.lower, self.point)
        else:
            self.upper.mkdir()
            self.work.mkdir()
        os.sync()

    def mount(self) -> None:
        if self.engine == "none":
            return
        self.point.mkdir(exist_ok=True)
        options = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"
        if self.engine == "overlayfs":
            run("mount", "-t", "overlay", "-o", f"{options},redirect_dir=on,index=on,metacopy=on", "overlay", self.point)
        else:
            run(*COWROOT, "mount", "-o", f"{options},engine={self.engine}", self.point)

    def unmount(self) -> None:
        if self.engine != "none":
            run("umount", self.point)

    def problems(self) -> Iterator[Problem]:
        """What `cowroot check` finds; what can be repaired is."""
        if self.engine in ("direct", "fusepy"):
            for problem in check(os.fsencode(self.upper), os.fsencode(self.work), (os.fsencode(self.lower),)):
                if problem.repair is not None and LEFT not in problem.what:  # that is for the mount to remove
                    problem.repair()
                    problem.repaired = True
                yield problem


def labour(work: Work, here: Path, seed: int, ended: Any, results: Queue[tuple[str, Any]]) -> None:
    """Work until the end is asked for, and hand over what was noted."""
    chance = random.Random(seed)
    try:
        while not ended.value:
            work.step(here, chance)
    except Exception as error:
        results.put((work.name, f"{type(error).__name__}: {error}"))
        return
    kept = {name: value for name, value in vars(work).items() if name not in ("clock", "_database")}
    for value in kept.values():
        for history in value if isinstance(value, list) else [value]:
            history._clock = None
    results.put((work.name, kept))


def work_on(stage: Stage, works: list[Work], seconds: float, seed: int) -> list[str]:
    """Have all works done at once for a time; what was noted is in them afterwards. Returns what failed."""
    context = multiprocessing.get_context("fork")
    ended, results = context.Value("i", 0), context.Queue()
    crew = [context.Process(target=labour, args=(work, stage.point / work.name, seed, ended, results)) for work in works]
    for process in crew:
        process.start()
    time.sleep(seconds)
    ended.value = 1
    failed = []
    for _ in crew:
        name, noted = results.get(timeout=60)
        if isinstance(noted, str):
            failed.append(f"{name}: {noted}")
            continue
        vars(next(work for work in works if work.name == name)).update(noted)
    for process in crew:
        process.join()
    return failed


def judge(base: Path, lower: Path, image: Path, cut: int, works: list[Work], engine: str) -> tuple[list[str], int, int]:
    """Bring up what a cut has left. Returns what is wrong, how much was left in the work directory, how much had to be repaired."""
    mounted = base / "after"
    mounted.mkdir(exist_ok=True)
    mount_image(os.fsencode(image), os.fsencode(mounted), "rw")
    stage = Stage(base, lower, mounted, engine)
    try:
        found = list(stage.problems())
        wrong = [f"cowroot check: {each.path}: {each.what}" for each in found if LEFT not in each.what and not each.repaired]
        stage.mount()
        try:
            if engine in ("direct", "fusepy"):
                for name in ("tmp", "orphans"):
                    wrong += [f"work/cowroot/{name} has {each}" for each in os.listdir(stage.work / "cowroot" / name)]
            for work in works:
                try:
                    wrong += [f"{work.name}: {each}" for each in work.judge(stage.point / work.name, cut)]
                except OSError as error:
                    wrong.append(f"{work.name}: {error}")
        finally:
            stage.unmount()
    finally:
        unmount(mounted)
    return wrong, sum(LEFT in each.what for each in found), sum(each.repaired for each in found)


def cuts(base: Path, count: int, kind: str, engine: str, seed: int, seconds: float, keep: Optional[Path] = None) -> dict[str, Any]:
    """Record one stretch of work and cut it `count` times. Returns figures; what is wrong is among them."""
    lower = base / "lower"
    disk = RecordingDisk(base, kind)
    works = [make(disk.clock) for make in WORKS]
    for work in works:
        (lower / work.name).mkdir(parents=True)
        work.prepare(lower / work.name)
    with disk:
        stage = Stage(base, lower, disk.mounted, engine)
        stage.prepare()
        stage.mount()
        try:
            began = disk.clock.now()
            wrong = work_on(stage, works, seconds, seed)
            end = disk.clock.now()
        finally:
            stage.unmount()
    record = disk.record()
    chance = random.Random(seed)
    left = repaired = at_risk = 0
    for moment in record.moments(count, began, end, chance):
        at_risk += record.cut(moment, chance, base / "cut.image")
        if keep is not None:
            copy(base / "cut.image", base / "kept.image")
        found, some, others = judge(base, lower, base / "cut.image", moment, works, engine)
        if found and keep is not None:
            copy(base / "kept.image", keep / f"cut{moment}.image")
        wrong += [f"cut at {moment}: {each}" for each in found]
        left, repaired = left + some, repaired + others
    record.close()
    return {
        "cuts": count, "writes": end - began, "flushes": record.flushes, "at_risk": at_risk,
        "left_in_work": left, "repaired": repaired, "wrong": wrong,
    }  # fmt: skip


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--stretch", type=int, default=50, metavar="N", help="record anew after so many cuts (default 50)")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each recording is (default 8)")
    parser.add_argument("--kind", choices=("ext4", "xfs", "btrfs"), default="ext4", help="the upper's file system")
    parser.add_argument("--engine", choices=("direct", "fusepy", "overlayfs", "none"), default="direct")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy the disks on which something is wrong there")
    chosen = parser.parse_args(arguments)
    total: dict[str, Any] = {}
    while total.get("cuts", 0) < chosen.cuts:
        count = min(chosen.stretch, chosen.cuts - total.get("cuts", 0))
        # in a namespace of its own, for one that is made by somebody else meanwhile would have copies of the mounts, and keep them busy
        with private_mounts(), tempfile.TemporaryDirectory(prefix="cowroot-cuts-") as directory:
            seed = chosen.seed + total.get("cuts", 0)
            figures = cuts(Path(directory), count, chosen.kind, chosen.engine, seed, chosen.seconds, chosen.keep)
        for name, value in figures.items():
            total[name] = total.get(name, type(value)()) + value
        for each in figures["wrong"]:
            print(each, file=sys.stderr, flush=True)
    print(json.dumps({**total, "wrong": len(total["wrong"])}, indent=2))
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
