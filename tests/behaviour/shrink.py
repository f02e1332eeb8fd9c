"""From a long failing sequence to a short one, by leaving things out and trying again (delta debugging, Zeller)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Thing = TypeVar("Thing")


def smallest(things: Sequence[Thing], fails: Callable[[list[Thing]], bool]) -> list[Thing]:
    """A subsequence that still fails and from which no single thing can be left out. `things` itself is known to fail."""
    kept = list(things)
    chunk = max(1, len(kept) // 2)
    while True:
        removed = False
        at = len(kept) - chunk
        while at > -chunk:  # from the end: what comes last is what failed, and most of what comes before is noise
            start = max(0, at)
            attempt = kept[:start] + kept[at + chunk :]
            if len(attempt) < len(kept) and fails(attempt):
                kept = attempt
                removed = True
            at -= chunk
        if chunk == 1 and not removed:
            return kept
        if chunk > 1:
            chunk = max(1, chunk // 2)
