"""What a successor has to know: nodes, handles and listings, in memory that outlives the process.

The daemon's server may be killed at any instruction; whoever follows it (see cowroot/fuse/keeper.py) finds here, and in slots.py, what it
was doing.

A node's record says by which name it is found again, not what is behind it: that is on the disk. Only what has lost its name is described.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from cowroot.fuse.direct.memory import UNIT, Region, Texts, records
from cowroot.fuse.protocol import ROOT_ID

_NODE = struct.Struct("=QQQIHH32s")  # number, parent's number, inode, look-ups, length of the text, flags, the text or where it is
_LISTING = struct.Struct("=QQQII")  # the directory's number, the first entry's, the first unit of the text, its length, how many entries
_HANDLE = struct.Struct("=QQQII")  # number, node's number, the request that opened it, flags of open(2), number of the backing file
_ELSEWHERE = struct.Struct("=Q24x")  # a longer text: its first unit in the region of texts
_LONG = struct.Struct("=Q")
_REFS = struct.Struct("=I")
_REFS_AT = 24
INLINE = 32  # bytes of text that a record holds itself
_INDEX = (1 << 32) - 1  # the part of a number that is the record's place; the rest counts its uses, so that no number comes twice
_USE = 1 << 32

# Flags of a node: the record is in use; the text is not a name but a description of what has none; it has several names; the record is of
# such a further name, and the inode's number is the node's; the node's number is of a listing, and there in place of the inode's
USED, GONE, LINKED, ALIAS, STAND_IN = 1, 2, 4, 8, 16


class NodeRecord(NamedTuple):
    """One node, as its record has it."""

    number: int
    parent: int
    ino: int
    refs: int
    flags: int
    text: bytes


class HandleRecord(NamedTuple):
    """One open file, as its record has it."""

    number: int
    nodeid: int
    unique: int
    flags: int
    backing: int


class ListingRecord(NamedTuple):
    """Entries that are only listed: their directory, the first one's number, their names, and how many look-ups the kernel has of each."""

    place: int
    parent: int
    first: int
    text: bytes
    held: bytes


