"""The requests in hand, where a successor finds them: see ledger.py."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Container
from typing import NamedTuple

from cowroot.fuse.direct.memory import Memory, Table, Texts
from cowroot.fuse.protocol import IN_HEADER

_WORD = struct.Struct("=I")
_MOVING = struct.Struct("=4Q")
_MOVING_AT = 16
_DISTURBED = struct.Struct("=Q4q")
_DISTURBED_AT = 48
_BILLION = 10**9
_NOTE_HEAD = struct.Struct("=IIII4QQ4q")  # deaths; lengths of the node's description and of the answer; padding; the numbers; the times
_NOTHING_NOTED = bytes(_NOTE_HEAD.size)
_SHELVED = struct.Struct("=QQ")  # place and length; nought and nought: none
NOTES = 8192  # bytes before each request's buffer: what was found out about it, and its answer
LAYOUT = (1, _NOTE_HEAD.format, _SHELVED.format, NOTES)  # as in ledger.py


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

    def fill(self) -> None:
        """Have all of its pages in this process's page table, before the kernel is to write to it.

        A process that is being killed gets no further pages: the kernel could hand it only a part of a request, which it gives up with EIO
        then (fuse_dev_do_read in fs/fuse/dev.c; __get_user_pages in mm/gup.c).
        """
        for memory in (self._notes, self.buffer):
            for place in range(0, len(memory), mmap.PAGESIZE):
                memory[place] = memory[place]

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
        number, *times = _DISTURBED.unpack_from(self._notes, _DISTURBED_AT)
        return number, times[0] * _BILLION + times[1], times[2] * _BILLION + times[3]

    @disturbed.setter
    def disturbed(self, times: tuple[int, int, int]) -> None:
        self._used = True
        number, accessed, modified = times
        # seconds apart: in nanoseconds alone the year 2262 would be the last, and users may give a directory any
        _DISTURBED.pack_into(self._notes, _DISTURBED_AT, number, *divmod(accessed, _BILLION), *divmod(modified, _BILLION))

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

    def __init__(self, memory: Memory, count: int, size: int) -> None:
        self._region = memory.region("requests")
        stride = NOTES + size
        self._region.reach(count * stride)
        view = memoryview(self._region.map)
        self.all = [Slot(view[number * stride : (number + 1) * stride]) for number in range(count)]
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

    def __init__(self, memory: Memory) -> None:
        self._index = Table(memory.region("shelf"), _SHELVED)
        self._texts = Texts(memory.region("shelved"))

    def put(self, content: bytes) -> Shelved:
        """Put a request aside."""
        at = self._texts.store(content)
        place = self._index.claim()
        self._index.write(place, at, len(content))
        return Shelved(place, content)

    def take(self, shelved: Shelved) -> None:
        """It is in somebody's hand again, or has been answered."""
        at, length = self._index.read(shelved.place)
        self._index.write(shelved.place, 0, 0)
        self._texts.free(at, length)
        self._index.release(shelved.place)

    def take_over(self, in_hand: Container[int]) -> list[Shelved]:
        """What a predecessor had put aside, but for the requests (by their unique numbers) that are in somebody's hand."""
        entries = self._index.take_over(lambda fields: bool(fields[1]))
        self._texts.take_over([(at, length) for _, (at, length) in entries])
        found = [Shelved(place, self._texts.load(at, length)) for place, (at, length) in entries]
        twice = [shelved for shelved in found if IN_HEADER.unpack_from(shelved.content)[2] in in_hand]
        for shelved in twice:
            self.take(shelved)
        return [shelved for shelved in found if shelved not in twice]
