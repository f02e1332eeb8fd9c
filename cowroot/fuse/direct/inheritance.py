"""What a predecessor knew and nobody has asked for yet."""

from __future__ import annotations

from cowroot.fuse.direct.ledger import ALIAS, GONE, STAND_IN, HandleRecord, ListingRecord, NodeRecord
from cowroot.union import Node


class Inheritance:
    """What the ledger said when a predecessor was killed.

    `nodes` by number, and `names`, by their directory's number, of those that have one; `handles` by their node's number; `aliases`:
    further names of nodes, the node's number in place of the inode's; `listings`; `stand_ins`: numbers of the records of nodes that were
    listed, by the nodes' own.
    """

    def __init__(self, nodes: list[NodeRecord], handles: list[HandleRecord], listings: list[ListingRecord]) -> None:
        self.aliases = [record for record in nodes if record.flags & ALIAS]
        self.nodes = {record.number: record for record in nodes if not record.flags & (ALIAS | STAND_IN)}
        self.stand_ins = {record.ino: record.number for record in nodes if record.flags & STAND_IN}
        self.nodes.update((record.ino, record._replace(number=record.ino)) for record in nodes if record.flags & STAND_IN)
        self.listings = listings
        self.names: dict[int, dict[bytes, int]] = {}
        for record in self.nodes.values():
            if not record.flags & GONE:
                self.names.setdefault(record.parent, {})[record.text] = record.number
        self.handles: dict[int, list[HandleRecord]] = {}
        for handle in handles:
            self.handles.setdefault(handle.nodeid, []).append(handle)

    @property
    def is_spent(self) -> bool:
        return not self.nodes and not self.handles

    def take_name(self, parent: int, name: bytes) -> int:
        """Whose name it is; nought if nobody's. Nobody will be told of it again."""
        names = self.names.get(parent)
        if not names:
            return 0
        number = names.pop(name, 0)
        if not names:
            del self.names[parent]
        return number

    def lose_name(self, number: int, parent: int, name: bytes) -> None:
        """The name is not this node's any more, if it still was."""
        if self.names.get(parent, {}).get(name) == number:
            self.take_name(parent, name)

    def line(self, number: int, known: dict[int, Node]) -> list[NodeRecord]:
        """The node's record and those of its ancestors up to one that is `known`, that one's child first; none if the line breaks off."""
        line: list[NodeRecord] = []
        while number not in known:
            record = self.nodes.get(number)
            if record is None or record.flags & GONE or len(line) > len(self.nodes):
                return []
            line.append(record)
            number = record.parent
        line.reverse()
        return line

    def listing_of(self, number: int) -> ListingRecord | None:
        """The listing that a number belongs to."""
        return next((each for each in self.listings if each.first <= number < each.first + len(each.held)), None)
