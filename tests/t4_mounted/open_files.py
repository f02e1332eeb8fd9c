"""Have more files of a union open than its daemon may have descriptors, and read and write all of them.

python -m tests.t4_mounted.open_files --count 100000 --limit 4096

The files are opened by as many processes as their own limit makes necessary.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Optional

from tests.t4_mounted.mounted import COWROOT, Stage, staged

EACH = 10_000  # files that one process opens
IN_DIRECTORY = 1_000


def path_of(root: Path, number: int) -> Path:
    return root / str(number // IN_DIRECTORY) / str(number)


def hold(point: Path, numbers: range, told: Connection) -> None:
    """Open files, half of them of the lower; each time that we are told to, write to every second and read all."""
    failed: list[str] = []
    fds = [os.open(path_of(point, number), os.O_RDWR | os.O_CREAT) for number in numbers]
    told.send(failed)
    while told.recv():
        for number, fd in zip(numbers, fds):
            if number % 4 == 1:
                os.pwrite(fd, b"%08d" % number, 0)
            if os.pread(fd, 8, 0) not in ((b"%08d" % number,) if number % 2 == 0 or number % 4 == 1 else (b"",)):
                failed.append(f"{number} has other content")
        told.send(failed)


def open_files(stage: Stage, count: int, limit: int, options: str = "engine=direct") -> dict[str, Any]:
    """Returns figures of one such mount; what failed is among them."""
    for start in range(0, count, IN_DIRECTORY):
        (stage.lower / str(start // IN_DIRECTORY)).mkdir()
        for number in range(start, min(start + IN_DIRECTORY, count), 2):
            path_of(stage.lower, number).write_bytes(b"%08d" % number)
    # without the right to raise the limit again, which the daemon would use
    limited = ["prlimit", f"--nofile={limit}:{limit}", "setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    subprocess.run([*limited, *COWROOT, "mount", "-o", stage.options(options), str(stage.point)], check=True)
    stage.pid = stage.status()["pid"]
    context = multiprocessing.get_context("fork")
    pipes: list[Connection] = []
    for start in range(0, count, EACH):
        ours, theirs = context.Pipe()
        pipes.append(ours)
        context.Process(target=hold, args=(stage.point, range(start, min(start + EACH, count)), theirs), daemon=True).start()
    failed = [fault for pipe in pipes for fault in pipe.recv()]
    most = 0
    for _ in range(2):
        for pipe in pipes:
            pipe.send(True)
        failed = [fault for pipe in pipes for fault in pipe.recv()]
        most = max(most, len(os.listdir(f"/proc/{stage.status()['server']}/fd")))
    status = stage.status()
    for pipe in pipes:
        pipe.send(False)
    for process in multiprocessing.active_children():
        process.join()
    stage.unmount()
    return {"open": status["open_files"], "limit": limit, "descriptors": most, "rss": status["rss"], "failures": failed}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--limit", type=int, default=4096)
    parser.add_argument("--options", default="engine=direct", help="mount options")
    chosen = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * EACH), hard))
    with staged("open-") as stage:
        figures = open_files(stage, chosen.count, chosen.limit, chosen.options)
    print(json.dumps(figures, indent=2))
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
