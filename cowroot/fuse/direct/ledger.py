"""What a successor has to know: nodes, handles and requests in hand, in memory that outlives the process.

The daemon's server may be killed at any instruction; whoever follows it (see cowroot/fuse/keeper.py) finds here what it was doing. It is
memory of memfds, mapped shared: a store that was executed is there, whatever happens to who made it. Records are written whole, in one
copy, after what they refer to, so that half a record is never taken for one.

A node's record says by which name it is found again, not what is behind it: that is on the disk. Only what has lost its name is described.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

from cowroot.fuse.protocol import IN_HEADER, ROOT_ID

_NODE = struct.Struct("=QQQIHH32s")  # number, parent's number, inode, look-ups, length of the text, flags, the text or where it is
_LISTING = struct.Struct("=QQQII")  # the directory's number, the first entry's, the first unit of the text, its length, how many entries
_HANDLE = struct.Struct("=QQQII")  # number, node's number, the request that opened it, flags of open(2), number of the backing file
_ELSEWHERE = struct.Struct("=Q24x")  # a longer text: its first unit in the region of texts
_LONG = struct.Struct("=Q")
_REFS = struct.Struct("=I")
_REFS_AT = 24
INLINE = 32  # bytes of text that a record holds itself
UNIT = 64  # bytes that texts are stored in
_INDEX = (1 << 32) - 1  # the part of a number that is the record's place; the rest counts its uses, so that no number comes twice
_USE = 1 << 32

# Flags of a node: the record is in use; the text is not a name but a description of what has none; it has several names; the record is of
# such a further name, and the inode's number is the node's; the node's number is of a listing, and there in place of the inode's
USED, GONE, LINKED, ALIAS, STAND_IN = 1, 2, 4, 8, 16

_WORD = struct.Struct("=I")
_MOVING = struct.Struct("=4Q")
_MOVING_AT = 16
_SHELVED = struct.Struct("=QQ")  # place and length; nought and nought: none
_DISTURBED = struct.Struct("=Qqq")
_DISTURBED_AT = 48
_NOTE_HEAD = struct.Struct("=IIII4QQqq")  # deaths; lengths of the node's description and of the answer; padding; the numbers; the times
_NOTHING_NOTED = bytes(_NOTE_HEAD.size)
NOTES = 8192  # bytes before each request's buffer: what was found out about it, and its answer


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
        for index, fields in enumerate(_whole(self._nodes.map, _NODE)):
            if not fields[5] & USED:
                if index > ROOT_ID:
                    self._free_nodes.append(index)
            elif fields[0] != ROOT_ID:
                kept.append(fields)
                if fields[4] > INLINE:
                    used.append((_ELSEWHERE.unpack(fields[6])[0], fields[4]))
        self._listings_top = len(self._listings.map) // _LISTING.size
        listings = [(place, *fields) for place, fields in enumerate(_whole(self._listings.map, _LISTING))]
        self._free_listings = [each[0] for each in listings if not each[5]]
        listings = [each for each in listings if each[5]]
        self._texts.take_over(used + [(at, length + count) for _, _, _, at, length, count in listings])
        handles = []
        for index, fields in enumerate(_whole(self._handles.map, _HANDLE)):
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


def _whole(memory: mmap.mmap, record: struct.Struct) -> Iterator[tuple[Any, ...]]:
    return record.iter_unpack(memory[: len(memory) // record.size * record.size])


class Slot:
    """Room for one request in hand: `buffer` for the request, and before it what is known about it.

    The kernel writes the length of a request into its first word, and we write nought there once it is answered. What is noted under way:
    `moving`, four numbers, whose meaning is the request's own; `leaving`, a description of the node that is about to lose a name;
    `disturbed`, a directory's number, and the times (access, modification; nanoseconds) that it is to have when all is done;
    `answer`, once everything is done and only the kernel is left to be told.
    """

    __slots__ = ("_notes", "_used", "buffer")

    def __init__(self, memory: memoryview) -> None:
        self.buffer = memory[NOTES:]
        self._notes = memory[:NOTES]
        self._used = True

    @property
    def length(self) -> int:
        """Of the request: nought until the kernel has handed one over, and after `free`."""
        return int(_WORD.unpack_from(self.buffer)[0])

    def free(self) -> None:
        """The request is answered."""
        _WORD.pack_into(self.buffer, 0, 0)
        if self._used:
            self._notes[: _NOTE_HEAD.size] = _NOTHING_NOTED
            self._used = False

    def inherit(self) -> bool:
        """Another process had it. True if that had a request in hand."""
        self._used = True
        if not self.length:
            self.free()
        return self.length > 0

    @property
    def deaths(self) -> int:
        """How many have died over this request."""
        return int(_WORD.unpack_from(self._notes)[0])

    def count_death(self) -> None:
        _WORD.pack_into(self._notes, 0, self.deaths + 1)

    @property
    def moving(self) -> tuple[int, int, int, int]:
        return _MOVING.unpack_from(self._notes, _MOVING_AT)

    @moving.setter
    def moving(self, numbers: tuple[int, int, int, int]) -> None:
        self._used = True
        _MOVING.pack_into(self._notes, _MOVING_AT, *numbers)

    @property
    def disturbed(self) -> tuple[int, int, int]:
        return _DISTURBED.unpack_from(self._notes, _DISTURBED_AT)

    @disturbed.setter
    def disturbed(self, times: tuple[int, int, int]) -> None:
        self._used = True
        _DISTURBED.pack_into(self._notes, _DISTURBED_AT, *times)

    @property
    def leaving(self) -> bytes:
        return self._text(4, _NOTE_HEAD.size)

    @leaving.setter
    def leaving(self, description: bytes) -> None:
        self._store(4, _NOTE_HEAD.size, description)

    @property
    def answer(self) -> bytes:
        return self._text(8, NOTES // 2)

    @answer.setter
    def answer(self, reply: bytes) -> None:
        self._store(8, NOTES // 2, reply)

    def _text(self, head: int, at: int) -> bytes:
        (length,) = _WORD.unpack_from(self._notes, head)
        return bytes(self._notes[at : at + length])

    def _store(self, head: int, at: int, text: bytes) -> None:
        if len(text) > NOTES // 2 - _NOTE_HEAD.size:
            return  # no request is longer than it has to be; what is not noted is done again
        self._used = True
        _WORD.pack_into(self._notes, head, 0)
        self._notes[at : at + len(text)] = text
        _WORD.pack_into(self._notes, head, len(text))


class Slots:
    """The requests in hand of one mount: `count` at the most, each of at most `size` bytes."""

    def __init__(self, count: int, size: int) -> None:
        self._region = Region("requests")
        stride = NOTES + size
        self._region.reach(count * stride)
        memory = memoryview(self._region.map)
        self.all = [Slot(memory[number * stride : (number + 1) * stride]) for number in range(count)]
        self._next = iter(self.all)

    def next(self) -> Slot:
        """The slot of one more thread."""
        return next(self._next)


class Shelved(NamedTuple):
    """A request that was put aside before anything of it was done; `place` is where the shelf has it."""

    place: int
    content: bytes


class Shelf:
    """Requests that wait, not in anybody's hand."""

    def __init__(self) -> None:
        self._index = Region("shelf")
        self._texts = Texts()
        self._free: list[int] = []
        self._top = 0

    def put(self, content: bytes) -> Shelved:
        """Put a request aside."""
        at = self._texts.store(content)
        if self._free:
            place = self._free.pop()
        else:
            place = self._top
            self._top += 1
            self._index.reach(self._top * _SHELVED.size)
        self._index.map[place * _SHELVED.size : (place + 1) * _SHELVED.size] = _SHELVED.pack(at, len(content))
        return Shelved(place, content)

    def take(self, shelved: Shelved) -> None:
        """It is in somebody's hand again, or has been answered."""
        start = shelved.place * _SHELVED.size
        at, length = _SHELVED.unpack_from(self._index.map, start)
        self._index.map[start : start + _SHELVED.size] = bytes(_SHELVED.size)
        self._texts.free(at, length)
        self._free.append(shelved.place)

    def take_over(self, in_hand: Container[int]) -> list[Shelved]:
        """What a predecessor had put aside, but for the requests (by their unique numbers) that are in somebody's hand."""
        self._index.reopen()
        self._top = len(self._index.map) // _SHELVED.size
        entries = list(enumerate(_whole(self._index.map, _SHELVED)))
        self._free = [place for place, (_, length) in entries if not length]
        self._texts.take_over([(at, length) for _, (at, length) in entries if length])
        found = [Shelved(place, self._texts.load(at, length)) for place, (at, length) in entries if length]
        twice = [shelved for shelved in found if IN_HEADER.unpack_from(shelved.content)[2] in in_hand]
        for shelved in twice:
            self.take(shelved)
        return [shelved for shelved in found if shelved not in twice]
