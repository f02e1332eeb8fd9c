"""`python -m benchmarks`: choose, measure, show. Exit codes: 0, 1 if one of our own engines failed, 2 for a wrong choice or no place."""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from benchmarks import page
from benchmarks.chart import chart
from benchmarks.contenders import CONTENDERS
from benchmarks.measure import measure
from benchmarks.results import Results, load
from benchmarks.stage import BenchError
from benchmarks.table import tables
from benchmarks.workloads import Workload, all_workloads

_NAMESPACE = "COWROOT_BENCH_NAMESPACE"  # set: we are in a mount namespace of our own already


def main(arguments: Sequence[str]) -> int:
    """Run the tool; returns the exit code."""
    choice = _parse(arguments)
    try:
        return _run(choice, arguments)
    except BenchError as e:
        print(f"benchmarks: error: {e}", file=sys.stderr)
        return 2


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the engines beside other unions.")
    parser.add_argument("--rows", nargs="+", metavar="ROW", default=["*"], help="rows, with * and ?; !ROW leaves one away")
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="contenders; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="how often each has its turn (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of everything; 0.01 is a try (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw an SVG there")
    parser.add_argument("--docs", action="store_true", help="write docs/reference/performance.*")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="measure nothing: show the figures of an earlier --json")
    parser.add_argument(
        "--add", type=Path, metavar="FILE", help="take rows that are not measured now from the figures of an earlier --json"
    )
    parser.add_argument("--boot", action="store_true", help="run the demo, too, for the time that a boot takes")
    parser.add_argument("--list", action="store_true", help="list rows and contenders")
    choice = parser.parse_args(arguments)
    if choice.rounds < 1 or not 0 < choice.scale <= 1:
        parser.error("--rounds is at least 1, --scale between 0 and 1")
    return choice


def _run(choice: argparse.Namespace, arguments: Sequence[str]) -> int:
    workloads = all_workloads()
    if choice.list:
        for row in (row for workload in workloads for row in workload.rows):
            print(f"{row.id:24}{row.title}" + (f" ({row.step:,})" if row.step else ""))
        print("\ncontenders:", ", ".join(one.id for one in CONTENDERS))
        return 0
    if choice.source:
        results = load(choice.source)
    else:
        _enter_namespace(arguments)
        results = _measure(choice, workloads)
    if choice.add:
        results.add(load(choice.add))
    if choice.boot:
        results.boot = _boot()
    print(tables(results))
    for path, text in ((choice.json, results.to_json()), (choice.chart, chart(results))):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if choice.docs:
        page.write(results)
    ours = {one.id for one in CONTENDERS if one.ours}
    return 1 if any(ours & set(measured.failed) for measured in results.rows) else 0


def _enter_namespace(arguments: Sequence[str]) -> None:
    """Go on in a mount namespace: whatever becomes of us, no mount is left."""
    if os.environ.get(_NAMESPACE) or os.geteuid() != 0:
        return
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "benchmarks", *arguments]
    os.execvpe(command[0], command, {**os.environ, _NAMESPACE: "1"})


def _measure(choice: argparse.Namespace, workloads: list[Workload]) -> Results:
    known = {one.id: one for one in CONTENDERS}
    wanted = choice.engines or list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise BenchError(f"no contender is called {unknown[0]}; there are {', '.join(known)}")
    chosen = _chosen([row.id for workload in workloads for row in workload.rows], choice.rows)
    workloads = [workload for workload in workloads if any(row.id in chosen for row in workload.rows)]
    return measure(workloads, chosen, [one for one in CONTENDERS if one.id in wanted], choice.rounds, choice.scale)


def _chosen(ids: list[str], patterns: list[str]) -> set[str]:
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    for pattern in [*wanted, *unwanted]:
        if not fnmatch.filter(ids, pattern):
            raise BenchError(f"no row is called {pattern}; --list names them")
    return {id for id in ids if _matches(id, wanted) and not _matches(id, unwanted)}


def _matches(id: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(id, pattern) for pattern in patterns)


def _boot() -> str:
    """What the demo says of the time a boot takes, in its summary. Raises BenchError."""
    done = subprocess.run([sys.executable, "-m", "demo"], stdout=subprocess.PIPE, text=True, check=False)
    line: Optional[str] = next((line for line in done.stdout.splitlines() if "boot's time" in line), None)
    if done.returncode or line is None:
        raise BenchError(f"the demo ended with exit code {done.returncode}")
    return re.sub(r"\x1b\[[0-9;]*m", "", line).strip(" -*✓")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
