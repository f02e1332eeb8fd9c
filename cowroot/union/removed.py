"""Files that have lost their last name, while the kernel still refers to them.

Between looking a file up and opening it, others may remove or replace it; and whoever has it open with O_PATH may open it properly much
later, through /proc/self/fd. A file system that keeps inodes has no trouble with that. Here the object is gone with its last name, unless
a descriptor holds it: one that needs neither a name on the disk nor a second change of it, and is closed when the kernel forgets the file,
which nearly always is at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from cowroot.union.node import Node
from cowroot.union.syscalls import fd_directory

MOST = 256  # descriptors: far more than calls can be under way; the oldest is given up for a further one


class Removed:
    """O_PATH descriptors of removed objects, by node."""

    def __init__(self) -> None:
        self._held: dict[Node, int] = {}

    def hold(self, node: Node, dir_fd: int, path: bytes) -> int:
        """Keep the node's object, which is still at `path` below the directory `dir_fd`, until `let_go`. Returns the descriptor."""
        fd = self._held.get(node, -1)
        if fd < 0:
            fd = self._held[node] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            if len(self._held) > MOST:
                self.let_go(next(iter(self._held)))
        return fd

    def adopt(self, node: Node, fd: int) -> None:
        """Keep the node's object, of which another process had the descriptor `fd`."""
        self._held[node] = fd

    def all(self) -> Iterable[Node]:
        """The nodes whose objects are held."""
        return self._held

    def let_go(self, node: Node) -> None:
        """Nobody can ask for the node any more."""
        fd = self._held.pop(node, -1)
        if fd >= 0:
            os.close(fd)

    def let_go_of_all(self) -> None:
        while self._held:
            self.let_go(next(iter(self._held)))

    def fd(self, node: Node) -> int:
        """The descriptor; -1 if the node's object is not held."""
        return self._held.get(node, -1)

    def place(self, node: Node) -> bytes | None:
        """The path of a link to the node's object, to be followed; None if it is not held."""
        fd = self._held.get(node)
        return None if fd is None else b"%s%d" % (fd_directory(), fd)
