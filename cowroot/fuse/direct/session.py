"""What the handlers of requests share: the union, the kernel's nodes, the request at hand, a way to tell the kernel something unasked."""

from __future__ import annotations

import os
import stat
from typing import Callable, Optional

from cowroot.fuse.direct import replies
from cowroot.fuse.direct.features import MAX_WRITE
from cowroot.fuse.direct.nodes import Nodes
from cowroot.fuse.direct.replies import YEAR
from cowroot.fuse.privileges import without_privileges
from cowroot.fuse.protocol import BODY
from cowroot.union import Node, Union

# The kernel wants room for the largest request: header, fuse_write_in, data. A page more keeps it from ever being an exact fit.
BUFFER_SIZE = MAX_WRITE + 4096

Handler = Callable[[int, Node, int], Optional[bytes]]
"""Answers one request: (unique number, node, length of the request) -> the whole reply, or None if there is none or it was sent."""


class Session:
    """State of one mount.

    `request` holds the request at hand, its body from `BODY` on; `uid`, `gid` and `pid` are its caller's.
    """

    def __init__(self, union: Union) -> None:
        self.union = union
        self.fd = -1
        self.features: frozenset[str] = frozenset()
        self.buffer = bytearray(BUFFER_SIZE)
        self.request = memoryview(self.buffer)
        self.uid = 0
        self.gid = 0
        self.pid = 0
        # nodes that the kernel may be writing to without telling us (see passthrough.py), and how to find out that it does not any more
        self.restless: set[Node] = set()
        self.has_calmed: Callable[[Node], bool] = lambda node: True
        self.nodes = Nodes(union, self.restless.discard)
        union.tree.on_copy_up = self._copied_up

    def text(self, start: int, size: int) -> bytes:
        """The one string that a request ends with; `start` counts from the end of its header."""
        return bytes(self.request[BODY + start : size - 1])

    def two_texts(self, start: int, size: int) -> tuple[bytes, bytes]:
        """The two strings that a request ends with."""
        first, _, second = bytes(self.request[BODY + start : size - 1]).partition(b"\0")
        return first, second

    def validity(self, node: Node) -> int:
        """For how many seconds the kernel may keep the node's attributes. To be asked before they are read."""
        if node in self.restless:
            if not self.has_calmed(node):
                return 0
            self.restless.discard(node)
        return YEAR

    def entry(self, unique: int, node: Node) -> bytes:
        """Answer with a name's node, which the kernel holds from then on."""
        valid = self.validity(node)
        attr = self.union.getattr(node)  # first: where it fails nothing is to be held
        return replies.entry(unique, self.nodes.hold(node), attr, valid)

    def tell_stale(self, node: Node) -> None:
        """Have the kernel ask for a node's attributes again: something changed that it does not expect."""
        if node.refs:
            self._notify(replies.stale_attributes(node.nodeid))

    def tell_moved(self, node: Node) -> None:
        """Have the kernel read a directory again that it keeps: its ".." is another one."""
        if node.refs:
            self._notify(replies.stale_contents(node.nodeid))

    def _notify(self, notification: bytes) -> None:
        try:
            os.write(self.fd, notification)
        except OSError:
            pass  # ENOENT: the kernel does not have the node any more; ENODEV: the mount is gone

    def drop_privileges(self, node: Node) -> None:
        """Clear set-user-ID and set-group-ID as a write does: see inode(7).

        File capabilities go by themselves: the upper's file system removes them when its file is written, truncated or given away.
        """
        kept = self.reduced_mode(node)
        if kept is not None:
            self.union.setattr(node, mode=kept)
            self.tell_stale(node)

    def reduced_mode(self, node: Node) -> Optional[int]:
        """The permission bits that a change of its content by the caller leaves to the file; None if they stay as they are."""
        attr = self.union.getattr(node)
        kept = without_privileges(attr.mode, attr.gid, (self.uid, self.gid, self.pid))
        return None if kept == stat.S_IMODE(attr.mode) else kept

    def _copied_up(self, node: Node) -> None:
        # Of a file the kernel asks again anyway after each operation that copies up. Of directories it does not: neither of one that was
        # copied up for something in it, nor of the one that got the copy, and had its times put back, which moved its change time.
        if node.children is not None:
            self.tell_stale(node)
        if node.parent is not None:
            self.tell_stale(node.parent)
