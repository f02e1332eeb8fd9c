"""Requests about open files."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.direct import replies
from cowroot.fuse.direct.ledger import HandleRecord
from cowroot.fuse.direct.passthrough import FOPEN_PASSTHROUGH, Passthrough
from cowroot.fuse.direct.request import Request
from cowroot.fuse.direct.session import Handler, Session
from cowroot.fuse.direct.threads import COPYING, READING, WRITING
from cowroot.union import NOW, Caller, Handle, Node
from cowroot.union.syscalls import fallocate
from cowroot.union.tree import fail

# What is the kernel's business: it gives each write its offset, under the inode's lock, and truncates in a step of its own. With O_APPEND
# left in, pages of a mapping, which are written back through any handle that may write, would land at the end of the file.
_NOT_OURS = os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY
CAPABILITIES = b"security.capability"
_ROOM = 4096  # where in a request's buffer data is read to: behind the request, which is small then
_SMALL = 65536  # bytes: no more than the page cache takes at once
# unless the kernel holds up whoever writes faster than the disk does: a write that took so many seconds, and for how many to expect more
_HELD_UP, _WARY = 0.01, 5.0
_FIRST_CAUTION = 0.3  # seconds
_SLOW = 0.002  # seconds: no disk that has to move something reads that quickly, and none that has not takes longer
_WRITE_START = p.BODY + p.WRITE_IN.size


class Handles(dict[int, Handle]):
    """Open files, by number. One that a predecessor had is found through its node."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    @property
    def count(self) -> int:
        """How many there are, found or not."""
        inheritance = self._session.nodes.inheritance
        return len(self) + (sum(map(len, inheritance.handles.values())) if inheritance is not None else 0)

    def __missing__(self, number: int) -> Handle:
        nodeid = self._session.ledger.node_of(number)
        if nodeid:
            self._session.nodes.get(nodeid)
        if number not in self:
            fail(errno.EBADF)
        return self[number]


