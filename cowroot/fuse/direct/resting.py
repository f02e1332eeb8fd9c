"""Which files are not in use, so that their nodes can be made small."""

from __future__ import annotations

from collections import OrderedDict

from cowroot.union import Node

# nodes of files that were looked up and never opened; of files that were, enough for those that are used again and again
MOST_IDLE, MOST_RESTING = 4096, 16384
AT_ONCE = 64  # so many one after the other cost less than half of what they do one by one


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

    def surplus(self) -> list[int]:
        """Those that are too many, each told once."""
        found = []
        if len(self._idle) >= MOST_IDLE + AT_ONCE:
            found = [self._idle.popitem(last=False)[0] for _ in range(AT_ONCE)]
        if len(self._resting) >= MOST_RESTING + AT_ONCE:
            found += [self._resting.popitem(last=False)[0] for _ in range(AT_ONCE)]
        return found
