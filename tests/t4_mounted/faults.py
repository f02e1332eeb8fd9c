"""Mounted unions whose layers lie on a disk that fails.

    python -m tests.t4_mounted.faults [--engine ENGINE]… [--every N]

Each kind of operation is made on a fresh union again and again, with the first, the second, … of the requests that it makes to the disk
failing once, until none is left to fail: who asked is told, and for the rest nothing has happened, or all of it. (The same for the core, by
system calls, is in tests/t1_union/test_failing_calls.py.)
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from cowroot.fuse import control
from tests.behaviour.backends import wait_for_daemon
from tests.behaviour.filesystem import MountedFileSystem
from tests.t1_union.test_failing_calls import OPERATIONS, Ground, differences, shown
from tests.t4_mounted.faulty import ALL, ALLOCATING, CHANGING, FaultyDisk
from tests.t4_mounted.mounted import run, wait_until

ENTRY = Path(control.__file__).with_name("entry.py")  # of the daemon
ENGINES = ("direct", "direct,protocol=7.39", "fusepy")
KINDS = {"error": (ALL, errno.EIO), "full": (ALLOCATING, errno.ENOSPC), "read-only": (CHANGING, errno.EROFS)}
Shown = dict[bytes, tuple[object, ...]]


class MountedGround:
    """Layers with something of each kind on the disk, and a union over them."""

    def __init__(self, disk: FaultyDisk, name: str, engine: str) -> None:
        self.real = Ground(disk.directory / name)
        self._shown, self._engine = disk.point / name, engine
        self.point = disk.directory.parent / "union"
        self.point.mkdir(exist_ok=True)

    def mount(self) -> MountedFileSystem:
        places = (self._shown / name for name in ("lower", "upper", "work"))
        options = "lowerdir={},upperdir={},workdir={},engine={},control={}".format(*places, self._engine, self.point.parent)
        run(sys.executable, ENTRY, "--boot", 30, options, self.point)
        wait_until(self._is_settled, "the reserve is taken")
        return MountedFileSystem(os.fsencode(self.point))

    def _is_settled(self) -> bool:
        """The daemon asks the disk for nothing more of its own accord."""
        device = os.stat(self.point).st_dev
        reserve = control.ask(self.point.parent / f"{os.major(device)}:{os.minor(device)}.sock")["reserve"]
        return bool(reserve["size"] == reserve["held"])

    def unmount(self) -> None:
        run("umount", self.point)
        wait_for_daemon(os.fsencode(self._shown / "work"))  # a lock in the one is none in the other

    def remnants(self) -> list[str]:
        return [entry for place in ("tmp", "orphans") for entry in os.listdir(self.real.work / "cowroot" / place)]


class Trial:
    """One operation, one engine, one kind of failure."""

    def __init__(self, disk: FaultyDisk, engine: str, operation: str, kind: str) -> None:
        self._disk, self._engine, self._operation = disk, engine, OPERATIONS[operation]
        self._requests, self._number = KINDS[kind]
        self._name = f"{engine}-{operation}-{kind}".replace(" ", "-").replace(",", "-")
        ground = MountedGround(disk, f"{self._name}-whole", engine)
        fs = ground.mount()
        self._before = shown(fs)
        self._operation(fs)
        self._after = shown(fs)
        ground.unmount()
        shutil.rmtree(ground.real.lower.parent)

    def fails(self, number: int) -> tuple[bool, list[str]]:
        """Have the request `number` of the operation fail. Returns whether there was one, and what is wrong then."""
        ground = MountedGround(self._disk, f"{self._name}-{number}", self._engine)
        fs = ground.mount()
        wrong, error = [], None
        try:
            with self._disk.failing(self._requests, self._number, number, 1):
                try:
                    self._operation(fs)
                except OSError as e:
                    error = e
                os.statvfs(ground.point)
                made = self._disk.failed == 1
            now = shown(fs)
            if error is None:
                wrong += [f"done, but: {each}" for each in differences(self._after, now)]
            else:
                if error.errno != self._number:
                    wrong.append(f"the caller is told {error}")
                if now != self._before and (self._number == errno.ENOSPC or now != self._after):
                    wrong += [f"failed, but: {each}" for each in differences(self._before, now)]
                if self._number == errno.ENOSPC and ground.remnants():
                    wrong.append(f"left behind: {ground.remnants()}")
        finally:
            ground.unmount()
        wrong += [f"check: {each}" for each in ground.real.faults()]
        again = ground.real.mount()
        wrong += [f"after a mount: {each}" for each in differences(now, shown(again))]
        again.shut_down()
        shutil.rmtree(ground.real.lower.parent)
        return made, wrong


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Have each request to the disk fail, in each kind of operation.")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="all, if none is named")
    parser.add_argument("--kind", action="append", choices=KINDS, help="what fails, and how; all, if none is named")
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="all, if none is named")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th request")
    options = parser.parse_args(arguments)
    tries = failed = 0
    with tempfile.TemporaryDirectory(prefix="cowroot-faults-") as directory:
        for engine in options.engine or ENGINES:
            for kind in options.kind or KINDS:
                for operation in options.operation or OPERATIONS:
                    with FaultyDisk(Path(directory, "disk"), Path(directory, "shown")) as disk:
                        trial = Trial(disk, engine, operation, kind)
                        number, there = 0, True
                        while there:
                            there, wrong = trial.fails(number)
                            tries += there
                            failed += bool(wrong)
                            for each in wrong:
                                print(f"{engine}, {operation}, {kind}, request {number}: {each}", flush=True)
                            number += options.every
            print(f"{engine}: {tries} failures so far, {failed} wrong", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
