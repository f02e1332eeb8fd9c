"""What a successor has to know: nodes, handles and listings, in memory that outlives the process.

The daemon's server may be killed at any instruction; whoever follows it (see cowroot/fuse/keeper.py) finds here, and in slots.py, what it
was doing.

A node's record says by which name it is found again, not what is behind it: that is on the disk. Only what has lost its name is described.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cowroot.fuse.direct.memory import UNIT, Memory, Table, Texts
from cowroot.fuse.protocol import ROOT_ID

_NODE = struct.Struct("=QQQIHH32s")  # number, parent's number, inode, look-ups, length of the text, flags, the text or where it is
_LISTING = struct.Struct("=QQQII")  # the directory's number, the first entry's, the first unit of the text, its length, how many entries
_HANDLE = struct.Struct("=QQQII")  # number, node's number, the request that opened it, flags of open(2), number of the backing file
_ELSEWHERE = struct.Struct("=Q24x")  # a longer text: its first unit in the region of texts
_REFS = struct.Struct("=I")
_REFS_AT = 24
INLINE = 32  # bytes of text that a record holds itself
# What another version has to agree on before it goes on with these records. The number goes up with what they mean, not with how they look.
LAYOUT = (1, _NODE.format, _LISTING.format, _HANDLE.format, _ELSEWHERE.format, INLINE, UNIT)
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

    def __init__(self, memory: Memory) -> None:
        self._nodes = Table(memory.region("nodes"), _NODE, ROOT_ID + 1)
        self._handles = Table(memory.region("handles"), _HANDLE, 1)
        self._listings = Table(memory.region("listings"), _LISTING)
        self._texts = Texts(memory.region("texts"))

    # -- nodes

    def enter(self, parent: int, name: bytes, ino: int, flags: int = 0, refs: int = 1) -> int:
        """A node of which the kernel is about to be told. Returns its number."""
        number = _next_use(self._nodes)
        length = len(name)
        text = name if length <= INLINE else _ELSEWHERE.pack(self._texts.store(name))
        self._nodes.write(number & _INDEX, number, parent, ino, refs, length, USED | flags, text)
        return number

    def count(self, number: int, refs: int) -> None:
        """How many look-ups the kernel holds on a node."""
        _REFS.pack_into(self._nodes.region.map, (number & _INDEX) * _NODE.size + _REFS_AT, refs)

    def describe(self, number: int, parent: int, text: bytes, flags: int = 0) -> None:
        """A node has another name, or none any more (GONE: then `text` is its description)."""
        _, _, ino, refs, old_length, _, old_text = self._nodes.read(number & _INDEX)
        length = len(text)
        stored = text if length <= INLINE else _ELSEWHERE.pack(self._texts.store(text))
        self._nodes.write(number & _INDEX, number, parent, ino, refs, length, USED | flags, stored)
        if old_length > INLINE:
            self._texts.free(_ELSEWHERE.unpack(old_text)[0], old_length)

    def strike(self, number: int) -> None:
        """A node is no more."""
        *_, length, _, text = self._nodes.read(number & _INDEX)
        self._nodes.write(number & _INDEX, number, 0, 0, 0, 0, 0, b"")
        if length > INLINE:
            self._texts.free(_ELSEWHERE.unpack(text)[0], length)
        self._nodes.release(number & _INDEX)

    def node(self, number: int) -> NodeRecord | None:
        """The record of a node; None if there is no such."""
        if not self._nodes.reaches(number & _INDEX):
            return None
        record = self._record(*self._nodes.read(number & _INDEX))
        return record if record.number == number and record.flags & USED else None

    def _record(self, number: int, parent: int, ino: int, refs: int, length: int, flags: int, text: bytes) -> NodeRecord:
        if length > INLINE:
            return NodeRecord(number, parent, ino, refs, flags, self._texts.load(_ELSEWHERE.unpack(text)[0], length))
        return NodeRecord(number, parent, ino, refs, flags, text[:length])

    # -- handles

    def open(self, nodeid: int, unique: int, flags: int, backing: int) -> int:
        """A file that request `unique` has opened. Returns the number of its handle."""
        number = _next_use(self._handles)
        self._handles.write(number & _INDEX, number, nodeid, unique, flags, backing)
        return number

    def node_of(self, number: int) -> int:
        """The number of the node that a handle belongs to; nought if there is no such handle."""
        if not self._handles.reaches(number & _INDEX):
            return 0
        recorded, nodeid, *_ = self._handles.read(number & _INDEX)
        return int(nodeid) if recorded == number else 0

    def close(self, number: int) -> None:
        """A file was closed."""
        self._handles.write(number & _INDEX, number, 0, 0, 0, 0)
        self._handles.release(number & _INDEX)

    # -- attributes that the kernel has not been told of

    def note_untold(self, untold: bool) -> None:
        """Note that there are such, or no more. That is in the place of the record number 0, which no node has."""
        self._nodes.region.map[0] = untold

    @property
    def is_untold(self) -> bool:
        return self._nodes.region.map[0] != 0

    # -- listings

    def enter_listing(self, parent: int, first: int, text: bytes, count: int) -> int:
        """Entries of which the kernel is about to be told; `count` of them. Returns where they are recorded."""
        place = self._listings.claim()
        self._listings.write(place, parent, first, self._texts.store(text + bytes(count)), len(text), count)
        return place

    def count_listed(self, place: int, index: int, held: int) -> None:
        """How many look-ups the kernel holds on an entry."""
        _, _, at, length, _ = self._listings.read(place)
        self._texts.region.map[at * UNIT + length + index] = held

    def strike_listing(self, place: int) -> None:
        """The kernel has none of these entries any more."""
        _, _, at, length, count = self._listings.read(place)
        self._listings.write(place, 0, 0, 0, 0, 0)
        self._texts.free(at, length + count)
        self._listings.release(place)

    # -- for a successor

    def take_over(self) -> tuple[list[NodeRecord], list[HandleRecord], list[ListingRecord]]:
        """Go on from what the predecessor left. Returns the nodes (but the root), the handles and the listings that there are."""
        nodes = self._nodes.take_over(lambda fields: bool(fields[5] & USED))
        handles = self._handles.take_over(lambda fields: bool(fields[1]))
        listings = self._listings.take_over(lambda fields: bool(fields[4]))
        texts = [(_ELSEWHERE.unpack(text)[0], length) for _, (_, _, _, _, length, _, text) in nodes if length > INLINE]
        texts += [(at, length + count) for _, (_, _, at, length, count) in listings]
        self._texts.take_over(texts)
        return (
            [self._record(*fields) for _, fields in nodes],
            [HandleRecord(*fields) for _, fields in handles],
            [self._listing(place, *fields) for place, fields in listings],
        )

    def _listing(self, place: int, parent: int, first: int, at: int, length: int, count: int) -> ListingRecord:
        text = self._texts.load(at, length + count)
        return ListingRecord(place, parent, first, text[:length], text[length:])


def _next_use(table: Table) -> int:
    """A number for one more record of a table, of which the record's place is a part."""
    place = table.claim()
    return (table.number(place) + _USE) & ~_INDEX | place
