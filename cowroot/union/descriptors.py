"""How many backing files are open. A union may have more files open than its process may have descriptors.

A backing file is opened when it is first read or written, and can be opened again: handles do not hold it, and whoever does something with
it beside other calls has duplicated the descriptor. So there is a bound, and beyond it those that were opened longest ago are closed.
"""

from __future__ import annotations

import os
import resource
from itertools import islice

from cowroot.union.node import Node

_OTHERS = 1024  # descriptors for all else: layers, listings, copies, removed files, calls that take long
_TRIED = 16  # of the oldest, for one that can be closed


class Descriptors:
    """The nodes whose backing file is open, in the order in which they were opened."""

    def __init__(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(limit - _OTHERS, limit // 2) if limit != resource.RLIM_INFINITY else 1 << 20
        self._open: dict[Node, None] = {}

    def opened(self, node: Node) -> None:
        """The node's backing file has been opened. That of another is closed, if there are too many: the caller uses none but this."""
        self._open[node] = None
        if len(self._open) > self._most:
            self._close_one(node)

    def close(self, node: Node) -> None:
        """Close the node's backing file, if it is open."""
        if node.fd >= 0:
            os.close(node.fd)
            node.fd, node.fd_writable = -1, False
        self._open.pop(node, None)
        if node.patch is not None:
            node.patch.close()

    def _close_one(self, kept: Node) -> None:
        for node in list(islice(self._open, _TRIED)):
            if node is not kept and _can_be_opened_again(node):
                self.close(node)
                return
            self._open[node] = self._open.pop(node)  # the others come first, next time


def _can_be_opened_again(node: Node) -> bool:
    """False for a file that has lost its name and was opened only then: a descriptor is all that there is of it (removed.py)."""
    return not node.upper or node.home is not None or node.parent is not None
