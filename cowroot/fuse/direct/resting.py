"""Which files are not in use, so that their nodes can be made small."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from cowroot.union import Node

# nodes of files that were looked up and never opened; of files that were, enough for those that are used again and again
MOST_IDLE, MOST_RESTING = 4096, 16384


class Resting:
    """Numbers of nodes: of files that may never be used, and of those that may not be used again; the oldest first."""

    def __init__(self) -> None:
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._resting: OrderedDict[int, None] = OrderedDict()

    @staticmethod
    def may(node: Node) -> bool:
        """True for what is found again as it is by its only name: a file of the lower with all its data."""
        return not node.upper and node.children is None and node.origin is None and node.patch is None

    def came(self, node: Node) -> None:
        """The node has come into being."""
        if self.may(node):
            self._idle[node.nodeid] = None

    def closed(self, node: Node) -> None:
        """The file is not open any more."""
        if self.may(node):
            self._idle.pop(node.nodeid, None)
            self._resting[node.nodeid] = None
            self._resting.move_to_end(node.nodeid)

    def surplus(self) -> Iterator[int]:
        """Those that are more than are kept, each once."""
        while len(self._idle) > MOST_IDLE:
            yield self._idle.popitem(last=False)[0]
        while len(self._resting) > MOST_RESTING:
            yield self._resting.popitem(last=False)[0]
