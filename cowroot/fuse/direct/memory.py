"""Memory that outlives the process that wrote it: memfds, mapped shared.

A store that was executed is there, whatever happens to who made it. So records are written whole, in one copy, after what they refer to,
and half a record is never taken for one.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

UNIT = 64  # bytes that texts are stored in


class Region:
    """Memory that grows. Its mapping must not be kept, since growing moves it."""

    def __init__(self, name: str) -> None:
        self.fd = os.memfd_create(f"cowroot-{name}", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, mmap.PAGESIZE)
        self.map = mmap.mmap(self.fd, 0)

    def reach(self, end: int) -> None:
        """Make room up to `end` bytes."""
        if end > len(self.map):
            self.map.resize(max(end, 2 * len(self.map)))

    def reopen(self) -> None:
        """Map again what another process may have let grow."""
        self.map.close()
        self.map = mmap.mmap(self.fd, 0)


class Texts:
    """Names and descriptions that are too long for their records. `place` is the number of the first unit."""

    def __init__(self) -> None:
        self.region = Region("texts")
        self._top = 0
        self._free: dict[int, list[int]] = {}  # by size in units

    @staticmethod
    def _units(length: int) -> int:
        return 1 << (-(-length // UNIT) - 1).bit_length()

    def store(self, text: bytes) -> int:
        units = self._units(len(text))
        free = self._free.get(units)
        if free:
            place = free.pop()
        else:
            place = self._top
            self._top += units
            self.region.reach(self._top * UNIT)
        self.region.map[place * UNIT : place * UNIT + len(text)] = text
        return place

    def load(self, place: int, length: int) -> bytes:
        return self.region.map[place * UNIT : place * UNIT + length]

    def free(self, place: int, length: int) -> None:
        self._free.setdefault(self._units(length), []).append(place)

    def take_over(self, used: list[tuple[int, int]]) -> None:
        """Everything but `used`, (place, length), is free again."""
        self.region.reopen()
        self._top, self._free = 0, {}
        for place, length in sorted(used):
            if place > self._top:
                self._free.setdefault(1, []).extend(range(self._top, place))
            self._top = max(self._top, place + self._units(length))


def records(memory: mmap.mmap, record: struct.Struct) -> Iterator[tuple[Any, ...]]:
    """The records that a region has room for."""
    return record.iter_unpack(memory[: len(memory) // record.size * record.size])
