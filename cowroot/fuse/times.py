"""Which times a SETATTR asks for."""

from __future__ import annotations

from typing import Optional

from cowroot.fuse import protocol as p
from cowroot.union import NOW


def times_to_set(valid: int, atime: tuple[int, int], mtime: tuple[int, int]) -> tuple[Optional[int], Optional[int]]:
    """Access and modification time as the union takes them.

    Arguments: `valid`: FATTR_* bits; the times as (seconds, nanoseconds). With ftruncate(2), which comes with a handle, the kernel leaves
    moving the modification time to us, as with O_TRUNC; truncate(2) moves it or not, as the upper has it.
    """
    if valid & p.FATTR_SIZE and valid & p.FATTR_FH and not valid & p.FATTR_MTIME:
        valid |= p.FATTR_MTIME_NOW
    return _time(valid, p.FATTR_ATIME, p.FATTR_ATIME_NOW, atime), _time(valid, p.FATTR_MTIME, p.FATTR_MTIME_NOW, mtime)


def _time(valid: int, given: int, now: int, time: tuple[int, int]) -> Optional[int]:
    if valid & now:
        return NOW
    return time[0] * 10**9 + time[1] if valid & given else None
