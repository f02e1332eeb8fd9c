"""Power-off endurance: boot the appliance again and again, power it off under file load, and count the clean ends.

``python -m tests.t6_boot.poweroffs --count 100`` (some twenty seconds each on an idle machine). A clean end is one
that comes by itself, within the limit, without a word on the console about something that had to be waited for or stayed mounted.
Exit code 0 if all were clean. The consoles of the others stay in .cache/poweroffs/.
"""
from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.t6_boot import disk, image, uml
from tests.t6_boot.disk import BuildError
from tests.t6_boot.image import CHECKOUT, Image
from tests.t6_boot.machine import BootError, attend, clean_up_on_sigterm

KEPT = CHECKOUT / ".cache/poweroffs"
# Every second boot has its upper on a disk: there, the shutdown has something to write back and to leave in order.
UPPERS = ("memory", "disk")
ENGINES = ("fusepy", "direct")


def endure(appliance: Image, count: int, limit: float, kept: Path, engines: Sequence[str] = ENGINES) -> int:
    """Boot and power off ``count`` times, each end within ``limit`` seconds; return how many were clean. One printed line for each.

    Uppers and engines take turns: each four boots have all of their combinations.
    """
    kept.mkdir(parents=True, exist_ok=True)
    clean = 0
    for number in range(1, count + 1):
        upper, engine = UPPERS[number % 2], engines[number // 2 % len(engines)]
        with tempfile.TemporaryDirectory(prefix="cowroot-poweroff-") as place:
            complaint = _once(appliance, upper, engine, Path(place), limit)
            if complaint:
                console = kept / f"{number}.log"
                shutil.copy(Path(place) / "console.log", console)
                complaint += f" ({console})"
            else:
                clean += 1
        print(f"power-off {number} of {count}, {engine}, upper in {upper}: {complaint or 'clean'}; {clean} clean so far", flush=True)
    return clean


def _once(appliance: Image, upper: str, engine: str, place: Path, limit: float) -> str:
    """Boot, put load on the files, power off; return what was not clean, or nothing."""
    writable, parameters = [], [f"cowroot.engine={engine}"]
    if upper == "disk":
        writable.append(disk.make_data_disk(place / "upper.img", 256, "upper"))
        parameters.append("cowroot.upper=LABEL=upper")
    try:
        with uml.start(appliance, "load", place, writable=writable, parameters=parameters) as machine:
            ended = attend(machine, limit=300, ending_limit=limit)
    except BootError as error:
        return str(error).splitlines()[0]
    if not ended.passed:
        return ended.reason
    return "; ".join(ended.complaints())


def main() -> int:
    """Count clean power-offs as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--limit", type=float, default=60, metavar="SECONDS", help="for one power-off; a hang, not a measure")
    parser.add_argument("--engine", choices=ENGINES, help="this one only; default: both in turns")
    options = parser.parse_args()
    engines = (options.engine,) if options.engine else ENGINES
    clean_up_on_sigterm()
    shutil.rmtree(KEPT, ignore_errors=True)
    try:
        clean = endure(image.installed(), options.count, options.limit, KEPT, engines)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{clean} of {options.count} power-offs were clean")
    return 0 if clean == options.count else 1


if __name__ == "__main__":
    sys.exit(main())
