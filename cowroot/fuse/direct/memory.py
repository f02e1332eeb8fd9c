"""Memory that outlives the process that wrote it: memfds, mapped shared.

A store that was executed is there, whatever happens to who made it. So records are written whole, in one copy, after what they refer to,
and half a record is never taken for one.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from typing import Any, Callable

UNIT = 64  # bytes that texts are stored in
_NUMBER = struct.Struct("=Q")


class Region:
    """Memory that grows, behind the memfd `fd`. Its mapping must not be kept, since growing moves it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.map = mmap.mmap(fd, 0)

    def reach(self, end: int) -> None:
        """Make room up to `end` bytes."""
        if end > len(self.map):
            self.map.resize(max(end, 2 * len(self.map)))

    def reopen(self) -> None:
        """Map again what another process may have let grow."""
        self.map.close()
        self.map = mmap.mmap(self.fd, 0)


class Memory:
    """All regions of one mount, by name. Arguments: `fds`: the memfds of those that there are already."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self.fds = dict(fds)

    def region(self, name: str) -> Region:
        """The region called `name`: new, and one page, if there is none."""
        if name not in self.fds:
            self.fds[name] = os.memfd_create(f"cowroot-{name}", os.MFD_CLOEXEC)
            os.ftruncate(self.fds[name], mmap.PAGESIZE)
        return Region(self.fds[name])


class Texts:
    """Names and descriptions that are too long for their records. `place` is the number of the first unit."""

    def __init__(self, region: Region) -> None:
        self.region = region
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


class Table:
    """Records of one `layout`, by their place, from place `first` on."""

    def __init__(self, region: Region, layout: struct.Struct, first: int = 0) -> None:
        self.region = region
        self._layout = layout
        self._first = self._top = first
        self._free: list[int] = []

    def claim(self) -> int:
        """A place for one more record."""
        if self._free:
            return self._free.pop()
        place = self._top
        self._top += 1
        self.region.reach(self._top * self._layout.size)
        return place

    def release(self, place: int) -> None:
        """The record that was there is out of use, and has been written so."""
        self._free.append(place)

    def write(self, place: int, *fields: Any) -> None:
        start = place * self._layout.size
        self.region.map[start : start + self._layout.size] = self._layout.pack(*fields)

    def number(self, place: int) -> int:
        """The first field of a record, a number of 64 bits."""
        return int(_NUMBER.unpack_from(self.region.map, place * self._layout.size)[0])

    def read(self, place: int) -> tuple[Any, ...]:
        return self._layout.unpack_from(self.region.map, place * self._layout.size)

    def reaches(self, place: int) -> bool:
        """True if there is room for this place."""
        return (place + 1) * self._layout.size <= len(self.region.map)

    def take_over(self, is_used: Callable[[tuple[Any, ...]], bool]) -> list[tuple[int, tuple[Any, ...]]]:
        """Go on from what a predecessor left. Returns the records in use, with their places."""
        self.region.reopen()
        self._top = len(self.region.map) // self._layout.size
        used = []
        self._free = []
        for place, fields in enumerate(self._layout.iter_unpack(self.region.map[: self._top * self._layout.size])):
            if place >= self._first:
                if is_used(fields):
                    used.append((place, fields))
                else:
                    self._free.append(place)
        self._free.reverse()
        return used
