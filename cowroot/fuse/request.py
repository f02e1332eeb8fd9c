"""The request in hand, and the files that requests have opened."""

from __future__ import annotations

from cowroot.fuse import protocol as p
from cowroot.fuse.inodes import Inode
from cowroot.union import Attr, Handle, Node


class Request:
    """The request in hand: its header's fields, its buffer, and what its operations leave for each other."""

    __slots__ = (
        "attr", "buffer", "entry", "gid", "inode", "length", "opcode", "opened", "pid", "place", "rename_flags", "uid", "unique",
    )  # fmt: skip

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.length = self.opcode = self.unique = self.uid = self.gid = self.pid = 0
        self.inode: Inode  # what the header's node number stands for
        self.entry: Node  # the node that a look-up or creation found
        self.attr: Attr  # its attributes
        self.place: tuple[int, bytes] = (0, b"")  # and where: (directory's number, name)
        self.opened = 0  # the handle that was opened
        self.rename_flags = 0

    def name(self, offset: int) -> bytes:
        """The only or last name in the body, which begins `offset` bytes into the body."""
        return bytes(self.buffer[p.BODY + offset : self.length - 1])

    def names(self, offset: int) -> tuple[bytes, bytes]:
        """The two names that end the body."""
        first, second = bytes(self.buffer[p.BODY + offset : self.length - 1]).split(b"\0", 1)
        return first, second


class OpenFiles:
    """All open handles, by the number that the kernel has for them."""

    def __init__(self) -> None:
        self._files: dict[int, Handle] = {}
        self._last = 0
        self.find = self._files.__getitem__
        self.remove = self._files.pop

    def __len__(self) -> int:
        return len(self._files)

    def add(self, handle: Handle) -> int:
        self._last += 1
        self._files[self._last] = handle
        return self._last
