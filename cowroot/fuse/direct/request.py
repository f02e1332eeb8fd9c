"""The request in hand. Each thread that serves has one, and everything about the request is in it: a handler keeps nothing elsewhere."""

from __future__ import annotations

from typing import Optional

from cowroot.fuse.direct.features import MAX_WRITE
from cowroot.fuse.direct.slots import Shelved, Slot
from cowroot.fuse.protocol import BODY, IN_HEADER

# The kernel wants room for the largest request: header, fuse_write_in, data. A page more keeps it from ever being an exact fit.
BUFFER_SIZE = MAX_WRITE + 4096


class Request:
    """A request as the kernel sent it, and what its header says.

    `view` shows `buffer`: the whole request, `size` bytes, its body from `BODY` on; `uid`, `gid` and `pid` are its caller's.
    `leading`, `locked` and `aside` are its thread's part in the session: see threads.py. `slot` is where it is kept for a successor.
    """

    __slots__ = ("aside", "buffer", "gid", "leading", "locked", "nodeid", "opcode", "pid", "size", "slot", "uid", "unique", "view")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.buffer = self.view = slot.buffer
        self.size = self.opcode = self.unique = self.nodeid = self.uid = self.gid = self.pid = 0
        self.leading = self.locked = False
        self.aside: Optional[int] = None  # what for

    def parse(self, size: int) -> None:
        """A request of `size` bytes has come into the buffer: read its header."""
        self.size = size
        _, self.opcode, self.unique, self.nodeid, self.uid, self.gid, self.pid, _ = IN_HEADER.unpack_from(self.buffer)

    def load(self, shelved: Shelved) -> None:
        """Take up a request that was put aside."""
        self.view[: len(shelved.content)] = shelved.content
        self.parse(len(shelved.content))

    def copy(self) -> bytes:
        """The request, to be taken up again by whichever thread."""
        return bytes(self.view[: self.size])

    def text(self, start: int) -> bytes:
        """The one string that the request ends with; `start` counts from the end of its header."""
        return bytes(self.view[BODY + start : self.size - 1])

    def two_texts(self, start: int) -> tuple[bytes, bytes]:
        """The two strings that the request ends with."""
        first, _, second = bytes(self.view[BODY + start : self.size - 1]).partition(b"\0")
        return first, second
