"""docs/reference/performance.md, its chart and its figures: written by this tool, from the results of one run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.chart import chart
from benchmarks.results import Results
from benchmarks.table import tables

_DOCS = Path(__file__).resolve().parents[1] / "docs/reference"
PAGE, CHART, FIGURES = _DOCS / "performance.md", _DOCS / "performance.svg", _DOCS / "performance.json"

_HEAD = """\
# How fast it is

<!-- Written by `python -m benchmarks --docs`. -->

What the engines cost, beside the kernel's overlayfs, other unions and a plain copy: the time each takes for a workload, as a multiple
of what overlayfs takes. 1 is as fast, less is faster. Each figure is the median of {rounds} rounds (of fewer where a round takes long).
In a round all have turns over the same layers, each with a new upper and a new mount, in another order in the next; a ratio is that of
two turns in one round. The load says how busy the machine was, with this and with other things: where it is several times the number
of processors, a single figure can be off by a half.

The lower layer is an ext4 file system in a loop device, the upper is in memory. `cold` means that the kernel has been told to forget
names and inodes (dentries), or contents as well; the other rows begin with what a new mount knows: nothing of the union, but all of the
lower. A plain copy lies in memory; where nothing is written it is the lower itself.

"no union, C" is about the least that a FUSE server can take: an example of libfuse 3, in C, that shows one directory at another place, and
has the kernel keep all that it can keep. It gets what the plain copy is, and processors are kept awake for it, as our engines do for
themselves while requests follow each other closely.

Each daemon is in a session of its own and goes before other processes (nice -10), as ours ask for.

Measured on {machine}. Versions: {versions}.

![Ratios as a chart](performance.svg)

"""

_TAIL = """
## Measure it yourself

```
make bench
```

installs the packages of `benchmarks/packages.txt`, measures everything, prints these tables, and writes figures and chart to
`.cache/benchmarks/`. It needs root, 10 GB of memory and about an hour. Some rows, some contenders, faster:

```
.venv/bin/python -m benchmarks --rows 'find*' 'read*' --engines direct overlayfs --rounds 5
.venv/bin/python -m benchmarks --scale 0.05 --rounds 1
```

`--list` names rows and contenders; `--add` completes a run by rows of an earlier one. The figures behind this page, every sample of them,
are in [performance.json](performance.json). How long a boot takes, with cowroot and without, is among what `make demo` reports at its end;
`--boot` runs it and adds that line here.
"""


def page(results: Results) -> str:
    """The page's text."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    versions = ", ".join(f"{one} {version}" for one, version in results.versions.items() if version)
    return _HEAD.format(rounds=results.rounds, machine=machine, versions=versions) + tables(results) + _TAIL


def write(results: Results) -> None:
    """Write all three files."""
    FIGURES.write_text(results.to_json())
    CHART.write_text(chart(results))
    PAGE.write_text(page(results))