class Caution:
    """Whether reads from the disk are to be expected to take long.

    One that did says little of the next: so that is expected for a moment, and if the next one that is tried takes long again, for twice as
    long, up to some seconds.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._seconds = _FIRST_CAUTION / 2

    def is_called_for(self, now: float) -> bool:
        return now < self._until

    def learn(self, began: float, ended: float) -> None:
        """A read took from `began` to `ended` (seconds of the monotonic clock)."""
        if ended - began > _SLOW:
            self._seconds = min(2 * self._seconds if began < self._until + _WARY else _FIRST_CAUTION, _WARY)
            self._until = ended + self._seconds


class Files:
    """Handlers, over one session. `handles` are the open files, by the number that the kernel has for each."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._union = session.union
        self._threads = session.threads
        self.handles = Handles(session)
        self.passthrough = Passthrough(session)
        self._wary_until = 0.0
        self._caution = Caution()
        session.has_calmed = self.passthrough.has_calmed
        session.nodes.on_found = self._found

    def handlers(self) -> dict[int, Handler]:
        return {
            p.OPEN: self.open, p.CREATE: self.create, p.TMPFILE: self.tmpfile, p.READ: self.read, p.WRITE: self.write,
            p.RELEASE: self.release, p.FSYNC: self.fsync, p.FALLOCATE: self.fallocate, p.LSEEK: self.lseek,
            p.COPY_FILE_RANGE: self.copy_range, p.COPY_FILE_RANGE_64: self.copy_range_64,
        }  # fmt: skip

    def _number(self, request: Request, handle: Handle, backing: int) -> int:
        number = self._session.ledger.open(handle.node.nodeid, request.unique, handle.flags, backing)
        self.handles[number] = handle
        return number

    def _found(self, node: Node, records: list[HandleRecord]) -> None:
        """A node that a predecessor had, and what was open of it."""
        for record in records:
            self.handles[record.number] = self._union.inherit_file(node, record.flags)
            if record.backing:
                self.passthrough.inherit(node, record.backing)
        if node.kind == stat.S_IFREG and node.upper:
            self._session.restless.add(node)
        elif node.children is not None:
            self._session.told[node] = 0

    # -- coming and going

    def open(self, request: Request, node: Node) -> bytes:
        flags, kill = p.OPEN_IN.unpack_from(request.view, p.BODY)
        first = not node.opens
        handle = self._union.open_file(node, flags & ~_NOT_OURS)
        try:
            if flags & os.O_TRUNC:
                self._truncate(request, node, bool(kill & p.OPEN_KILL_SUIDGID))
            writable = flags & os.O_ACCMODE != os.O_RDONLY
            if writable:
                self._session.writers.note(node.ino, request.pid)
            backing = self.passthrough.open(node, first, writable)
        except BaseException:
            self._union.release(handle)
            raise
        number = self._number(request, handle, backing)
        return replies.opened(request.unique, number, FOPEN_PASSTHROUGH if backing else p.FOPEN_KEEP_CACHE, backing)

    def _truncate(self, request: Request, node: Node, kill: bool) -> None:
        """O_TRUNC, also with O_RDONLY, as Linux has it. The kernel knows the new size and times by itself, but not a new mode."""
        # before HANDLE_KILLPRIV_V2 it said nothing of privileges
        unsaid = "handle_killpriv_v2" not in self._session.features and request.uid != 0
        mode = self._session.reduced_mode(request, node) if kill or unsaid else None
        self._union.setattr(node, size=0, mtime_ns=NOW, mode=mode)
        if mode is not None:
            self._session.tell_stale(node)

    def create(self, request: Request, parent: Node) -> bytes:
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(request.view, p.BODY)
        name = request.name(p.CREATE_IN.size)
        caller = Caller(request.uid, request.gid, umask)
        node, handle = self._union.create(parent, name, mode, flags & ~_NOT_OURS, caller)
        self._session.changed(parent)
        return self._created(request, flags, node, handle)

    def tmpfile(self, request: Request, parent: Node) -> bytes:
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(request.view, p.BODY)
        caller = Caller(request.uid, request.gid, umask)
        return self._created(request, flags, *self._union.tmpfile(parent, mode, flags & ~_NOT_OURS, caller))

    def _created(self, request: Request, flags: int, node: Node, handle: Handle) -> bytes:
        session = self._session
        session.newest = node
        attr = self._union.getattr_as_found(node)
        backing = self.passthrough.open(node, True, flags & os.O_ACCMODE != os.O_RDONLY)
        open_flags = FOPEN_PASSTHROUGH if backing else p.FOPEN_KEEP_CACHE
        # Valid, passed through or not: as long as the file is empty no mapping can write to it, and giving it a size ends the validity.
        nodeid = session.nodes.hold(node)
        number = self._number(request, handle, backing)
        session.writers.note(node.ino, request.pid)
        return replies.created(request.unique, nodeid, attr, number, open_flags, backing, replies.YEAR)

    def release(self, request: Request, node: Node) -> bytes:
        (fh,) = p.U64.unpack_from(request.view, p.BODY)
        handle = self.handles[fh]
        del self.handles[fh]
        self.passthrough.release(handle.node)
        self._union.release(handle)
        self._session.ledger.close(fh)
        if not handle.node.opens:
            self._session.nodes.rest(handle.node)
        return replies.ok(request.unique)

    # -- data

    def read(self, request: Request, node: Node) -> None:
        fh, offset, length = p.READ_IN.unpack_from(request.view, p.BODY)
        handle = self.handles[fh]
        room = request.buffer[_ROOM : _ROOM + length]
        count = self._union.read_at_once(handle, room, offset)
        if count < 0:
            count = self._read_from_disk(request, handle, room, offset)
        os.writev(self._session.fd, (replies.header(16 + count, 0, request.unique), room[:count]))

    def _read_from_disk(self, request: Request, handle: Handle, room: memoryview, offset: int) -> int:
        """Read what is not in memory: aside, but for a little from a disk of this machine that has been quick.

        That is read in less time than it takes to have another thread lead, and it is what programs are started by. A disk elsewhere may
        not answer at all.
        """
        began = time.monotonic()
        if len(room) <= _SMALL and not self._caution.is_called_for(began) and self._session.is_on_disk(handle.node):
            count = self._union.read_into(handle, room, offset)
            self._caution.learn(began, time.monotonic())
            return count
        data = self._union.hold(handle)
        try:
            self._threads.step_aside(request, READING)
            return data.read_into(room, offset)
        finally:
            data.close()

    def write(self, request: Request, node: Node) -> bytes:
        session = self._session
        fh, offset, length, flags, _, _, _ = p.WRITE_IN.unpack_from(request.view, p.BODY)
        if flags & p.WRITE_KILL_SUIDGID:
            session.drop_privileges(request, node)
        data = request.view[_WRITE_START : _WRITE_START + length]
        if len(data) != length:
            fail(errno.EINVAL)
        handle = self.handles[fh]
        # Writing to a mapping leaves file capabilities alone, but our write, which brings its pages, takes them away.
        capabilities = self._capabilities(handle) if flags & replies.WRITE_CACHE else None
        if capabilities is not None:
            count = self._union.write(handle, data, offset)
            self._union.setxattr(handle.node, CAPABILITIES, capabilities)
        else:
            count = self._write(request, handle, data, offset)
        return replies.written(request.unique, count)

    def _capabilities(self, handle: Handle) -> Optional[bytes]:
        try:
            return self._union.getxattr(handle.node, CAPABILITIES)
        except OSError:  # ENODATA nearly always; ENOTSUP
            return None

    def _write(self, request: Request, handle: Handle, data: memoryview, offset: int) -> int:
        now = time.monotonic()
        may_be_held_up = not self._session.volatile and (len(data) > _SMALL or now < self._wary_until)
        fd = self._union.upper_file(handle.node) if may_be_held_up else -1
        if fd < 0:
            count = self._union.write(handle, data, offset)
            if time.monotonic() - now > _HELD_UP:
                self._wary_until = now + _WARY
            return count
        fd = os.dup(fd)
        try:
            self._threads.step_aside(request, WRITING)
            return os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def fsync(self, request: Request, node: Node) -> bytes:
        fh, flags = replies.FSYNC_IN.unpack_from(request.view, p.BODY)
        fd = self._union.syncable(self.handles[fh])
        if fd >= 0:
            fd = os.dup(fd)
            try:
                self._threads.step_aside(request, WRITING)
                self._union.bring_to_disk(fd, bool(flags & replies.FSYNC_FDATASYNC), node.origin is not None)
            finally:
                os.close(fd)
        return replies.ok(request.unique)

    def fallocate(self, request: Request, node: Node) -> bytes:
        fh, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(request.view, p.BODY)
        fd = os.dup(self._union.allocatable(self.handles[fh], mode, offset, length))
        try:
            self._threads.step_aside(request, COPYING)
            fallocate(fd, mode, offset, length)
        finally:
            os.close(fd)
        return replies.ok(request.unique)

    def lseek(self, request: Request, node: Node) -> bytes:
        fh, offset, whence, _ = p.LSEEK_IN.unpack_from(request.view, p.BODY)
        return replies.number(request.unique, self._union.seek(self.handles[fh], offset, whence))

    def copy_range(self, request: Request, node: Node) -> bytes:
        return replies.written(request.unique, self._copy(request))

    def copy_range_64(self, request: Request, node: Node) -> bytes:
        return replies.number(request.unique, self._copy(request))

    def _copy(self, request: Request) -> int:
        source, source_offset, _, target, target_offset, length, _ = p.COPY_IN.unpack_from(request.view, p.BODY)
        source_fd, target_fd = map(os.dup, self._union.copyable(self.handles[source], self.handles[target]))
        try:
            self._threads.step_aside(request, COPYING)
            # no more than the older form of the answer can tell
            return os.copy_file_range(source_fd, target_fd, min(length, 0x7FFFF000), source_offset, target_offset)
        finally:
            os.close(source_fd)
            os.close(target_fd)
