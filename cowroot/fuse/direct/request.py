"""The request in hand. Each thread that serves has one, and everything about the request is in it: a handler keeps nothing elsewhere."""

from __future__ import annotations

import errno
from typing import Optional

from cowroot.fuse.direct.features import MAX_WRITE
from cowroot.fuse.direct.slots import Shelved, Slot
from cowroot.fuse.protocol import BODY, IN_HEADER, OPCODE_LIMIT
from cowroot.union.tree import fail

# The kernel wants room for the largest request: header, fuse_write_in, data. A page more keeps it from ever being an exact fit.
BUFFER_SIZE = MAX_WRITE + 4096

NAME_MAX = 255  # bytes, on every file system that can be an upper (linux/limits.h)
_NO_NAMES = (b"", b".", b"..")


class Request:
    """A request as the kernel sent it, and what its header says.

    `view` is the whole request, `size` bytes, its body from `BODY` on; `buffer` goes on behind it, with what earlier ones have left there.
    `uid`, `gid` and `pid` are its caller's.
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
        self.view = self.buffer[:size]
        _, self.opcode, self.unique, self.nodeid, self.uid, self.gid, self.pid, _ = IN_HEADER.unpack_from(self.view)
        if self.opcode >= OPCODE_LIMIT:
            self.opcode = 0  # which there is none of

    def parse_again(self) -> int:
        """Read the header of the request that a predecessor had in hand. Returns its number."""
        self.parse(self.slot.length)
        return self.unique

    def load(self, shelved: Shelved) -> None:
        """Take up a request that was put aside. Its first word comes last, and says that there is one."""
        self.buffer[4 : len(shelved.content)] = shelved.content[4:]
        self.buffer[:4] = shelved.content[:4]
        self.parse(len(shelved.content))

    def copy(self) -> bytes:
        """The request, to be taken up again by whichever thread."""
        return bytes(self.view)

    def text(self, start: int) -> bytes:
        """The one string that the request ends with; `start` counts from the end of its header. Raises OSError(EINVAL) if it is none."""
        return _checked_text(bytes(self.view[BODY + start : self.size - 1]))

    def name(self, start: int) -> bytes:
        """The name in a directory that the request ends with. Raises OSError as `checked_name` does."""
        return checked_name(bytes(self.view[BODY + start : self.size - 1]))

    def name_and_text(self, start: int) -> tuple[bytes, bytes]:
        """The name, and after it the string, that the request ends with. Raises OSError as `name` and `text` do."""
        name, _, text = bytes(self.view[BODY + start : self.size - 1]).partition(b"\0")
        return checked_name(name), _checked_text(text)

    def two_names(self, start: int) -> tuple[bytes, bytes]:
        """The two names that the request ends with. Raises OSError as `name` does."""
        first, second = self.name_and_text(start)
        return first, checked_name(second)


def _checked_text(text: bytes) -> bytes:
    if b"\0" in text:
        fail(errno.EINVAL, text)
    return text


def checked_name(name: bytes) -> bytes:
    """The name, if it is one. Raises OSError: EINVAL for what would be a path, and lead elsewhere; ENAMETOOLONG."""
    if b"/" in name or b"\0" in name or name in _NO_NAMES:
        fail(errno.EINVAL, name)
    if len(name) > NAME_MAX:
        fail(errno.ENAMETOOLONG, name)
    return name
