"""Results as tables, in Markdown that is fit to be read as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from benchmarks.contenders import NO_UNION, OVERLAYFS
from benchmarks.results import MAIN_GROUPS, Measured, Results
from benchmarks.workloads import GROUPS, MEMORY, SERIES

_NOTHING = "–"
DIRECT, FUSEPY = "direct", "fusepy"
_RIVALS = ("fuse-overlayfs", "unionfs-fuse")
_GOAL_OF_MEAN, _GOAL_BY_FUSE_OVERLAYFS = 1.5, 2.0


def tables(results: Results) -> str:
    """All of it: ratios, what falls short, requests, memory, series."""
    sections = [("Times", _ratios(results)), ("Goals", _goals(results)), ("Requests", _requests(results)), ("Memory", _memory(results))]
    sections += [(GROUPS[group], _series(results, group)) for group in SERIES]
    if results.boot:
        sections.append(("Boot", results.boot))
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections if text) + "\n"


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    cells = [list(head), *map(list, lines)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in [cells[0], rule, *cells[1:]]
    )


def _number(value: Optional[float]) -> str:
    """With three significant digits, at most two of them after the point; of what is small, one more."""
    if value is None:
        return _NOTHING
    return f"{value:.{3 if 0 < abs(value) < 0.095 else 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def _ratios(results: Results) -> str:
    others = [one for one in results.labels if one != OVERLAYFS]
    lines = []
    for group in GROUPS:
        if group not in SERIES:
            lines += [_ratio_line(measured, others) for measured in results.group(group)]
    if not lines:
        return ""
    if any(results.group(group) for group in MAIN_GROUPS):
        means = [results.geometric_mean(one) for one in others]
        lines.append(
            ["geometric mean, without programs and many files", "", *(_number(m) + ("*" if lacks and m else "") for m, lacks in means)]
        )
    head = ["workload", "overlayfs, ms", *(results.labels[one] for one in others)]
    notes = "`*`: without the rows that it cannot do."
    reasons = _reasons(results)
    return _grid(head, lines) + (f"\n\n{notes}\n\n{reasons}" if reasons else "")


def _ratio_line(measured: Measured, others: Sequence[str]) -> list[str]:
    base = measured.seconds(OVERLAYFS)
    ratios = [_number(measured.ratio(one)) for one in others]
    return [measured.row.title, _NOTHING if base is None else _number(base * 1e3), *ratios]


def _reasons(results: Results) -> str:
    """Who could not do what, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for measured in results.rows:
        for one, reason in measured.failed.items():
            found.setdefault((one, reason), []).append(measured.row.title)
    lines = [f"- {results.labels[one]} cannot: {', '.join(titles)} ({reason})" for (one, reason), titles in found.items()]
    lines += [f"- {one} did not take part: {reason}" for one, reason in results.absent.items()]
    return "\n".join(lines)


def misses(results: Results) -> list[str]:
    """The goals that were not reached, a sentence each."""
    found = []
    for measured in results.rows:
        title, ratio = measured.row.title, measured.ratio(DIRECT)
        if ratio is not None and measured.row.goal is not None and ratio > measured.row.goal:
            least = measured.ratio(NO_UNION)
            remark = "" if least is None else f"; {results.labels[NO_UNION]}: {_number(least)}"
            found.append(f"{title}: direct takes {_number(ratio)} times as long as overlayfs, the goal is {measured.row.goal:g}{remark}")
        rivals = [seconds for rival in _RIVALS if (seconds := measured.ratio(rival)) is not None]
        if ratio is not None and measured.row.group in MAIN_GROUPS and rivals and ratio > min(rivals):
            found.append(f"{title}: direct {_number(ratio)}, the faster of {' and '.join(_RIVALS)} {_number(min(rivals))}")
        mine, theirs = measured.ratio(FUSEPY), measured.ratio("unionfs-fuse")
        if mine is not None and theirs is not None and measured.row.group in MAIN_GROUPS and mine > theirs:
            found.append(f"{title}: fusepy {_number(mine)}, unionfs-fuse {_number(theirs)}")
    mean, _ = results.geometric_mean(DIRECT)
    if mean is not None and mean > _GOAL_OF_MEAN:
        found.append(f"geometric mean of direct: {_number(mean)}, the goal is {_GOAL_OF_MEAN:g}")
    rival, _ = results.geometric_mean("fuse-overlayfs")
    if mean is not None and rival is not None and rival < mean * _GOAL_BY_FUSE_OVERLAYFS:
        found.append(
            f"geometric mean of fuse-overlayfs: {_number(rival)}, not {_GOAL_BY_FUSE_OVERLAYFS:g} times that of direct, {_number(mean)}"
        )
    return found


def _goals(results: Results) -> str:
    if DIRECT not in results.labels or OVERLAYFS not in results.labels:
        return ""
    found = misses(results)
    return "Missed:\n\n" + "\n".join(f"- {line}" for line in found) if found else "All reached."


def _requests(results: Results) -> str:
    engines = [one for one in results.labels if any(measured.requests(one) is not None for measured in results.rows)]
    lines = []
    for measured in results.rows:
        if measured.row.group not in SERIES and any(measured.requests(one) is not None for one in engines):
            cells = [f"{_number(measured.requests(one))} × {_number(measured.per_request(one))}" for one in engines]
            lines.append([measured.row.title, *cells])
    if not lines:
        return ""
    text = "Requests for one operation × microseconds of the daemon's processor time for one request."
    return text + "\n\n" + _grid(["workload", *(results.labels[one] for one in engines)], lines)


def _memory(results: Results) -> str:
    lines = []
    for measured in results.group(MEMORY)[:1]:
        for one, label in results.labels.items():
            memory = measured.memory(one)
            if memory is not None:
                before, after = memory
                files = measured.good(one)[0].operations
                lines.append([label, _number(before / 2**20), _number(after / 2**20), f"{(after - before) / files:.0f}"])
    if not lines:
        return ""
    text = "Of the daemon (proportional set size), around the first find on many files."
    return text + "\n\n" + _grid(["", "before, MiB", "after, MiB", "bytes by file"], lines)


def _series(results: Results, group: str) -> str:
    """For each thing that is done a table with a column for each size, in microseconds for one operation."""
    parts = []
    titles = list(dict.fromkeys(measured.row.title for measured in results.group(group)))
    for title in titles:
        rows = sorted((m for m in results.group(group) if m.row.title == title), key=lambda m: m.row.step or 0)
        lines = [[label, *(_number(row.microseconds(one)) for row in rows)] for one, label in results.labels.items()]
        parts.append(_grid([f"{title}, µs", *(f"{row.row.step:,}" for row in rows)], lines))
    return "\n\n".join(parts)
