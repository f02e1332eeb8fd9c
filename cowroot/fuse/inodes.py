"""Which kernel inode is which node of the union, and under which of libfuse's names.

libfuse 2's path interface gives every *name* a number of its own, which the kernel takes for an inode: two hard links would have separate
attributes, pages and locks, and go stale against each other. So its numbers are translated. The kernel knows a file by the number of the
name that it met first (`Inode.number`); each further name is a `Name` of the same inode, used only when libfuse has to be spoken to.
What the kernel holds, and forgets, is counted per name, because that is how libfuse counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from cowroot.fuse.protocol import ROOT_ID
from cowroot.union import Node

OWN_NUMBERS = 1 << 40  # libfuse's numbers have 32 bits; from here on they are ours, for files that never had a name


class Name:
    """One name, as libfuse knows it: its number `lid` there, look-ups not yet forgotten, and (directory, name) while it exists."""

    __slots__ = ("lid", "lookups", "name", "parent")

    def __init__(self, lid: int, parent: int, name: Optional[bytes]) -> None:
        self.lid = lid
        self.lookups = 0
        self.parent = parent  # the directory's kernel number; 0 without a name
        self.name = name


class Inode(Name):
    """One file that the kernel knows as `number`. It is its own first name; `others` are further ones."""

    __slots__ = ("node", "number", "others")

    def __init__(self, number: int, node: Node, lid: int, parent: int, name: Optional[bytes]) -> None:
        super().__init__(lid, parent, name)
        self.number = number
        self.node = node
        self.others: Optional[list[Name]] = None

    def names(self) -> Iterator[Name]:
        yield self
        if self.others:
            yield from self.others

    def living_lid(self) -> int:
        """A number under which libfuse still has a path for this file; 0 if there is none."""
        if self.others is None:
            return self.lid if self.name is not None else 0
        return next((n.lid for n in self.names() if n.name is not None and n.lookups), 0)


class Inodes:
    """All inodes that the kernel holds."""

    def __init__(self, root: Node) -> None:
        inode = Inode(ROOT_ID, root, ROOT_ID, 0, b"/")
        inode.lookups = 1
        self.by_number: dict[int, Inode] = {ROOT_ID: inode}
        self.find = self.by_number.get
        self._by_node: dict[Node, Inode] = {root: inode}
        self.of = self._by_node.get
        self._next_own = OWN_NUMBERS

    def __len__(self) -> int:
        return len(self.by_number)

    def remember(self, lid: int, node: Node, parent: int, name: bytes) -> Inode:
        """Count a look-up that libfuse is about to answer with its number `lid`.

        Arguments: `parent`: kernel number of the directory. Returns the inode; the kernel is to be told its `number`.
        """
        inode = self._by_node.get(node)
        if inode is None:
            inode = self.by_number[lid] = self._by_node[node] = Inode(lid, node, lid, parent, name)
        for known in inode.names():
            if known.lid == lid:
                known.lookups += 1
                known.parent, known.name = parent, name
                return inode
        further = Name(lid, parent, name)
        further.lookups = 1
        inode.others = [*(inode.others or ()), further]
        return inode

    def remember_nameless(self, node: Node) -> Inode:
        """Count the first look-up of a file without a name (O_TMPFILE), which libfuse never hears of."""
        inode = Inode(self._next_own, node, 0, 0, None)
        self._next_own += 1
        inode.lookups = 1
        self.by_number[inode.number] = self._by_node[node] = inode
        return inode

    def forget(self, inode: Inode, count: int) -> list[tuple[int, int]]:
        """The kernel drops `count` look-ups. Returns what libfuse has to forget: (its number, count) for each name.

        The kernel counts per file, libfuse per name: names that are gone are forgotten first.
        """
        shares = []
        for known in sorted(inode.names(), key=lambda n: n.name is not None):
            share = min(known.lookups, count)
            known.lookups -= share
            count -= share
            if share and known.lid:
                shares.append((known.lid, share))
        if inode.others is not None:
            inode.others = [n for n in inode.others if n.lookups] or None
        if not inode.lookups:
            if inode.others is None:
                self.by_number.pop(inode.number, None)
                self._by_node.pop(inode.node, None)
            else:
                inode.lid, inode.parent, inode.name = 0, 0, None
        return shares

    def take_back(self, inode: Inode, lid: int) -> None:
        """The answer to the look-up counted last did not reach the kernel; libfuse takes its count back by itself."""
        for known in inode.names():
            if known.lid == lid:
                known.lookups -= 1
        self.forget(inode, 0)

    def rename(self, inode: Optional[Inode], old: tuple[int, bytes], new: tuple[int, bytes]) -> None:
        """libfuse has moved the name `old` of this file to `new`; both are (directory's number, name)."""
        known = self._name(inode, old)
        if known is not None:
            known.parent, known.name = new

    def unname(self, inode: Optional[Inode], place: tuple[int, bytes]) -> None:
        """libfuse has dropped this name of the file."""
        known = self._name(inode, place)
        if known is not None:
            known.parent, known.name = 0, None

    @staticmethod
    def _name(inode: Optional[Inode], place: tuple[int, bytes]) -> Optional[Name]:
        if inode is None:
            return None
        return next((n for n in inode.names() if (n.parent, n.name) == place), None)
