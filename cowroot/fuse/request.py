"""The request in hand, and the files that requests have opened."""

from __future__ import annotations

from typing import Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.inodes import Inode
from cowroot.union import Attr, Handle, Node


class Request:
    """The request in hand: its header's fields, its buffer, and what its operations leave for each other."""

    __slots__ = (
        "buffer", "entry", "gid", "inode", "length", "opcode", "opened", "pid", "place", "rename_flags", "settled", "uid", "unique",
        "valid",
    )  # fmt: skip

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.length = self.opcode = self.unique = self.uid = self.gid = self.pid = 0
        self.inode: Inode  # what the header's node number stands for
        self.entry: Node  # the node that a look-up or creation found
        self.place: tuple[int, bytes] = (0, b"")  # and where: (directory's number, name)
        self.opened = 0  # the handle that a creation opened
        self.settled: Optional[Attr] = None  # set attributes, once they are set
        self.rename_flags = 0
        self.valid = 0  # which attributes to set; libfuse strips from the request what it does not know

    def name(self, offset: int) -> bytes:
        """The only or last name in the body, which begins `offset` bytes into the body."""
        return bytes(self.buffer[p.BODY + offset : self.length - 1])

    def names(self, offset: int) -> tuple[bytes, bytes]:
        """The two names that end the body."""
        first, second = bytes(self.buffer[p.BODY + offset : self.length - 1]).split(b"\0", 1)
        return first, second


class OpenFile:
    """A handle that the kernel holds. `lid` is libfuse's number of the file that it was opened by, 0 if libfuse does not know of it."""

    __slots__ = ("handle", "lid")

    def __init__(self, handle: Handle, lid: int) -> None:
        self.handle = handle
        self.lid = lid


class OpenFiles:
    """All open handles, by the number that the kernel has for them."""

    def __init__(self) -> None:
        self._files: dict[int, OpenFile] = {}
        self._last = 0
        self.find = self._files.__getitem__

    def __len__(self) -> int:
        return len(self._files)

    def add(self, handle: Handle, lid: int) -> int:
        self._last += 1
        self._files[self._last] = OpenFile(handle, lid)
        return self._last

    def remove(self, number: int) -> Handle:
        return self._files.pop(number).handle
