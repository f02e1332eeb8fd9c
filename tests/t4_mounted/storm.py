"""Kill the server of a union again and again while programs work on it, and see whether they notice.

python -m tests.t4_mounted.storm --kills 1000
python -m tests.t4_mounted.storm --restarts 100    restart the daemon instead

Each worker keeps a model of what it has written and compares; the longest time that a stat(2) took is the longest pause.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from mmap import mmap
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Callable, Optional

from cowroot.fuse import restarting
from cowroot.union.check import check
from tests.t4_mounted.mounted import SECONDS, Stage, staged

LOWER_FILES = 200
GAP_SECONDS = (0.005, 0.08)  # between two kills


def files(point: Path, chance: random.Random) -> None:
    """Create, rename over one another, link, read back and remove."""
    content: dict[str, bytes] = {}
    for _ in range(40):
        name = f"file{chance.randrange(12)}"
        action = chance.randrange(4)
        if action == 0:
            content[name] = chance.randbytes(chance.randrange(20000))
            (point / name).write_bytes(content[name])
        elif action == 1 and name in content:
            other = f"file{chance.randrange(12)}"
            (point / name).rename(point / other)
            content[other] = content.pop(name)
        elif action == 2 and name in content:
            (point / name).unlink()
            del content[name]
        elif name in content:
            assert (point / name).read_bytes() == content[name], name
    assert {path.name for path in point.iterdir()} == set(content)
    for name, expected in content.items():
        assert (point / name).read_bytes() == expected, name
        (point / name).unlink()


def copy_ups(point: Path, chance: random.Random) -> None:
    """Change files of the lower through a descriptor, of which another one sees it, also when the name has gone."""
    path = point / f"lower{chance.randrange(LOWER_FILES)}"
    if not path.exists():
        path.write_bytes(b"again")
    with open(path, "rb") as reader, open(path, "r+b") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.seek(0, os.SEEK_END)
        writer.write(b"appended")
        writer.flush()
        path.unlink()
        assert os.pread(reader.fileno(), 100, size) == b"appended"
        assert os.fstat(reader.fileno()).st_nlink == 0


def mappings(point: Path, chance: random.Random) -> None:
    """Write through a mapping, read through a descriptor."""
    path = point / "mapped"
    path.write_bytes(bytes(65536))
    with open(path, "r+b") as file, mmap(file.fileno(), 0) as memory:
        for _ in range(20):
            place, value = chance.randrange(65536), chance.randrange(256)
            memory[place] = value
            memory.flush()
            assert os.pread(file.fileno(), 1, place) == bytes([value])
    path.unlink()


def transactions(point: Path, chance: random.Random) -> None:
    """SQLite in WAL mode: locks, mappings, fsync."""
    with sqlite3.connect(point / "database", timeout=30) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table if not exists sums (number integer)")
        before = database.execute("select count(*) from sums").fetchone()[0]
        for number in range(10):
            with database:
                database.execute("insert into sums values (?)", (number,))
        assert database.execute("select count(*) from sums").fetchone()[0] == before + 10
        assert database.execute("pragma integrity_check").fetchone()[0] == "ok"
    database.close()


Work = Callable[[Path, random.Random], None]
WORK: tuple[Work, ...] = (files, copy_ups, mappings, transactions)


def worker(work: Work, point: Path, seed: int, ended: Synchronized[int], rounds: Synchronized[int], failures: Any) -> None:
    """Do this work until the end, in a directory of its own."""
    chance = random.Random(seed)
    if work is not copy_ups:
        point = point / work.__name__
        point.mkdir()
    while not ended.value:
        try:
            work(point, chance)
        except Exception as error:
            failures.put(f"{work.__name__}: {type(error).__name__}: {error}")
            return
        with rounds.get_lock():
            rounds.value += 1


def prober(point: Path, ended: Synchronized[int], longest: Synchronized[float]) -> None:
    """Ask for something that no cache knows, all the time; note the longest that it took."""
    number = 0
    while not ended.value:
        began = time.monotonic()
        number += 1
        os.path.lexists(point / f"nothing{number}")
        longest.value = max(longest.value, time.monotonic() - began)
        time.sleep(0.001)


def restart(stage: Stage) -> None:
    restarting.restart(os.fspath(stage.point))


def kill(stage: Stage) -> None:
    os.kill(stage.status()["server"], signal.SIGKILL)


def storm(stage: Stage, kills: int, options: str = "", strike: Callable[[Stage], object] = kill) -> dict[str, Any]:
    """Make the storm on a stage that is not mounted yet: have `strike` do its worst `kills` times.

    Returns figures; what failed is among them.
    """
    for number in range(LOWER_FILES):
        (stage.lower / f"lower{number}").write_bytes(b"x" * (number * 97))
    point = stage.mount("engine=direct", *filter(None, [options]))
    context = multiprocessing.get_context("fork")
    ended, rounds, longest = context.Value("i", 0), context.Value("i", 0), context.Value("d", 0.0)
    failures = context.Queue()
    crew = [context.Process(target=worker, args=(work, point, seed, ended, rounds, failures)) for seed, work in enumerate(WORK)]
    crew.append(context.Process(target=prober, args=(point, ended, longest)))
    for process in crew:
        process.start()
    chance = random.Random(kills)
    made = 0
    while made < kills and failures.empty():
        time.sleep(chance.uniform(*GAP_SECONDS))
        strike(stage)
        made += 1
    ended.value = 1
    for process in crew:
        process.join(SECONDS)
    failed = [f"{process.name} hangs" for process in crew if process.is_alive()]
    for process in crew:
        process.kill()
    while not failures.empty():
        failed.append(failures.get())
    survived = stage.status()["generation"]
    stage.unmount()
    upper, work = os.fsencode(stage.upper), os.fsencode(stage.work)
    failed += [f"cowroot check: {os.fsdecode(p.path)}: {p.what}" for p in check(upper, work, (os.fsencode(stage.lower),))]
    return {"kills": made, "survived": survived, "rounds": rounds.value, "longest_pause": round(longest.value, 3), "failures": failed}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--restarts", type=int, help="so many `cowroot daemon restart` instead")
    parser.add_argument("--options", default="", help="further mount options, as protocol=7.39 for a kernel without passthrough")
    chosen = parser.parse_args(arguments)
    with staged("storm-") as stage:
        strike = kill if chosen.restarts is None else restart
        figures = storm(stage, chosen.kills if chosen.restarts is None else chosen.restarts, chosen.options, strike)
    print(json.dumps(figures, indent=2))
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
