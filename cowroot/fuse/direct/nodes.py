"""Which number of the kernel's is which node.

The kernel counts its look-ups of a node and gives them back with FORGET: as long as the count is not nought, the number has to mean this
node. A node keeps its number for as long as it is in the tree. Numbers are handed out once and never again, so that no generation is needed
to tell a new file from an old one. Each is in the ledger, with the name by which a successor finds the node again.

What is only listed has a number too, but becomes a node only when it is used: see listed.py. Then the node takes over number and count,
whoever it was that used it. The listing goes on being its record until the node gets another name: then it has one of its own as well,
its stand-in. Other files that are not used are put to rest, too: see dormant.py.
"""

from __future__ import annotations

import marshal
from typing import Callable

from cowroot.fuse.direct.dormant import Dormant
from cowroot.fuse.direct.inheritance import Inheritance
from cowroot.fuse.direct.ledger import ALIAS, GONE, LINKED, STAND_IN, HandleRecord, Ledger, NodeRecord
from cowroot.fuse.direct.listed import LISTED, MOST_HELD, Listings, read_text
from cowroot.fuse.direct.resting import Resting
from cowroot.fuse.direct.slots import Slot
from cowroot.fuse.direct.trustee import Trustee
from cowroot.fuse.protocol import ROOT_ID
from cowroot.union import Attr, Node, Union
from cowroot.union.portrait import describe, home_of, revive
from cowroot.union.watch import Watch

_NOBODY: tuple[Node | None, Attr | None, bytes | None, bytes] = (None, None, None, b"")


