"""Inode numbers of the union: one file system to those who look, several behind it.

A number has 56 bits of the backing inode's number and above them the number of its file system: 0 for the bottom layer, whose files so have
the numbers that they have on the disk; 1 for the upper; 2 and more for other layers. An upper's number is written down in it (former.py),
for it keeps that when it becomes a lower, and another one takes its place. A layer can hold further file systems: subvolumes of btrfs,
files of an overlayfs, the file systems behind another union, which are told from each other by the high bits of its numbers. Those are
numbered from 64 on as they are met, and what they were given is kept in the work directory, for the index of hard links rests on it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from itertools import count

from cowroot.union.layers import Layer
from cowroot.union.syscalls import through

UPPER_FS = 1
BITS = 56
FURTHER = range(0x40, 0x7F)  # seven bits: a number is positive to programs that take it for signed
LOOSE = 0x7F  # for what finds no place among those: unique, but not the same after a remount


class Numbers:
    """The numbers of one union's layers. `work`, if there is one, is our own part of the work directory."""

    def __init__(self, lower: Sequence[Layer], upper: Layer | None, work: Layer | None) -> None:
        self._work = work
        self._works = [layer.work for layer in reversed(lower)] + [work]
        self._devices: dict[int, int] = {}
        self._further: dict[bytes, int] = {}
        self._loose: dict[tuple[int, int], int] = {}
        self._devices[lower[-1].dev] = 0
        for layer in reversed(lower):  # from the bottom: numbers stay the same while the lower ones stay
            if layer.number > 0 and layer.dev not in self._devices:
                self._devices[layer.dev] = self._free(layer.number)
        for layer in reversed(lower):
            layer.fs = self._devices.setdefault(layer.dev, self._free(UPPER_FS + 1))
            if layer.work is not None:
                layer.work.fs = layer.fs
        if upper is not None:
            upper.fs = self._devices.setdefault(upper.dev, self._free(max(upper.number, UPPER_FS)))
        self.resume()

    def _free(self, wanted: int) -> int:
        """A layer's number: `wanted`, or the next one that no other has."""
        return next(number for number in count(wanted) if number not in self._devices.values())

    def resume(self) -> None:
        """Know of all numbers that were given away, by whichever process."""
        for work in self._works:
            if work is not None:
                self._load(work)

    def ino(self, fs: int, ino: int) -> int:
        """The number that the union shows for inode `ino` of file system number `fs`."""
        high = ino >> BITS
        if high:
            fs = self._number(b"union-%d-%d" % (fs, high))
            ino &= (1 << BITS) - 1
        if fs < LOOSE:
            return fs << BITS | ino
        return self._loose.setdefault((fs, ino), LOOSE << BITS | len(self._loose))

    def of(self, layer: Layer, st: os.stat_result, path: bytes) -> int:
        """The same for the object at `path` in a layer."""
        return self.ino(self.fs(layer, st, path), st.st_ino)

    def fs(self, layer: Layer, st: os.stat_result, path: bytes) -> int:
        """The number of the file system that the object at `path` in a layer is on."""
        if st.st_dev == layer.dev:
            return layer.fs
        known = self._devices.get(st.st_dev)
        if known is None:
            known = self._devices[st.st_dev] = self._number(self._key(layer, st, path))
        return known

    def _key(self, layer: Layer, st: os.stat_result, path: bytes) -> bytes:
        """What a file system inside a layer is called, whenever it is mounted. Subvolumes have identifiers of their own; where several
        have one in common, they count in the order in which they are met.
        """
        directory = path if stat.S_ISDIR(st.st_mode) else os.path.dirname(path)
        identifier = os.statvfs(through(layer.fd, directory or b".")).f_fsid
        met = sum(key.startswith(b"%x-" % identifier) and number in self._devices.values() for key, number in self._further.items())
        return b"%x-%d" % (identifier, met)

    def _number(self, key: bytes) -> int:
        known = self._further.get(key)
        if known is not None:
            return known
        taken = {*self._further.values(), *self._devices.values()}
        free = [number for number in FURTHER if number not in taken]
        if not free:
            number = self._further[key] = max(LOOSE, *taken) + 1
            return number
        number = self._further[key] = free[0]
        if self._work is not None:
            os.symlink(b"%d" % number, b"numbers/" + key, dir_fd=self._work.fd)
        return number

    def _load(self, work: Layer) -> None:
        for key in work.names(b"numbers"):
            number = stored_number(work, key)
            if number is not None and key not in self._further and number not in self._further.values():
                self._further[key] = number


def stored_number(work: Layer, key: bytes) -> int | None:
    """What the work directory says of a file system inside a layer; None if that makes no sense."""
    try:
        text = os.readlink(b"numbers/" + key, dir_fd=work.fd)
    except OSError:
        return None
    return int(text) if len(text) <= 3 and text.isdigit() and int(text) in FURTHER else None
