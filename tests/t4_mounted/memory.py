"""A daemon, and a program that writes through a large mapping, with little memory for both.

    python -m tests.t4_mounted.memory [--engine ENGINE]… [--rounds N] [--mib N] [--limit N]

Both are in one memory control group (cgroup v1 or v2) with less memory than the mapping has. The kernel must free memory for the daemon,
for which it must write dirty pages, for which the daemon must go on. After half a minute without an end the mount is aborted: it stood
still. Until then whoever looks at the daemon's memory, ps(1) for instance, may wait, too.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from tests.t4_mounted.mounted import COWROOT, Stage, staged

PATIENCE = 30.0  # seconds
ENGINES = ("direct", "direct,protocol=7.39", "fusepy")
_WRITE = """
import mmap, sys
size = int(sys.argv[2]) << 20
with open(sys.argv[1], "w+b") as file:
    file.truncate(size)
    with mmap.mmap(file.fileno(), size) as mapping:
        for at in range(0, size, 4096):
            mapping[at : at + 8] = at.to_bytes(8, "little")
"""


class Group:
    """A memory control group with a limit. Who is in it when it ends must be gone."""

    def __init__(self, mib: int) -> None:
        is_old = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
        top = Path("/sys/fs/cgroup/memory" if is_old else "/sys/fs/cgroup")
        self._place = top / f"cowroot-test-{os.getpid()}"
        self._place.mkdir()
        (self._place / ("memory.limit_in_bytes" if is_old else "memory.max")).write_text(str(mib << 20))

    def enter(self) -> None:
        """Be in it from now on, and all that is started."""
        (self._place / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                self._place.rmdir()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def is_possible() -> bool:
    """True if this machine has such groups, and we may make one."""
    try:
        Group(64).remove()
    except OSError:
        return False
    return True


class Round(NamedTuple):
    """How one went: `seconds`; `ended`: by itself; `killed`: the program was, for want of memory; `whole`: all that it wrote is there."""

    seconds: float
    ended: bool
    killed: bool
    whole: bool


def attempt(stage: Stage, engine: str, mib: int, limit: int) -> Round:
    """One round: a mapping of `mib` MiB is written, with `limit` MiB of memory."""
    group = Group(limit)
    try:
        command = [*COWROOT, "mount", "-o", stage.options(f"engine={engine}"), os.fspath(stage.point)]
        subprocess.run(command, preexec_fn=group.enter, check=True)
        file = stage.point / "file"
        abort = Path(f"/sys/fs/fuse/connections/{os.minor(stage.point.stat().st_dev)}/abort")
        stage.pid = stage.status()["pid"]
        began = time.monotonic()
        program = subprocess.Popen([sys.executable, "-c", _WRITE, file, str(mib)], preexec_fn=group.enter)
        try:
            code = program.wait(PATIENCE)
            with subprocess.Popen(["sync", "-d", file]) as sync:
                sync.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            print(*_stacks(stage.pid, program.pid), sep="\n", file=sys.stderr)
            abort.write_text("1")
            program.kill()
            program.wait()
            return Round(time.monotonic() - began, False, False, False)
        return Round(time.monotonic() - began, True, code < 0, code == 0 and _digest(file) == _expected(mib))
    finally:
        stage.clean_up()
        group.remove()


def _stacks(*processes: int) -> list[str]:
    """Where the threads of the processes, and of their children, wait in the kernel."""
    found = []
    for process in processes:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for each in (str(process), *children):
            for task in Path(f"/proc/{each}/task").iterdir():
                with contextlib.suppress(OSError):
                    found.append(f"{(task / 'comm').read_text().strip()} {task.name}: {' '.join((task / 'stack').read_text().split())}")
    return found


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _expected(mib: int) -> str:
    digest = hashlib.sha256()
    for at in range(0, mib << 20, 4096):
        digest.update(at.to_bytes(8, "little") + bytes(4088))
    return digest.hexdigest()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="A daemon and a large mapping in little memory.")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="all, if none is named")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--mib", type=int, default=200, help="that are mapped")
    parser.add_argument("--limit", type=int, default=64, help="MiB of memory for both")
    options = parser.parse_args(arguments)
    failed = 0
    for engine in options.engine or ENGINES:
        rounds = []
        for _ in range(options.rounds):
            with staged("memory-") as stage:
                rounds.append(attempt(stage, engine, options.mib, options.limit))
        still = sum(not each.ended for each in rounds)
        killed = sum(each.killed for each in rounds)
        wrong = sum(each.ended and not each.killed and not each.whole for each in rounds)
        seconds = [each.seconds for each in rounds if each.ended]
        most = f", {min(seconds):.1f} to {max(seconds):.1f} s" if seconds else ""
        print(f"{engine}: {len(rounds)} rounds, {still} stood still, {killed} killed, {wrong} wrong{most}", flush=True)
        failed += still + wrong
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