class Nodes(Watch):
    """The nodes that the kernel holds, and what it has from listings.

    Arguments: `on_forgotten` is told of each node that the kernel does not hold any more; `slot()` is that of the request in hand.
    """

    def __init__(self, union: Union, ledger: Ledger, on_forgotten: Callable[[Node], None], slot: Callable[[], Slot]) -> None:
        self._union = union
        self._ledger = ledger
        self._on_forgotten = on_forgotten
        self._slot = slot
        self.on_found: Callable[[Node, list[HandleRecord]], None] | None = None  # told of each that a predecessor had, and of its handles
        union.root.nodeid = ROOT_ID
        self._by_id: dict[int, Node] = {ROOT_ID: union.root}
        self.find = self._by_id.get  # None for what is only listed, or only a predecessor knew
        self._aliases: dict[tuple[int, bytes], int] = {}  # further names of nodes, by directory's number and name: their own records
        self._stand_ins: dict[int, int] = {}  # numbers of records, by the listed numbers of nodes
        self.dormant = Dormant(ledger)
        self._resting = Resting()
        self.is_awaited: Callable[[Node], bool] = lambda node: False  # somebody is about to go on with the node
        self._left_as = _NOBODY  # who was leaving, its attributes, where its object is, and its description
        self.listings = Listings(ledger, self.hold, self._let_go)
        self.inheritance: Inheritance | None = None
        self.trustee = Trustee()
        union.tree.watch = self

    def __len__(self) -> int:
        unmet = len(self.inheritance.nodes) if self.inheritance is not None else 0
        return len(self._by_id) + len(self.dormant) + self.listings.count + unmet

    def get(self, number: int) -> Node | None:
        """The node with this number, whoever was told of it."""
        node = self._by_id.get(number)
        if node is None:
            self._put_to_rest()
            if self.inheritance is not None:
                node = self._restore(number)
            node = node or self._wake(number) or self.use(number)
            self._union.forget_found()  # which is no part of the request at hand
        return node

    def use(self, number: int) -> Node | None:
        """The node of a number that is only listed; None if there is no such."""
        found = self.listings.find(number)
        if found is None:
            return None
        listing, index = found
        if not listing.held[index]:
            return None
        try:
            self._union.lookup(listing.parent, listing.name(index))
        except FileNotFoundError:
            return None  # somebody changed the layer
        return self._by_id.get(number)

    # -- look-ups

    def hold(self, node: Node) -> int:
        """Count a look-up, which the answer at hand is about to tell the kernel of. Returns the node's number."""
        self._union.retain(node)
        if node.nodeid:
            self._count(node, node.refs)
        else:
            self._enter(node)
        number = node.nodeid
        self._put_to_rest()
        return number

    def held(self, number: int) -> int:
        """How many look-ups of a number the kernel has."""
        node = self._by_id.get(number)
        if node is not None:
            return node.refs
        record = self.inheritance.nodes.get(number) if self.inheritance is not None else None
        if record is not None:
            return record.refs
        found = self.listings.find(number)
        if found is not None:
            return found[0].held[found[1]]
        record = self.dormant.find(number)
        return record.refs if record is not None else 0

    def forget(self, number: int, count: int) -> None:
        """The kernel gives up `count` look-ups."""
        found = self.listings.find(number) if number >= LISTED else None
        if found is not None and number not in self._by_id and found[0].held[found[1]]:
            self.listings.forget(*found, count)
            return
        record = self.dormant.find(number) if number not in self._by_id else None
        if record is not None:
            self._forget_dormant(record, count)
            return
        node = self.get(number)
        if node is not None and number != ROOT_ID:
            self._let_go(node, count)

    def _forget_dormant(self, record: NodeRecord, count: int) -> None:
        left = max(record.refs - count, 0)
        self._ledger.count(record.number, left)
        if not left:
            self.dormant.remove(record)
            self._ledger.strike(record.number)
            self._union.forget(self._by_id[record.parent], 0)  # which may have been there for this one alone

    def _let_go(self, node: Node, count: int = 1) -> None:
        count = min(count, node.refs)
        self._count(node, node.refs - count)
        if count == node.refs:
            self._on_forgotten(node)
        self._union.forget(node, count)

    def _enter(self, node: Node) -> None:
        if node.parent is None:
            node.nodeid = self._ledger.enter(0, describe(self._union.layers, node, node.last, node.home), node.ino, GONE)
        else:
            node.nodeid = self._ledger.enter(node.parent.nodeid, node.name, node.ino, _linked(node), node.refs)
            for parent, name in node.others or ():
                self._add_alias(node, parent, name)
        self._by_id[node.nodeid] = node
        self._resting.came(node)

    def _count(self, node: Node, refs: int) -> None:
        number = node.nodeid
        if number < LISTED:
            self._ledger.count(number, refs)
        elif number in self._stand_ins:
            self._ledger.count(self._stand_ins[number], refs)
        elif refs <= MOST_HELD:
            self.listings.note(number, refs)
        else:
            self._describe(node, refs)

    # -- what the tree tells

    def named(self, node: Node, parent: Node, name: bytes) -> None:
        if self.inheritance is not None:
            number = self.inheritance.take_name(parent.nodeid, name)
            if number and not node.nodeid:
                self._adopt(node, self.inheritance.nodes.pop(number))
        if not node.nodeid:
            if not self._take_from_listing(node, parent, name):
                self._take_from_dormant(node, parent, name)
        elif node.parent is not parent or node.name != name:
            self._describe(node)
            self._add_alias(node, parent, name)
        elif not self._is_recorded_there(node):
            self._describe(node)

    def _is_recorded_there(self, node: Node) -> bool:
        """True for a node of a listing that has no other record, and needs none."""
        if node.nodeid < LISTED or node.nodeid in self._stand_ins or _linked(node):
            return False
        found = self.listings.find(node.nodeid)
        return found is not None and node.parent is found[0].parent and node.name == found[0].name(found[1])

    def _take_from_listing(self, node: Node, parent: Node, name: bytes) -> bool:
        """A node has come into being, perhaps of something that is listed: the kernel's look-ups of that are its own."""
        listing = self.listings.of(parent)
        index = listing.index(name) if listing is not None else -1
        if listing is None or index < 0 or not listing.held[index]:
            return False
        node.nodeid = listing.first + index
        node.refs += self.listings.become_node(listing, index)
        self._by_id[node.nodeid] = node
        self._resting.came(node)
        if self.inheritance is not None:
            self._introduce(node)
        return True

    def _take_from_dormant(self, node: Node, parent: Node, name: bytes) -> None:
        record = self.dormant.called(parent.nodeid, name)
        if record is not None:
            self.dormant.remove(record)
            node.nodeid, node.refs = record.number, record.refs
            self._by_id[record.number] = node
            self._resting.came(node)

    def unnamed(self, node: Node, parent: Node, name: bytes) -> None:
        if not node.nodeid:
            return
        self._drop_alias(parent, name)
        if node.parent is not None:
            self._describe(node)
            self._drop_alias(node.parent, node.name)

    def leaving(self, node: Node, last: Attr, home: bytes | None, vanishes: bool) -> None:
        if node.nodeid:
            description = describe(self._union.layers, node, last, home)
            self._slot().leaving = marshal.dumps((node.nodeid, vanishes, description))
            self._left_as = node, last, home, description

    def moving(self, node: Node, target: Node | None) -> None:
        self._slot().moving = node.nodeid, node.ino, target.nodeid if target else 0, target.ino if target else 0

    def disturbs(self, directory: Node, times: tuple[int, int] | None) -> None:
        self._slot().disturbed = (directory.nodeid, *times) if times is not None else (0, 0, 0)

    def left(self, node: Node, last: Attr | None) -> None:
        if node.nodeid:
            *known, description = self._left_as
            # of what has its link count from the upper's file system, nothing else has changed since
            if known != [node, last, node.home] or not node.upper or node.origin is not None:
                description = describe(self._union.layers, node, last, node.home)
            self._left_as = _NOBODY
            self._record(node.nodeid, 0, description, GONE, node.refs)

    def reopened(self, node: Node) -> None:
        self.trustee.keep(node.nodeid, self._union.tree.removed.fd(node))

    def entrust_all(self) -> None:
        """Have the keeper hold all that nothing on the disk leads to."""
        for node in self._union.tree.removed.all():
            if node.nodeid:
                self.reopened(node)

    def evicted(self, node: Node) -> None:
        number, node.nodeid = node.nodeid, 0
        if not number:
            return
        self.trustee.give_back(number)
        del self._by_id[number]
        for parent, name in node.others or ():
            self._drop_alias(parent, name)
        if number < LISTED:
            self._ledger.strike(number)
            return
        stand_in = self._stand_ins.pop(number, 0)
        if stand_in:
            self._ledger.strike(stand_in)
        found = self.listings.find(number)
        if found is not None:
            self._ledger.count_listed(found[0].record, found[1], 0)
            self.listings.end(found[0])

    def keeps(self, node: Node) -> bool:
        return self.dormant.keeps(node.nodeid) or (self.inheritance is not None and node.nodeid in self.inheritance.names)

    def _describe(self, node: Node, refs: int | None = None) -> None:
        assert node.parent is not None
        self._record(node.nodeid, node.parent.nodeid, node.name, _linked(node), node.refs if refs is None else refs)

    def _record(self, number: int, parent: int, text: bytes, flags: int, refs: int) -> None:
        """Have the ledger know of a node by this name or description."""
        if number < LISTED:
            self._ledger.describe(number, parent, text, flags)
        elif number in self._stand_ins:
            self._ledger.describe(self._stand_ins[number], parent, text, flags | STAND_IN)
        else:
            self._stand_ins[number] = self._ledger.enter(parent, text, number, flags | STAND_IN, refs)
            self.listings.note(number, 0)

    def _add_alias(self, node: Node, parent: Node, name: bytes) -> None:
        key = parent.nodeid, name
        if key not in self._aliases:
            self._aliases[key] = self._ledger.enter(parent.nodeid, name, node.nodeid, ALIAS)

    def _drop_alias(self, parent: Node, name: bytes) -> None:
        number = self._aliases.pop((parent.nodeid, name), 0)
        if number:
            self._ledger.strike(number)

    # -- files that are not used any more

    def rest(self, node: Node) -> None:
        """A file is not open any more."""
        self._resting.closed(node)
        self._put_to_rest()

    def _put_to_rest(self) -> None:
        """Of those that have not been used for longest, keep only what has to be known. To be called when nobody is in the middle of
        something with a node that is not open.
        """
        for number in self._resting.surplus():
            self._shrink(number)

    def _shrink(self, number: int) -> None:
        """Go back from a node to what is listed, or dormant, if it still is what the layer has under this name, and nobody uses it."""
        node = self._by_id.get(number)
        if node is None or not self._resting.may(node) or node.opens or not node.refs or self.is_awaited(node):
            return
        if number < LISTED:
            if node.parent is None or not node.parent.nodeid or not self.dormant.add(number, node.parent.nodeid, node.name):
                return
        else:
            found = self.listings.find(number)
            if found is None or node.refs > MOST_HELD or not self._is_recorded_there(node):
                return
            self.listings.become_listed(*found, node.refs)
        del self._by_id[number]
        self._on_forgotten(node)
        node.nodeid = 0
        self._union.forget(node, node.refs)

    def _wake(self, number: int) -> Node | None:
        """The node of a number that is dormant; None if there is no such."""
        record = self.dormant.find(number)
        if record is None:
            return None
        try:
            self._union.lookup(self._by_id[record.parent], record.text)
        except FileNotFoundError:
            return None  # somebody changed the layer
        return self._by_id.get(number)

    # -- going on where a predecessor was killed

    def meet(self) -> None:
        """Find those that a predecessor had who have to be known from the start: directories with listings, nodes with several names."""
        heritage = self.inheritance
        if heritage is None:
            return
        self._stand_ins.update(heritage.stand_ins)
        for listing in heritage.listings:
            directory = self.get(listing.parent)
            if directory is None:
                self._ledger.strike_listing(listing.place)
            else:
                numbers = range(listing.first, listing.first + len(listing.held))
                self.listings.inherit(directory, listing, sum(1 for number in heritage.stand_ins if number in numbers))
        for record in list(heritage.nodes.values()):
            if record.flags & LINKED:
                self.get(record.number)
        for alias in heritage.aliases:
            directory, node = self.get(alias.parent), self.get(alias.ino)
            if directory is None or node is None:
                self._ledger.strike(alias.number)
                continue
            self._aliases[alias.parent, alias.text] = alias.number
            try:
                self._union.lookup(directory, alias.text)
            except OSError:
                self._drop_alias(directory, alias.text)

    def move(self, number: int, parent: Node, name: bytes) -> None:
        """A node that was renamed when the predecessor was killed has this name now."""
        heritage, record = self._inherited(number)
        if heritage is None or record is None:
            return  # found again by another of its names
        heritage.lose_name(number, record.parent, record.text)
        heritage.nodes[number] = record._replace(parent=parent.nodeid, text=name)
        heritage.names.setdefault(parent.nodeid, {})[name] = number
        self._record(number, parent.nodeid, name, record.flags & LINKED, record.refs)

    def take_name(self, number: int, parent: Node, name: bytes) -> None:
        """A node had lost this name when the predecessor was killed; another one may be its first now."""
        heritage, record = self._inherited(number)
        if heritage is None or record is None or (record.parent, record.text) != (parent.nodeid, name):
            return
        heritage.lose_name(number, parent.nodeid, name)
        for alias in heritage.aliases:
            directory = self.get(alias.parent) if alias.ino == number else None
            if directory is not None and (directory, alias.text) != (parent, name):
                self.move(number, directory, alias.text)
                return

    def bereave(self, number: int, description: bytes) -> Node | None:
        """A node that was losing its last name when the predecessor was killed has lost it. Returns it."""
        heritage, record = self._inherited(number)
        if heritage is not None and record is not None and not record.flags & GONE:
            heritage.nodes[number] = record._replace(parent=0, flags=GONE, text=description)
            self._record(number, 0, description, GONE, record.refs)
        return self.get(number)

    def disown(self, parent: Node, name: bytes) -> None:
        """What the predecessor knew by this name was about to be told to the kernel, and never was."""
        number = self.inheritance.take_name(parent.nodeid, name) if self.inheritance is not None else 0
        if self.inheritance is not None and number:
            del self.inheritance.nodes[number]
            self._ledger.strike(number)

    def homes(self) -> set[bytes]:
        """Where in the work directory there are files without a name that somebody may have open."""
        homes = [node.home for node in self._by_id.values()]
        if self.inheritance is not None:
            homes += [home_of(record.text) for record in self.inheritance.nodes.values() if record.flags & GONE]
        return {home for home in homes if home is not None}

    def _inherited(self, number: int) -> tuple[Inheritance | None, NodeRecord | None]:
        """The record of a node that nobody has asked for yet; of one that had none but its listing, a new one."""
        heritage = self.inheritance
        if heritage is None:
            return None, None
        listing = heritage.listing_of(number) if number >= LISTED and number not in heritage.stand_ins else None
        if listing is not None:
            index = number - listing.first
            names, starts = read_text(listing.text, len(listing.held))
            name = names[starts[index] : starts[index + 1]]
            self._stand_ins[number] = self._ledger.enter(listing.parent, name, number, STAND_IN, listing.held[index])
            heritage.stand_ins[number] = self._stand_ins[number]
            heritage.nodes[number] = NodeRecord(number, listing.parent, number, listing.held[index], STAND_IN, name)
            heritage.names.setdefault(listing.parent, {})[name] = number
            self._ledger.count_listed(listing.place, index, 0)
            held = listing.held[:index] + b"\0" + listing.held[index + 1 :]
            heritage.listings[heritage.listings.index(listing)] = listing._replace(held=held)
        return heritage, heritage.nodes.get(number)

    def _restore(self, number: int) -> Node | None:
        assert self.inheritance is not None
        record = self.inheritance.nodes.get(number)
        if record is None:
            return None
        if record.flags & GONE:
            del self.inheritance.nodes[number]
            node = revive(self._union.tree, record.text)
            fd = self.trustee.kept.pop(number, -1)
            if fd >= 0:
                self._union.tree.removed.adopt(node, fd)
            self._adopt(node, record)
            return node
        for each in self.inheritance.line(number, self._by_id):
            try:
                self._union.lookup(self._by_id[each.parent], each.text)
            except (OSError, KeyError):
                return None  # what the record says is not so: somebody changed the layers
        return self._by_id.get(number)

    def _adopt(self, node: Node, record: NodeRecord) -> None:
        node.nodeid, node.refs = record.number, record.refs
        self._by_id[record.number] = node
        self._introduce(node)

    def _introduce(self, node: Node) -> None:
        """A node is found that a predecessor had: what was open of it is open again."""
        assert self.inheritance is not None and self.on_found is not None
        self.on_found(node, self.inheritance.handles.pop(node.nodeid, []))
        if self.inheritance.is_spent:
            self.inheritance = None


def _linked(node: Node) -> int:
    return LINKED if node.origin is not None or node.upper_ino is not None else 0