class Ledger:
    """All of it, for one mount."""

    def __init__(self) -> None:
        self._nodes = Region("nodes")
        self._handles = Region("handles")
        self._texts = Texts()
        self._listings = Region("listings")
        self._free_nodes: list[int] = []
        self._free_handles: list[int] = []
        self._free_listings: list[int] = []
        self._nodes_top = ROOT_ID + 1
        self._handles_top = 1
        self._listings_top = 0
        self._nodes.map[ROOT_ID * _NODE.size : (ROOT_ID + 1) * _NODE.size] = _NODE.pack(ROOT_ID, 0, 0, 1, 0, USED, b"")

    # -- nodes

    def enter(self, parent: int, name: bytes, ino: int, flags: int = 0, refs: int = 1) -> int:
        """A node of which the kernel is about to be told. Returns its number."""
        nodes = self._nodes
        if self._free_nodes:
            index = self._free_nodes.pop()
        else:
            index = self._nodes_top
            self._nodes_top += 1
            nodes.reach(self._nodes_top * _NODE.size)
        at = index * _NODE.size
        number: int = (_LONG.unpack_from(nodes.map, at)[0] + _USE) & ~_INDEX | index
        length = len(name)
        text = name if length <= INLINE else _ELSEWHERE.pack(self._texts.store(name))
        nodes.map[at : at + _NODE.size] = _NODE.pack(number, parent, ino, refs, length, USED | flags, text)
        return number

    def count(self, number: int, refs: int) -> None:
        """How many look-ups the kernel holds on a node."""
        _REFS.pack_into(self._nodes.map, (number & _INDEX) * _NODE.size + _REFS_AT, refs)

    def describe(self, number: int, parent: int, text: bytes, flags: int = 0) -> None:
        """A node has another name, or none any more (GONE: then `text` is its description)."""
        at = (number & _INDEX) * _NODE.size
        _, _, ino, refs, old_length, _, old_text = _NODE.unpack_from(self._nodes.map, at)
        length = len(text)
        stored = text if length <= INLINE else _ELSEWHERE.pack(self._texts.store(text))
        self._nodes.map[at : at + _NODE.size] = _NODE.pack(number, parent, ino, refs, length, USED | flags, stored)
        if old_length > INLINE:
            self._texts.free(_ELSEWHERE.unpack(old_text)[0], old_length)

    def strike(self, number: int) -> None:
        """A node is no more."""
        at = (number & _INDEX) * _NODE.size
        _, _, _, _, length, _, text = _NODE.unpack_from(self._nodes.map, at)
        self._nodes.map[at : at + _NODE.size] = _NODE.pack(number, 0, 0, 0, 0, 0, b"")
        if length > INLINE:
            self._texts.free(_ELSEWHERE.unpack(text)[0], length)
        self._free_nodes.append(number & _INDEX)

    def node(self, number: int) -> NodeRecord | None:
        """The record of a node, if there is one."""
        at = (number & _INDEX) * _NODE.size
        if at >= self._nodes_top * _NODE.size:
            return None
        record = self._record(*_NODE.unpack_from(self._nodes.map, at))
        return record if record.number == number and record.flags & USED else None

    def _record(self, number: int, parent: int, ino: int, refs: int, length: int, flags: int, text: bytes) -> NodeRecord:
        if length > INLINE:
            return NodeRecord(number, parent, ino, refs, flags, self._texts.load(_ELSEWHERE.unpack(text)[0], length))
        return NodeRecord(number, parent, ino, refs, flags, text[:length])

    # -- handles

    def open(self, nodeid: int, unique: int, flags: int, backing: int) -> int:
        """A file that request `unique` has opened. Returns the number of its handle."""
        if self._free_handles:
            index = self._free_handles.pop()
        else:
            index = self._handles_top
            self._handles_top += 1
            self._handles.reach(self._handles_top * _HANDLE.size)
        at = index * _HANDLE.size
        number: int = (_LONG.unpack_from(self._handles.map, at)[0] + _USE) & ~_INDEX | index
        self._handles.map[at : at + _HANDLE.size] = _HANDLE.pack(number, nodeid, unique, flags, backing)
        return number

    def node_of(self, number: int) -> int:
        """The number of the node that a handle belongs to; nought if there is no such handle."""
        at = (number & _INDEX) * _HANDLE.size
        if at + _HANDLE.size > len(self._handles.map):
            return 0
        recorded, nodeid, *_ = _HANDLE.unpack_from(self._handles.map, at)
        return nodeid if recorded == number else 0

    def close(self, number: int) -> None:
        """A file was closed."""
        at = (number & _INDEX) * _HANDLE.size
        self._handles.map[at : at + _HANDLE.size] = _HANDLE.pack(number, 0, 0, 0, 0)
        self._free_handles.append(number & _INDEX)

    # -- attributes that the kernel has not been told of

    def note_untold(self, untold: bool) -> None:
        """Note that there are such, or no more. That is in the place of the record number 0, which no node has."""
        self._nodes.map[0] = untold

    @property
    def is_untold(self) -> bool:
        return self._nodes.map[0] != 0

    # -- listings

    def enter_listing(self, parent: int, first: int, text: bytes, count: int) -> int:
        """Entries of which the kernel is about to be told; `count` of them. Returns where they are recorded."""
        if self._free_listings:
            place = self._free_listings.pop()
        else:
            place = self._listings_top
            self._listings_top += 1
            self._listings.reach(self._listings_top * _LISTING.size)
        at = self._texts.store(text + bytes(count))
        start = place * _LISTING.size
        self._listings.map[start : start + _LISTING.size] = _LISTING.pack(parent, first, at, len(text), count)
        return place

    def count_listed(self, place: int, index: int, held: int) -> None:
        """How many look-ups the kernel holds on an entry."""
        _, _, at, length, _ = _LISTING.unpack_from(self._listings.map, place * _LISTING.size)
        self._texts.region.map[at * UNIT + length + index] = held

    def strike_listing(self, place: int) -> None:
        """The kernel has none of these entries any more."""
        start = place * _LISTING.size
        _, _, at, length, count = _LISTING.unpack_from(self._listings.map, start)
        self._listings.map[start : start + _LISTING.size] = bytes(_LISTING.size)
        self._texts.free(at, length + count)
        self._free_listings.append(place)

    # -- for a successor

    def take_over(self) -> tuple[list[NodeRecord], list[HandleRecord], list[ListingRecord]]:
        """Go on from what the predecessor left. Returns the nodes (but the root), the handles and the listings that there are."""
        self._nodes.reopen()
        self._listings.reopen()
        self._handles.reopen()
        self._nodes_top = len(self._nodes.map) // _NODE.size
        self._handles_top = len(self._handles.map) // _HANDLE.size
        self._free_nodes, self._free_handles = [], []
        used: list[tuple[int, int]] = []
        kept: list[tuple[Any, ...]] = []
        for index, fields in enumerate(records(self._nodes.map, _NODE)):
            if not fields[5] & USED:
                if index > ROOT_ID:
                    self._free_nodes.append(index)
            elif fields[0] != ROOT_ID:
                kept.append(fields)
                if fields[4] > INLINE:
                    used.append((_ELSEWHERE.unpack(fields[6])[0], fields[4]))
        self._listings_top = len(self._listings.map) // _LISTING.size
        listings = [(place, *fields) for place, fields in enumerate(records(self._listings.map, _LISTING))]
        self._free_listings = [each[0] for each in listings if not each[5]]
        listings = [each for each in listings if each[5]]
        self._texts.take_over(used + [(at, length + count) for _, _, _, at, length, count in listings])
        handles = []
        for index, fields in enumerate(records(self._handles.map, _HANDLE)):
            if fields[1]:
                handles.append(HandleRecord(*fields))
            elif index:
                self._free_handles.append(index)
        self._free_nodes.reverse()
        self._free_handles.reverse()
        return [self._record(*fields) for fields in kept], handles, [self._listing(*each) for each in listings]

    def _listing(self, place: int, parent: int, first: int, at: int, length: int, count: int) -> ListingRecord:
        text = self._texts.load(at, length + count)
        return ListingRecord(place, parent, first, text[:length], text[length:])
