"""The index of hard links, in the work directory: lower files with several names, which stay one file when one of the names changes.

`index/FS-INODE` is the object of such a file that was copied up; its names in the upper are hard links to it, and its names that only
the lower has find it by the lower's inode. `links/FS-INODE` is a symbolic link that holds the file's link count, and the time at which
that changed, also while nothing is copied up. What the indexes of lowers that were uppers say of a file counts where this one says nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

from cowroot.union.layers import Layer


class Index:
    """The index of one union, in memory as in the work directory.

    `links`: link count and the time of its last change (nanoseconds), by origin.
    """

    def __init__(self, work: Layer | None, further: Iterable[Index] = ()) -> None:
        self.links: dict[tuple[int, int], tuple[int, int]] = {}
        for index in further:  # those of lowers, from the bottom
            self.links.update(index.links)
        self._inodes: dict[tuple[int, int], int] = {}
        self._origins: dict[int, tuple[int, int]] = {}
        self._work = work
        if work is not None:
            self._load(work)

    @staticmethod
    def home(origin: tuple[int, int]) -> bytes:
        """Where the copied-up object of the lower file is, below the work directory."""
        return b"index/%d-%d" % origin

    def add(self, origin: tuple[int, int], upper_ino: int) -> None:
        """The lower file has been copied up, as this inode."""
        self._inodes[origin] = upper_ino
        self._origins[upper_ino] = origin

    def inode_of(self, origin: tuple[int, int]) -> int | None:
        """The inode in the upper that the lower file was copied up as; None if it was not."""
        return self._inodes.get(origin)

    def origins(self) -> list[tuple[int, int]]:
        """The lower files that were copied up."""
        return list(self._inodes)

    def origin_of(self, upper_ino: int) -> tuple[int, int] | None:
        """The lower file that was copied up as this inode of the upper; None if that has another history."""
        return self._origins.get(upper_ino)

    def write_links(self, origin: tuple[int, int], count: int, temporary: bytes) -> LinkCount:
        """Write a link count that is not in force yet, as `temporary` in the work directory."""
        assert self._work is not None
        return LinkCount(self, self._work, origin, count, temporary)

    def forget(self, origin: tuple[int, int]) -> None:
        """The last name of the lower file is gone. The caller sees to the object."""
        upper_ino = self._inodes.pop(origin, None)
        if upper_ino is not None:
            del self._origins[upper_ino]
        if self.links.pop(origin, None) is not None:
            assert self._work is not None
            with suppress(FileNotFoundError):  # of a lower's index
                os.unlink(b"links/%d-%d" % origin, dir_fd=self._work.fd)

    def _load(self, work: Layer) -> None:
        for name in work.names(b"links"):
            try:
                count, changed_ns = os.readlink(b"links/" + name, dir_fd=work.fd).split()
                self.links[_origin(name)] = int(count), int(changed_ns)
            except (OSError, ValueError):
                continue  # not ours: `cowroot check` reports it
        for name in work.names(b"index"):
            try:
                self.add(_origin(name), work.stat(b"index/" + name).st_ino)
            except ValueError:
                continue


class LinkCount:
    """A link count that lies in the work directory already, so that putting it in force needs no room and is one step.

    `count`; `changed_ns`: the time of the change.
    """

    def __init__(self, index: Index, work: Layer, origin: tuple[int, int], count: int, temporary: bytes) -> None:
        self._index, self._work, self._origin, self._temporary = index, work, origin, temporary
        self.count, self.changed_ns = count, time.time_ns()
        os.symlink(b"%d %d" % (count, self.changed_ns), temporary, dir_fd=work.fd)

    def enforce(self) -> None:
        """From now on the file has so many links."""
        fd = self._work.fd
        os.rename(self._temporary, b"links/%d-%d" % self._origin, src_dir_fd=fd, dst_dir_fd=fd)
        self._index.links[self._origin] = self.count, self.changed_ns

    def drop(self) -> None:
        """It has as many as before."""
        os.unlink(self._temporary, dir_fd=self._work.fd)


def _origin(name: bytes) -> tuple[int, int]:
    fs, _, ino = name.partition(b"-")
    return int(fs), int(ino)
