"""Which number of the kernel's is which node, and for how long.

The kernel counts its look-ups of a node and gives them back with FORGET: as long as the count is not nought, the number has to mean this
node. Numbers are handed out once and never again, so that no generation is needed to tell a new file from an old one.
"""

from __future__ import annotations

from typing import Callable

from cowroot.fuse.protocol import ROOT_ID
from cowroot.union import Node, Union


class Nodes:
    """The nodes that the kernel holds. `on_forgotten` is told of each that it does not hold any more."""

    def __init__(self, union: Union, on_forgotten: Callable[[Node], None]) -> None:
        self._union = union
        self._on_forgotten = on_forgotten
        self._next = ROOT_ID + 1
        union.root.nodeid = ROOT_ID
        self.by_id: dict[int, Node] = {ROOT_ID: union.root}
        self.find = self.by_id.get

    def __len__(self) -> int:
        return len(self.by_id)

    def hold(self, node: Node) -> int:
        """Count a look-up, which the answer at hand is about to tell the kernel of. Returns the node's number."""
        if not node.refs:
            if not node.nodeid:
                node.nodeid = self._next
                self._next += 1
            self.by_id[node.nodeid] = node
        self._union.retain(node)
        return node.nodeid

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel gives up `count` look-ups."""
        node = self.by_id.get(nodeid)
        if node is None or nodeid == ROOT_ID:
            return
        if count >= node.refs:
            count = node.refs
            del self.by_id[nodeid]
            self._on_forgotten(node)
        self._union.forget(node, count)
