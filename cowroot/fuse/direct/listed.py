"""What the kernel knows from a listing only, kept small.

Whoever walks a large tree makes the kernel hold each of its files, mostly for nothing but what stat(2) shows. A node for each would be most
of the daemon's memory. So of a directory that is in one lower layer alone, whose entries stay what they are, READDIRPLUS makes a Listing:
the names, and how often each was told to the kernel. Only what is then used becomes a node.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

from cowroot.union import Entry, Node

HASH = (1 << 61) - 1
MOST_HELD = 255  # what a count has room for


class Listing:
    """The entries of the directory `parent`, numbered from `first` on in the order of their names' hashes.

    `held` is how many look-ups the kernel has of each that is no node; `live`, of how many entries it has any, nodes included.
    """

    __slots__ = ("_hashes", "_names", "_starts", "first", "held", "live", "parent")

    def __init__(self, parent: Node, entries: Sequence[Entry]) -> None:
        self.parent = parent
        self.first = 0  # until the kernel has any of them
        self._names = b"".join([entry.name for entry in entries])
        self._hashes = array("Q", [hash(entry.name) & HASH for entry in entries])
        starts = array("I", [0])
        for entry in entries:
            starts.append(starts[-1] + len(entry.name))
        self._starts = starts
        self.held = bytearray(len(entries))
        self.live = 0

    def pages(self, bits: int) -> range:
        """Its numbers, without the last `bits`."""
        return range(self.first >> bits, (self.first + len(self.held) - 1 >> bits) + 1)

    def name(self, index: int) -> bytes:
        return self._names[self._starts[index] : self._starts[index + 1]]

    def index(self, name: bytes) -> int:
        """Where a name is; -1 if it is not listed."""
        hashed = hash(name) & HASH
        index = bisect_left(self._hashes, hashed)
        while index < len(self._hashes) and self._hashes[index] == hashed:
            if self.name(index) == name:
                return index
            index += 1
        return -1
