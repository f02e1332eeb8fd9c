"""What was measured: kept raw, as JSON, and computed from there."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from benchmarks.contenders import OVERLAYFS
from benchmarks.stage import BenchError
from benchmarks.turn import Sample
from benchmarks.workloads import DATA, FILES, GROUPS, Row

MAIN_GROUPS = (FILES, DATA)  # the rows that the geometric mean is of
_FORMAT = 1


@dataclass
class Measured:
    """One row: for each contender its samples, one for each round (None where it failed), and why it failed."""

    row: Row
    samples: dict[str, list[Optional[Sample]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def good(self, contender: str) -> list[Sample]:
        return [sample for sample in self.samples.get(contender, []) if sample is not None]

    def seconds(self, contender: str) -> Optional[float]:
        """The median."""
        times = [sample.seconds for sample in self.good(contender)]
        return statistics.median(times) if times else None

    def microseconds(self, contender: str) -> Optional[float]:
        """The median of one operation."""
        seconds = self.seconds(contender)
        return None if seconds is None else seconds / self.good(contender)[0].operations * 1e6

    def ratio(self, contender: str, base: str = OVERLAYFS) -> Optional[float]:
        """The median over the rounds of its time by that of `base` in the same round."""
        pairs = zip(self.samples.get(contender, []), self.samples.get(base, []))
        ratios = [one.seconds / other.seconds for one, other in pairs if one is not None and other is not None]
        return statistics.median(ratios) if ratios else None

    def requests(self, contender: str) -> Optional[float]:
        """The median of requests for one operation."""
        counts = [sum(s.requests.values()) / s.operations for s in self.good(contender) if s.requests is not None]
        return statistics.median(counts) if counts else None

    def per_request(self, contender: str) -> Optional[float]:
        """The median of the daemon's processor time for one request, in microseconds."""
        costs = [s.cpu / sum(s.requests.values()) * 1e6 for s in self.good(contender) if s.requests and s.cpu is not None]
        return statistics.median(costs) if costs else None

    def memory(self, contender: str) -> Optional[tuple[float, float]]:
        """The medians of the daemon's memory before and after, in bytes."""
        sizes = [sample.memory for sample in self.good(contender) if sample.memory is not None and sample.memory[1]]
        return (statistics.median(s[0] for s in sizes), statistics.median(s[1] for s in sizes)) if sizes else None


@dataclass
class Results:
    """A whole run. `labels`, `versions`: by contender, in the order of the tables; `absent`: who could not take part, and why."""

    machine: dict[str, str]
    scale: float
    rounds: int
    labels: dict[str, str]
    versions: dict[str, str]
    absent: dict[str, str]
    rows: list[Measured] = field(default_factory=list)
    boot: str = ""

    def add(self, earlier: Results) -> None:
        """Take over the rows of an earlier run that this one lacks, in the order of the tables."""
        known = {measured.row.id for measured in self.rows}
        more = [measured for measured in earlier.rows if measured.row.id not in known]
        groups = list(GROUPS)
        self.rows = sorted([*self.rows, *more], key=lambda measured: groups.index(measured.row.group))
        for mine, theirs in ((self.labels, earlier.labels), (self.versions, earlier.versions)):
            mine.update({one: text for one, text in theirs.items() if one not in mine})

    def group(self, name: str) -> list[Measured]:
        return [measured for measured in self.rows if measured.row.group == name]

    def geometric_mean(self, contender: str) -> tuple[Optional[float], int]:
        """Of its ratios in the main rows; and how many of those it lacks."""
        ratios = [measured.ratio(contender) for group in MAIN_GROUPS for measured in self.group(group)]
        known = [ratio for ratio in ratios if ratio]
        return (math.exp(sum(map(math.log, known)) / len(known)) if known else None), len(ratios) - len(known)

    def to_json(self) -> str:
        """Everything, and the ratios for who does not want to compute them."""
        content: dict[str, Any] = {"format": _FORMAT, **dataclasses.asdict(self)}
        for known, measured in zip(content["rows"], self.rows):
            known["ratio"] = {one: ratio for one in self.labels if (ratio := measured.ratio(one)) is not None}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def load(path: Path) -> Results:
    """Read what `to_json` wrote. Raises BenchError."""
    try:
        content = json.loads(path.read_text())
        if content.pop("format") != _FORMAT:
            raise ValueError("another version's format")
        rows = [_measured(known) for known in content.pop("rows")]
        return Results(**content, rows=rows)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BenchError(f"{path}: not results of this tool: {e}") from None


def _measured(known: dict[str, Any]) -> Measured:
    samples = {one: [_sample(entry) if entry else None for entry in entries] for one, entries in known["samples"].items()}
    return Measured(Row(**known["row"]), samples, known["failed"])


def _sample(entry: dict[str, Any]) -> Sample:
    return Sample(**{**entry, "memory": tuple(entry["memory"]) if entry["memory"] else None})
