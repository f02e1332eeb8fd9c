"""The benchmarks measure and show. How long anything takes is not looked at."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Optional

import pytest

from benchmarks import page
from benchmarks.chart import chart
from benchmarks.results import Measured, Results, load
from benchmarks.table import misses, tables
from benchmarks.turn import Sample
from benchmarks.workloads import FILES, Row

TOP = Path(__file__).resolve().parents[2]
ENGINES = ("overlayfs", "direct", "direct-no-passthrough", "fusepy", "cowroot-overlayfs", "plain")
ROWS = ("find-*", "create", "remove", "one-byte", "sqlite", "many-*", "layers-*-4", "entry-10")
needs_mounts = pytest.mark.skipif(bool(os.geteuid()) or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")


def benchmarks(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=240, check=False)


@needs_mounts
def test_a_small_run_from_end_to_end(tmp_path: Path) -> None:
    """Every contender that needs no further package, and each kind of row."""
    figures, picture = tmp_path / "figures.json", tmp_path / "chart.svg"
    done = benchmarks(
        "--scale", 0.005, "--rounds", 1, "--rows", *ROWS, "--engines", *ENGINES, "--json", figures, "--chart", picture
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

    results = load(figures)
    assert set(results.labels) == set(ENGINES)
    assert len(results.rows) == 11
    for measured in results.rows:
        for one in ENGINES:
            assert len(measured.good(one)) == 1, f"{measured.row.id}: {one}: {measured.failed}"
            assert measured.seconds(one)
            assert measured.ratio(one)
    by_id = {measured.row.id: measured for measured in results.rows}
    for engine in ("direct", "fusepy"):
        for sample in by_id["create"].good(engine):
            assert sample.requests is not None
            assert sample.requests["create"] == sample.operations == 15
            assert sample.cpu
        assert by_id["many-cold"].memory(engine)

    shown = tables(results)
    assert done.stdout == shown + "\n"
    assert {measured.row.title for measured in results.rows} <= {cell.strip(" |").split(", µs")[0] for cell in _first_cells(shown)}
    assert benchmarks("--from", figures).stdout == done.stdout
    drawn = xml.etree.ElementTree.parse(picture)
    assert picture.read_text() == chart(results)
    assert len(drawn.findall(".//{*}circle/{*}title")) == 8 * 4  # rows that are no series; overlayfs is the 1


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """Not the ratio of the medians: what slows one round down slows both."""
    times: dict[str, list[Optional[float]]] = {"overlayfs": [1.0, 10.0, 2.0], "direct": [3.0, 20.0, 2.0], "plain": [0.5, None, 0.5]}
    row = Row("create", "create", FILES, 1.5)
    samples = {one: [Sample(second, 10, None, None, None) if second else None for second in seconds] for one, seconds in times.items()}
    measured = Measured(row, samples, {"plain": "was tired"})
    assert [measured.ratio(one) for one in times] == [1, 2, 0.375]
    assert [measured.seconds(one) for one in times] == [2, 3, 0.5]
    assert measured.microseconds("direct") == 300_000
    results = Results({}, 1, 3, {one: one for one in times}, {}, {}, [measured])
    assert misses(results)[0] == "create: direct takes 2.00 times as long as overlayfs, the goal is 1.5"
    assert "- plain cannot: create (was tired)" in tables(results)
    mean, lacks = results.geometric_mean("direct")
    assert (round(mean or 0, 9), lacks) == (2, 0)


def test_a_missed_goal_says_what_no_server_can_do_without() -> None:
    samples: dict[str, list[Optional[Sample]]] = {"overlayfs": [], "direct": [], "no-union": []}
    for one, seconds in zip(samples, (1.0, 5.0, 4.5)):
        samples[one].append(Sample(seconds, 10, None, None, None))
    labels = {"overlayfs": "o", "direct": "d", "no-union": "C"}
    results = Results({}, 1, 1, labels, {}, {}, [Measured(Row("create", "create", FILES, 4), samples)])
    assert misses(results)[0] == "create: direct takes 5.00 times as long as overlayfs, the goal is 4; C: 4.50"


def test_an_earlier_run_adds_what_this_one_lacks() -> None:
    def results(one: str, *ids: str) -> Results:
        rows = [Measured(Row(id, id, FILES), {one: [Sample(len(one), 1, None, None, None)]}) for id in ids]
        return Results({}, 1, 1, {one: one}, {one: "1"}, {}, rows)

    now = results("new", "create", "remove")
    now.add(results("old", "find", "create"))
    assert [(measured.row.id, list(measured.samples)) for measured in now.rows] == [
        ("create", ["new"]),
        ("remove", ["new"]),
        ("find", ["old"]),
    ]
    assert list(now.labels) == list(now.versions) == ["new", "old"]


def _first_cells(text: str) -> list[str]:
    return [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]


@needs_mounts
def test_a_failure_of_our_own_fails_the_run_and_is_shown(tmp_path: Path) -> None:
    """A union of which the program below is not there to be run."""
    rows = ("--scale", 0.005, "--rounds", 1, "--rows", "find-cold", "--engines", "overlayfs", "direct")
    command = [sys.executable, "-c", _WITHOUT_FIND, *map(str, rows)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert "direct cannot: find, cold dentries (nothing is found here)" in done.stdout


_WITHOUT_FIND = """
import sys
import benchmarks.__main__ as tool
from benchmarks.contenders import Cowroot

def fail(self, layers):
    raise OSError("nothing is found here")

tool._enter_namespace = lambda arguments: None
Cowroot.up = fail
sys.exit(tool.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--rows", "no-such-row"), "no row is called no-such-row"),
        (("--engines", "no-such-engine"), "no contender is called no-such-engine"),
        (("--from", "no-such-file"), "no-such-file: not results of this tool"),
    ],
)
def test_a_wrong_choice_is_said_and_measures_nothing(arguments: tuple[str, ...], complaint: str) -> None:
    done = benchmarks(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"benchmarks: error: {complaint}")


def test_the_page_is_what_the_tool_makes_of_the_figures() -> None:
    results = load(page.FIGURES)
    assert page.PAGE.read_text() == page.page(results), "run `python -m benchmarks --from docs/reference/performance.json --docs`"
    assert page.CHART.read_text() == chart(results)
