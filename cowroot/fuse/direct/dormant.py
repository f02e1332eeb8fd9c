"""Nodes that the kernel holds and nobody uses, kept small.

The kernel remembers each file that was ever looked up, mostly for nothing but what stat(2) shows. A node for each would be most of the
daemon's memory. But of a file that only the lower has, and that is not open, there is no more to know than its number, its name, and how
many look-ups the kernel has of it; and that is in the ledger. So here is only how its record is found by the name.
"""

from __future__ import annotations

from cowroot.fuse.direct.ledger import Ledger, NodeRecord


class Dormant:
    """Nodes of which there is nothing but their record."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._numbers: dict[int, int] = {}  # by the hash of the directory's number and the name
        self._in: dict[int, int] = {}  # how many, by their directory's number

    def __len__(self) -> int:
        return len(self._numbers)

    def keeps(self, directory: int) -> bool:
        """True if there are any in the directory of this number."""
        return directory in self._in

    def add(self, number: int, directory: int, name: bytes) -> bool:
        """From now on a node is dormant; False if it cannot be: its record says otherwise, or another one is in its place."""
        record, key = self._ledger.node(number), hash((directory, name))
        if record is None or (record.parent, record.text) != (directory, name) or key in self._numbers:
            return False
        self._numbers[key] = number
        self._in[directory] = self._in.get(directory, 0) + 1
        return True

    def remove(self, record: NodeRecord) -> None:
        """The node is in use again, or is no more."""
        del self._numbers[hash((record.parent, record.text))]
        self._in[record.parent] -= 1
        if not self._in[record.parent]:
            del self._in[record.parent]

    def find(self, number: int) -> NodeRecord | None:
        """The record of a node; None if it is not dormant."""
        record = self._ledger.node(number)
        if record is None or self._numbers.get(hash((record.parent, record.text))) != number:
            return None
        return record

    def called(self, directory: int, name: bytes) -> NodeRecord | None:
        """The record of the one with this name; None if there is none."""
        if directory not in self._in:
            return None
        record = self.find(self._numbers.get(hash((directory, name)), 0))
        return record if record is not None and (record.parent, record.text) == (directory, name) else None
