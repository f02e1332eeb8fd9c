"""Requests about open files."""

from __future__ import annotations

import os

from cowroot.fuse import protocol as p
from cowroot.fuse.direct import replies
from cowroot.fuse.direct.features import MAX_WRITE
from cowroot.fuse.direct.passthrough import FOPEN_PASSTHROUGH, Passthrough
from cowroot.fuse.direct.session import Handler, Session
from cowroot.union import NOW, Caller, Handle, Node

# What is the kernel's business: it gives each write its offset, under the inode's lock, and truncates in a step of its own. With O_APPEND
# left in, pages of a mapping, which are written back through any handle that may write, would land at the end of the file.
_NOT_OURS = os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY
CAPABILITIES = b"security.capability"
_SMALL = 65536  # bytes: up to here a fresh string is cheaper than a view into a large buffer
_WRITE_START = p.BODY + p.WRITE_IN.size


class Files:
    """Handlers, over one session. `handles` are the open files, by the number that the kernel has for each."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._union = session.union
        self.handles: dict[int, Handle] = {}
        self.passthrough = Passthrough(session)
        session.has_calmed = self.passthrough.has_calmed
        self._last = 0
        self._room = memoryview(bytearray(MAX_WRITE))

    def handlers(self) -> dict[int, Handler]:
        return {
            p.OPEN: self.open, p.CREATE: self.create, p.TMPFILE: self.tmpfile, p.READ: self.read, p.WRITE: self.write,
            p.RELEASE: self.release, p.FSYNC: self.fsync, p.FALLOCATE: self.fallocate, p.LSEEK: self.lseek,
            p.COPY_FILE_RANGE: self.copy_range, p.COPY_FILE_RANGE_64: self.copy_range_64,
        }  # fmt: skip

    def _number(self, handle: Handle) -> int:
        self._last += 1
        self.handles[self._last] = handle
        return self._last

    # -- coming and going

    def open(self, unique: int, node: Node, size: int) -> bytes:
        flags, kill = p.OPEN_IN.unpack_from(self._session.buffer, p.BODY)
        first = not node.opens
        handle = self._union.open_file(node, flags & ~_NOT_OURS)
        try:
            if flags & os.O_TRUNC:
                self._truncate(node, bool(kill & p.OPEN_KILL_SUIDGID))
            backing = self.passthrough.open(node, first, flags & os.O_ACCMODE != os.O_RDONLY)
        except BaseException:
            self._union.release(handle)
            raise
        return replies.opened(unique, self._number(handle), FOPEN_PASSTHROUGH if backing else p.FOPEN_KEEP_CACHE, backing)

    def _truncate(self, node: Node, kill: bool) -> None:
        """O_TRUNC, also with O_RDONLY, as Linux has it. The kernel knows the new size and times by itself, but not a new mode."""
        # before HANDLE_KILLPRIV_V2 it said nothing of privileges
        unsaid = "handle_killpriv_v2" not in self._session.features and self._session.uid != 0
        mode = self._session.reduced_mode(node) if kill or unsaid else None
        self._union.setattr(node, size=0, mtime_ns=NOW, mode=mode)
        if mode is not None:
            self._session.tell_stale(node)

    def create(self, unique: int, parent: Node, size: int) -> bytes:
        session = self._session
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(session.buffer, p.BODY)
        name = session.text(p.CREATE_IN.size, size)
        caller = Caller(session.uid, session.gid, umask)
        return self._created(unique, flags, *self._union.create(parent, name, mode, flags & ~_NOT_OURS, caller))

    def tmpfile(self, unique: int, parent: Node, size: int) -> bytes:
        session = self._session
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(session.buffer, p.BODY)
        caller = Caller(session.uid, session.gid, umask)
        return self._created(unique, flags, *self._union.tmpfile(parent, mode, flags & ~_NOT_OURS, caller))

    def _created(self, unique: int, flags: int, node: Node, handle: Handle) -> bytes:
        session = self._session
        attr = self._union.getattr(node)
        backing = self.passthrough.open(node, True, flags & os.O_ACCMODE != os.O_RDONLY)
        open_flags = FOPEN_PASSTHROUGH if backing else p.FOPEN_KEEP_CACHE
        # Valid, passed through or not: as long as the file is empty no mapping can write to it, and giving it a size ends the validity.
        return replies.created(unique, session.nodes.hold(node), attr, self._number(handle), open_flags, backing, replies.YEAR)

    def release(self, unique: int, node: Node, size: int) -> bytes:
        (fh,) = p.U64.unpack_from(self._session.buffer, p.BODY)
        handle = self.handles.pop(fh)
        self.passthrough.release(handle.node)
        self._union.release(handle)
        return replies.ok(unique)

    # -- data

    def read(self, unique: int, node: Node, size: int) -> None:
        session = self._session
        fh, offset, length = p.READ_IN.unpack_from(session.buffer, p.BODY)
        handle = self.handles[fh]
        if length <= _SMALL:
            data = self._union.read(handle, length, offset)
            os.writev(session.fd, (replies.header(16 + len(data), 0, unique), data))
        else:
            count = self._union.read_into(handle, self._room[:length], offset)
            os.writev(session.fd, (replies.header(16 + count, 0, unique), self._room[:count]))

    def write(self, unique: int, node: Node, size: int) -> bytes:
        session = self._session
        fh, offset, length, flags, _, _, _ = p.WRITE_IN.unpack_from(session.buffer, p.BODY)
        if flags & p.WRITE_KILL_SUIDGID:
            session.drop_privileges(node)
        data = session.request[_WRITE_START : _WRITE_START + length]
        if flags & replies.WRITE_CACHE:
            return replies.written(unique, self._write_back(self.handles[fh], data, offset))
        return replies.written(unique, self._union.write(self.handles[fh], data, offset))

    def _write_back(self, handle: Handle, data: memoryview, offset: int) -> int:
        """Pages of a mapping. Writing to a mapping leaves file capabilities alone, but our write takes them away."""
        try:
            capabilities = self._union.getxattr(handle.node, CAPABILITIES)
        except OSError:  # ENODATA nearly always; ENOTSUP
            return self._union.write(handle, data, offset)
        count = self._union.write(handle, data, offset)
        self._union.setxattr(handle.node, CAPABILITIES, capabilities)
        return count

    def fsync(self, unique: int, node: Node, size: int) -> bytes:
        fh, flags = replies.FSYNC_IN.unpack_from(self._session.buffer, p.BODY)
        self._union.fsync(self.handles[fh], bool(flags & replies.FSYNC_FDATASYNC))
        return replies.ok(unique)

    def fallocate(self, unique: int, node: Node, size: int) -> bytes:
        fh, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(self._session.buffer, p.BODY)
        self._union.fallocate(self.handles[fh], mode, offset, length)
        return replies.ok(unique)

    def lseek(self, unique: int, node: Node, size: int) -> bytes:
        fh, offset, whence, _ = p.LSEEK_IN.unpack_from(self._session.buffer, p.BODY)
        return replies.number(unique, self._union.seek(self.handles[fh], offset, whence))

    def copy_range(self, unique: int, node: Node, size: int) -> bytes:
        return replies.written(unique, self._copy())

    def copy_range_64(self, unique: int, node: Node, size: int) -> bytes:
        return replies.number(unique, self._copy())

    def _copy(self) -> int:
        source, source_offset, _, target, target_offset, length, _ = p.COPY_IN.unpack_from(self._session.buffer, p.BODY)
        # no more than the older form of the answer can tell
        return self._union.copy_range(self.handles[source], source_offset, self.handles[target], target_offset, min(length, 0x7FFFF000))
