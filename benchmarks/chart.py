"""The ratios as a picture: one line for each workload, one mark for each contender, on a logarithmic scale. Plain SVG."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from benchmarks.results import Results
from benchmarks.workloads import SERIES

_COLOURS = {
    "direct": "#0b6e4f", "direct-no-passthrough": "#6bbf9c", "fusepy": "#1f5fbf", "fuse-overlayfs": "#d1495b", "unionfs-fuse": "#edae49",
    "mergerfs": "#8d6a9f", "no-union": "#111111", "plain": "#777777",
}  # fmt: skip
_LEFT, _RIGHT, _TOP, _LINE, _WIDTH = 290, 30, 64, 20, 900
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def chart(results: Results) -> str:
    """An SVG document."""
    rows = [measured for measured in results.rows if measured.row.group not in SERIES]
    shown = [one for one in results.labels if one in _COLOURS]
    values = [ratio for measured in rows for one in shown if (ratio := measured.ratio(one))]
    low, high = _bounds(values)
    height = _TOP + _LINE * len(rows) + 34

    def place(ratio: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(ratio / low) / math.log(high / low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">Time as a multiple of overlayfs: left is faster</text>',
    ]
    x = float(_LEFT)
    for one in shown:
        parts.append(f'<circle cx="{x + 4:.0f}" cy="36" r="4.5" fill="{_COLOURS[one]}"/>')
        parts.append(f'<text x="{x + 12:.0f}" y="40">{escape(results.labels[one])}</text>')
        x += 30 + 6.1 * len(results.labels[one])
    bottom = _TOP + _LINE * len(rows)
    for tick in _TICKS:
        if low <= tick <= high:
            colour, width = ("#333333", 1.5) if tick == 1 else ("#dddddd", 1)
            parts.append(f'<path d="M{place(tick):.1f} {_TOP - 8}V{bottom}" stroke="{colour}" stroke-width="{width}"/>')
            parts.append(f'<text x="{place(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for number, measured in enumerate(rows):
        y = _TOP + _LINE * number + 6
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(measured.row.title)}</text>')
        for one in reversed(shown):  # ours on top
            ratio = measured.ratio(one)
            if ratio:
                title = f"{results.labels[one]}, {measured.row.title}: {ratio:.2f}"
                parts.append(
                    f'<circle cx="{place(ratio):.1f}" cy="{y}" r="4.5" fill="{_COLOURS[one]}"><title>{escape(title)}</title></circle>'
                )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bounds(values: list[float]) -> tuple[float, float]:
    """Where the scale begins and ends: at ticks around all values, and around 1."""
    low = max((tick for tick in _TICKS if tick <= min([*values, 0.5])), default=_TICKS[0])
    high = min((tick for tick in _TICKS if tick >= max([*values, 2])), default=_TICKS[-1])
    return low, high
