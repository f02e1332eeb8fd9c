"""What the kernel knows from a listing only, kept small.

Whoever walks a large tree makes the kernel hold each of its files, mostly for nothing but what stat(2) shows. A node for each would be most
of the daemon's memory. So of a directory that is in one lower layer alone, whose entries stay what they are, READDIRPLUS makes a Listing:
the names, and how often each was told to the kernel. Only what is then used becomes a node.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Callable

from cowroot.fuse.direct.ledger import Ledger, ListingRecord
from cowroot.union import Entry, Node

HASH = (1 << 61) - 1
MOST_HELD = 255  # what a count has room for
LISTED = 1 << 62  # numbers from here on are of what is listed
_PAGE = 8  # bits: of numbers that differ in these alone, all belong to one listing
_LIFE = 48  # bits: more numbers than one process can give away


class Listing:
    """The entries of the directory `parent`, numbered from `first` on in the order of their names' hashes.

    `held` is how many look-ups the kernel has of each that is no node; `live`, of how many entries it has any, nodes included; `record` is
    where the ledger has it, and counts look-ups of nodes too.
    """

    __slots__ = ("_hashes", "_names", "_starts", "first", "held", "live", "parent", "record")

    def __init__(self, parent: Node, names: bytes, starts: array[int], held: bytearray) -> None:
        self.parent = parent
        self.first = 0  # until the kernel has any of them
        self.record = 0
        self._names = names
        self._starts = starts
        self._hashes = array("Q", [hash(names[starts[index] : starts[index + 1]]) & HASH for index in range(len(held))])
        self.held = held
        self.live = 0

    @classmethod
    def of(cls, parent: Node, entries: Sequence[Entry]) -> Listing:
        """What was read of a directory, in the order of the hashes."""
        starts = array("I", [0])
        for entry in entries:
            starts.append(starts[-1] + len(entry.name))
        return cls(parent, b"".join([entry.name for entry in entries]), starts, bytearray(len(entries)))

    @property
    def text(self) -> bytes:
        """All but the counts: what `read_text` turns into names and their places."""
        return self._starts.tobytes() + self._names

    @property
    def pages(self) -> range:
        """Its numbers, without their last bits."""
        return range(self.first >> _PAGE, (self.first + len(self.held) - 1 >> _PAGE) + 1)

    def name(self, index: int) -> bytes:
        return self._names[self._starts[index] : self._starts[index + 1]]

    def index(self, name: bytes, guess: int = -1) -> int:
        """Where a name is; -1 if it is not listed. `guess`: where it probably is."""
        if 0 <= guess < len(self.held) and self.name(guess) == name:
            return guess
        hashed = hash(name) & HASH
        index = bisect_left(self._hashes, hashed)
        while index < len(self._hashes) and self._hashes[index] == hashed:
            if self.name(index) == name:
                return index
            index += 1
        return -1


def read_text(text: bytes, count: int) -> tuple[bytes, array[int]]:
    """Names and places of the `count` entries of a listing."""
    starts = array("I")
    starts.frombytes(text[: (count + 1) * starts.itemsize])
    return text[(count + 1) * starts.itemsize :], starts


class Listings:
    """All listings of which the kernel has something.

    Arguments: `hold(node)` and `let_go(node)`: a directory has to stay, and need not any more.
    """

    def __init__(self, ledger: Ledger, hold: Callable[[Node], object], let_go: Callable[[Node], None]) -> None:
        self._ledger = ledger
        self._hold = hold
        self._let_go = let_go
        self._next = LISTED
        self._pages: dict[int, Listing] = {}
        self._of: dict[Node, Listing] = {}
        self.of = self._of.get
        self.count = 0  # entries that the kernel has and that are no nodes

    def resume(self, generation: int) -> None:
        """Give no number that one of the `generation` processes before can have given."""
        self._next = LISTED + (generation << _LIFE)

    def find(self, number: int) -> tuple[Listing, int] | None:
        """The listing, and the place in it, that a number stands for."""
        listing = self._pages.get(number >> _PAGE)
        if listing is None or not 0 <= number - listing.first < len(listing.held):
            return None
        return listing, number - listing.first

    def hold(self, listing: Listing, index: int) -> int:
        """Count a look-up of an entry that is no node. Returns its number, or 0 if there is no room to count."""
        held = listing.held
        if index < 0 or held[index] == MOST_HELD:
            return 0
        if not held[index]:
            if not listing.live:
                self._begin(listing)
            listing.live += 1
            self.count += 1
        held[index] += 1
        self._ledger.count_listed(listing.record, index, held[index])
        return listing.first + index

    def forget(self, listing: Listing, index: int, count: int) -> None:
        """The kernel gives up `count` look-ups of an entry that is no node."""
        if listing.held[index]:
            listing.held[index] = max(listing.held[index] - count, 0)
            self._ledger.count_listed(listing.record, index, listing.held[index])
            if not listing.held[index]:
                self.count -= 1
                self.end(listing)

    def become_node(self, listing: Listing, index: int) -> int:
        """An entry is a node from now on, to which the look-ups belong. Returns how many; the ledger goes on counting them here."""
        held, listing.held[index] = listing.held[index], 0
        self.count -= held > 0
        return held

    def become_listed(self, listing: Listing, index: int, held: int) -> None:
        """A node is no more than an entry from now on, of which the kernel holds so many look-ups."""
        listing.held[index] = held
        self._ledger.count_listed(listing.record, index, held)
        self.count += 1

    def note(self, number: int, refs: int) -> None:
        """How many look-ups the kernel has of a node that was listed, and whose only record that is."""
        found = self.find(number)
        if found is not None:
            self._ledger.count_listed(found[0].record, found[1], refs)

    def end(self, listing: Listing) -> None:
        """The kernel does not have an entry any more, neither listed nor as a node."""
        listing.live -= 1
        if not listing.live:
            del self._of[listing.parent]
            for page in listing.pages:
                del self._pages[page]
            self._ledger.strike_listing(listing.record)
            self._let_go(listing.parent)

    def _begin(self, listing: Listing) -> None:
        listing.first = self._next
        self._hold(listing.parent)
        listing.record = self._ledger.enter_listing(listing.parent.nodeid, listing.first, listing.text, len(listing.held))
        self._add(listing)
        self._next = max(listing.pages) + 1 << _PAGE

    def _add(self, listing: Listing) -> None:
        self._of[listing.parent] = listing
        for page in listing.pages:
            self._pages[page] = listing

    def inherit(self, parent: Node, record: ListingRecord, live: int) -> None:
        """A predecessor had it; `live`: how many of its entries are nodes that have records of their own."""
        listing = Listing(parent, *read_text(record.text, len(record.held)), bytearray(record.held))
        listing.first, listing.record = record.first, record.place
        held = sum(1 for count in listing.held if count)
        listing.live = held + live
        self.count += held
        self._add(listing)
