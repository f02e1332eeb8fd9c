"""Requests about directory contents.

There are no directory handles: OPENDIR is answered with ENOSYS once, and from then on the kernel opens directories by itself
(NO_OPENDIR_SUPPORT) and keeps their contents. So an offset has to mean the same place in a directory to everybody and for good. It is a
hash of the entry's name, and entries come in the order of their hashes: whatever is added or removed meanwhile, who goes on from an
offset sees each entry that was there all the time exactly once.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from typing import Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.direct import listed, replies
from cowroot.fuse.direct.listed import Listing
from cowroot.fuse.direct.request import Request
from cowroot.fuse.direct.session import Handler, Session
from cowroot.fuse.direct.threads import WRITING
from cowroot.union import Entry, Node

_FIRST = 3  # offsets of names begin here: 0 is the start, 1 and 2 are behind "." and ".."
_KEPT = 16  # directories that are being read, of which we remember the contents until the reader has reached the end


class Contents:
    """A directory's entries as they were, and the offset behind each."""

    __slots__ = ("entries", "listing", "offsets")

    def __init__(self, entries: list[Entry], offsets: list[int]) -> None:
        self.entries = entries
        self.offsets = offsets
        self.listing: Optional[Listing] = None


class Directories:
    """Handlers, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._union = session.union
        self._reading: dict[int, Contents] = {}  # by the node's number

    def handlers(self) -> dict[int, Handler]:
        return {p.READDIR: self.readdir, p.READDIRPLUS: self.readdirplus, p.FSYNCDIR: self.fsyncdir}

    def _contents(self, node: Node, offset: int) -> Contents:
        """The directory: read anew at its beginning; further on as it was then, or removing while reading would cost the square."""
        found = self._reading.get(node.nodeid) if offset else None
        if found is None:
            handle = self._union.opendir(node)
            try:
                entries = self._union.readdir(handle)
            finally:
                self._union.releasedir(handle)
            named = sorted((hash(entry.name) & listed.HASH, entry) for entry in entries[2:])
            found = Contents(entries[:2] + [entry for _, entry in named], [1, 2, *(number + _FIRST for number, _ in named)])
            self._reading.pop(node.nodeid, None)
            if len(self._reading) >= _KEPT:
                del self._reading[next(iter(self._reading))]
            self._reading[node.nodeid] = found
        return found

    def _read(self, request: Request, node: Node, plus: bool) -> bytes:
        _, offset, room = p.READ_IN.unpack_from(request.view, p.BODY)
        contents = self._contents(node, offset)
        entries, offsets = contents.entries, contents.offsets
        start = index = bisect_right(offsets, offset)
        fixed = replies.DIRENTPLUS_SIZE if plus else replies.DIRENT_SIZE
        end = len(entries)
        # first how many fit, then their answers, for an answer of READDIRPLUS is a look-up that the kernel is going to count
        while index < end:
            room -= fixed + (len(entries[index].name) + 7 & ~7)
            if room < 0:
                break
            index += 1
        while start < index < end and offsets[index - 1] == offsets[index]:
            index -= 1  # names of one hash go together, or the next answer would begin behind all of them
        if start == end:
            self._reading.pop(node.nodeid, None)
        if plus:
            records = self._plus_records(node, contents, start, index)
        else:
            records = [
                replies.directory_entry(entry.ino, offsets[place], entry.mode, entry.name)
                for place, entry in enumerate(entries[start:index], start)
            ]
        return replies.data(request.unique, b"".join(records))

    def readdir(self, request: Request, node: Node) -> bytes:
        return self._read(request, node, False)

    def readdirplus(self, request: Request, node: Node) -> bytes:
        return self._read(request, node, True)

    def _plus_records(self, node: Node, contents: Contents, start: int, end: int) -> list[bytes]:
        fd = self._union.open_lower(node)
        if fd < 0:
            return [self._plus_record(node, contents.entries[index], contents.offsets[index]) for index in range(start, end)]
        try:
            return self._plus_records_of_one(node, contents, (start, end), fd)
        finally:
            os.close(fd)

    def _plus_records_of_one(self, node: Node, contents: Contents, places: tuple[int, int], fd: int) -> list[bytes]:
        """The same for a directory that is in one lower layer alone, open as `fd`: its files need not become nodes. See listed.py."""
        assert node.children is not None
        records = []
        nodes, children, dormant = self._session.nodes, node.children, self._session.nodes.dormant.called
        listing = contents.listing
        if listing is None or not listing.live:
            listing = contents.listing = nodes.listings.of(node) or Listing.of(node, contents.entries[2:])
        for index in range(*places):
            entry, offset = contents.entries[index], contents.offsets[index]
            st = None
            if offset >= _FIRST and entry.mode != stat.S_IFDIR and entry.name not in children and not dormant(node.nodeid, entry.name):
                st = _look_at(fd, entry.name)
            number = nodes.listings.hold(listing, listing.index(entry.name, index - 2)) if st is not None and st.st_nlink == 1 else 0
            if st is not None and number:
                records.append(replies.listed_entry(number, entry.ino, st, offset, entry.name))
            else:
                records.append(self._plus_record(node, entry, offset))
        return records

    def _plus_record(self, node: Node, entry: Entry, offset: int) -> bytes:
        if offset < _FIRST:
            return replies.bare_plus_entry(entry.ino, offset, entry.mode, entry.name)  # "." and "..", of which the kernel keeps no names
        session = self._session
        try:
            child = self._union.lookup(node, entry.name)
            valid = session.validity(child)
            attr = self._union.getattr_as_found(child)
        except FileNotFoundError:
            return b""  # gone since the directory was read
        except OSError:
            return replies.bare_plus_entry(entry.ino, offset, entry.mode, entry.name)  # looking it up will tell why
        return replies.plus_entry(session.nodes.hold(child), attr, offset, entry.name, valid)

    def fsyncdir(self, request: Request, node: Node) -> bytes:
        _, flags = replies.FSYNC_IN.unpack_from(request.view, p.BODY)
        fd = self._union.open_directory(node)
        if fd >= 0:
            try:
                self._session.threads.step_aside(request, WRITING)
                self._union.bring_to_disk(fd, bool(flags & replies.FSYNC_FDATASYNC), True)
            finally:
                os.close(fd)
        return replies.ok(request.unique)


def _look_at(fd: int, name: bytes) -> Optional[os.stat_result]:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None  # whatever it is, looking it up as others are looked up will tell
