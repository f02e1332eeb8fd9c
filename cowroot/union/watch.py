"""What a tree of nodes tells whoever keeps a record of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cowroot.union.node import Attr, Node


class Watch:
    """Nobody listens."""

    def named(self, node: Node, parent: Node, name: bytes) -> None:
        """A node is in the table under a name, new, found or given."""

    def unnamed(self, node: Node, parent: Node, name: bytes) -> None:
        """A node has lost a name; another one may be its first now."""

    def leaving(self, node: Node, last: Attr, home: bytes | None, vanishes: bool) -> None:
        """A node is about to lose a name.

        Arguments: `last`: its attributes after that; `home`: where its object is, or is about to be, below the work directory; `vanishes`:
        no other name is known.
        """

    def moving(self, node: Node, target: Node | None) -> None:
        """A node is about to be renamed, over `target` or in exchange with it if there is one."""

    def disturbs(self, directory: Node, times: tuple[int, int] | None) -> None:
        """A directory's times are about to move, and will be put back to `times` (access, modification; nanoseconds); None: they are."""

    def left(self, node: Node, last: Attr | None) -> None:
        """A node has no name (any more), or what is behind such a node has changed; `last`: its attributes, as far as they are known."""

    def reopened(self, node: Node) -> None:
        """A node to whose object nothing leads any more but a descriptor (removed.py) has been opened."""

    def evicted(self, node: Node) -> None:
        """A node is no longer in the table."""

    def keeps(self, node: Node) -> bool:
        """True while a directory must stay in the table for the sake of what is not in it yet."""
        return False
