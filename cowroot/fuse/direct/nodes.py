"""Which number of the kernel's is which node, and for how long.

The kernel counts its look-ups of a node and gives them back with FORGET: as long as the count is not nought, the number has to mean this
node. Numbers are handed out once and never again, so that no generation is needed to tell a new file from an old one.

What is only listed has a number too, but becomes a node only when it is used: see listed.py. Then the node takes over number and count,
whoever it was that used it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Callable, Optional

from cowroot.fuse.direct.listed import MOST_HELD, Listing
from cowroot.fuse.protocol import ROOT_ID
from cowroot.union import Entry, Node, Union

_LISTED = 1 << 62  # numbers from here on are of what is listed
_PAGE = 8  # bits: of numbers that differ in these alone, all belong to one listing
_MOST_RESTING = 16384  # nodes: enough for the files that are used again and again


class Nodes:
    """The nodes that the kernel holds. `on_forgotten` is told of each that it does not hold any more."""

    def __init__(self, union: Union, on_forgotten: Callable[[Node], None]) -> None:
        self._union = union
        self._on_forgotten = on_forgotten
        self._next = ROOT_ID + 1
        union.root.nodeid = ROOT_ID
        self._by_id: dict[int, Node] = {ROOT_ID: union.root}
        self.find = self._by_id.get  # None for what is only listed
        self._next_listed = _LISTED
        self._pages: dict[int, Listing] = {}
        self._listings: dict[Node, Listing] = {}
        self._listed = 0
        self._resting: deque[int] = deque()
        union.tree.on_new = self._take_over

    def __len__(self) -> int:
        return len(self._by_id) + self._listed

    def hold(self, node: Node) -> int:
        """Count a look-up, which the answer at hand is about to tell the kernel of. Returns the node's number."""
        if not node.refs:
            if not node.nodeid:
                node.nodeid = self._next
                self._next += 1
            self._by_id[node.nodeid] = node
        self._union.retain(node)
        return node.nodeid

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel gives up `count` look-ups."""
        node = self._by_id.get(nodeid)
        if node is None:
            if nodeid >= _LISTED:
                self._forget_listed(nodeid, count)
            return
        if nodeid == ROOT_ID:
            return
        if count >= node.refs:
            count = node.refs
            del self._by_id[nodeid]
            self._on_forgotten(node)
            if nodeid >= _LISTED:
                node.nodeid = 0  # if it is looked up again, it gets an ordinary one
                self._end(self._pages[nodeid >> _PAGE])
        self._union.forget(node, count)

    # -- what is listed

    def listing(self, parent: Node, entries: Sequence[Entry]) -> Listing:
        """What the kernel has of the directory `parent`; `entries`: what is in it, in the order of their hashes."""
        return self._listings.get(parent) or Listing(parent, entries)

    def hold_listed(self, listing: Listing, index: int) -> int:
        """Count a look-up of a listed entry that is no node. Returns its number, or 0 if there is no room to count."""
        held = listing.held
        if held[index] == MOST_HELD:
            return 0
        if not held[index]:
            if not listing.live:
                self._begin(listing)
            listing.live += 1
            self._listed += 1
        held[index] += 1
        return listing.first + index

    def use(self, nodeid: int) -> Optional[Node]:
        """The node of a number that is only listed; None if there is no such."""
        listing = self._pages.get(nodeid >> _PAGE)
        if listing is None:
            return None
        index = nodeid - listing.first
        if not 0 <= index < len(listing.held) or not listing.held[index]:
            return None
        try:
            self._union.lookup(listing.parent, listing.name(index))
        except FileNotFoundError:
            return None  # somebody changed the layer
        return self._by_id.get(nodeid)

    def rest(self, node: Node) -> None:
        """A file is not open any more. Of those that have been so longest, and were listed, only that is kept."""
        if node.nodeid >= _LISTED and not node.upper:
            self._resting.append(node.nodeid)
            if len(self._resting) > _MOST_RESTING:
                self._shrink(self._resting.popleft())

    def _shrink(self, nodeid: int) -> None:
        """Go back from a node to what is listed, if it still is what the layer has under this name, and nobody uses it."""
        node, listing = self._by_id.get(nodeid), self._pages.get(nodeid >> _PAGE)
        if node is None or listing is None or node.upper or node.opens or node.origin is not None or not 0 < node.refs <= MOST_HELD:
            return
        index = nodeid - listing.first
        if node.parent is not listing.parent or node.name != listing.name(index) or node.patch is not None:
            return
        del self._by_id[nodeid]
        self._on_forgotten(node)
        self._listed += 1
        listing.held[index] = node.refs
        self._union.forget(node, node.refs)

    def _begin(self, listing: Listing) -> None:
        """The kernel is going to have some of the listing."""
        self._listings[listing.parent] = listing
        self._union.retain(listing.parent)
        listing.first = self._next_listed
        for page in listing.pages(_PAGE):
            self._pages[page] = listing
        self._next_listed = max(listing.pages(_PAGE)) + 1 << _PAGE

    def _end(self, listing: Listing) -> None:
        """The kernel does not have an entry any more, neither listed nor as a node."""
        listing.live -= 1
        if not listing.live:
            del self._listings[listing.parent]
            for page in listing.pages(_PAGE):
                del self._pages[page]
            self._union.forget(listing.parent)

    def _forget_listed(self, nodeid: int, count: int) -> None:
        listing = self._pages.get(nodeid >> _PAGE)
        if listing is None:
            return
        index = nodeid - listing.first
        if 0 <= index < len(listing.held) and listing.held[index]:
            listing.held[index] = max(listing.held[index] - count, 0)
            if not listing.held[index]:
                self._listed -= 1
                self._end(listing)

    def _take_over(self, node: Node, parent: Node, name: bytes) -> None:
        """A node has come into being, perhaps of something that is listed: the kernel's look-ups of that are its own."""
        listing = self._listings.get(parent)
        if listing is None:
            return
        index = listing.index(name)
        if index >= 0 and listing.held[index]:
            node.nodeid = listing.first + index
            node.refs += listing.held[index]
            self._by_id[node.nodeid] = node
            self._listed -= 1
            listing.held[index] = 0
