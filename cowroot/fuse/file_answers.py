"""Requests about open files, answered without libfuse, to which a handle says nothing: what it would do is convert.

Some of them it does not know at all: SEEK_HOLE, copy_file_range, O_TMPFILE. Each method returns the reply's body.
"""

from __future__ import annotations

import os
from typing import Callable

from cowroot.fuse import protocol as p
from cowroot.fuse.inodes import Inodes
from cowroot.fuse.node_answers import CAPABILITIES, NodeAnswers, entry_out
from cowroot.fuse.request import OpenFiles, Request
from cowroot.fuse.writers import Writers
from cowroot.union import NOW, Caller, Handle, Union


class FileAnswers:
    """The answers, by opcode: `table`; and `read`, whose data need not be copied once more."""

    def __init__(self, union: Union, inodes: Inodes, files: OpenFiles, request: Request, nodes: NodeAnswers, writers: Writers) -> None:
        self._union = union
        self._inodes = inodes
        self._files = files
        self._request = request
        self._nodes = nodes
        self._writers = writers
        self._view = memoryview(request.buffer)

    def table(self) -> dict[int, Callable[[], bytes]]:
        """Each answer by the opcode of its request."""
        return {
            p.OPEN: self._open, p.TMPFILE: self._tmpfile, p.WRITE: self._write, p.RELEASE: self._release, p.FSYNC: self._fsync,
            p.FALLOCATE: self._fallocate, p.LSEEK: self._lseek, p.COPY_FILE_RANGE: self._copy_range,
            p.COPY_FILE_RANGE_64: self._copy_range,
        }  # fmt: skip

    def _open(self) -> bytes:
        """The kernel's page cache may stay, for nothing changes a file behind its back."""
        request = self._request
        flags, open_flags = p.OPEN_IN.unpack_from(request.buffer, p.BODY)
        node = request.inode.node
        # the kernel sees to O_APPEND and O_SYNC itself, and O_DIRECT must not ask our buffer to be aligned
        handle = self._union.open_file(node, flags & os.O_ACCMODE)
        if flags & os.O_TRUNC:  # also of a file that is opened for reading only: Linux does that, and has checked that it may
            try:
                if open_flags & p.OPEN_KILL_SUIDGID:
                    self._nodes.drop_privileges(node)
                self._union.setattr(node, size=0, mtime_ns=NOW)
            except BaseException:
                self._union.release(handle)
                raise
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._writers.note(node.ino, request.pid)
        request.opened = self._files.add(handle)
        return p.OPEN_OUT.pack(request.opened, p.FOPEN_KEEP_CACHE, 0)

    def _tmpfile(self) -> bytes:
        request = self._request
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(request.buffer, p.BODY)
        node, handle = self._union.tmpfile(request.inode.node, mode, flags & os.O_ACCMODE, Caller(request.uid, request.gid, umask))
        attr = self._union.getattr(node)
        self._union.retain(node)
        self._writers.note(node.ino, request.pid)
        request.entry, request.opened = node, self._files.add(handle)
        return entry_out(self._inodes.remember_nameless(node).number, attr) + p.OPEN_OUT.pack(request.opened, p.FOPEN_KEEP_CACHE, 0)

    def take_back(self) -> None:
        """Whoever opened a file in the request in hand has been killed: nobody will close it."""
        request = self._request
        self._union.release(self._files.remove(request.opened))
        if request.opcode == p.TMPFILE:
            inode = self._inodes.of(request.entry)
            assert inode is not None
            self._inodes.forget(inode, 1)
            self._union.forget(request.entry)

    def read(self, reply: memoryview) -> int:
        """Put the data that READ asks for into `reply`; returns how many bytes."""
        number, offset, size = p.READ_IN.unpack_from(self._request.buffer, p.BODY)
        return self._union.read_into(self._files.find(number), reply[:size], offset)

    def _write(self) -> bytes:
        number, offset, size, flags, _, _, _ = p.WRITE_IN.unpack_from(self._request.buffer, p.BODY)
        handle = self._files.find(number)
        if flags & p.WRITE_KILL_SUIDGID:
            self._nodes.drop_privileges(handle.node)
        data = self._view[p.BODY + p.WRITE_IN.size : p.BODY + p.WRITE_IN.size + size]
        if flags & p.WRITE_CACHE:
            return p.WRITE_OUT.pack(self._write_back(handle, data, offset), 0)
        return p.WRITE_OUT.pack(self._union.write(handle, data, offset), 0)

    def _write_back(self, handle: Handle, data: memoryview, offset: int) -> int:
        """Stores through a mapping leave file capabilities alone; our write, which stands for them, makes the upper drop them."""
        try:
            capabilities = self._union.getxattr(handle.node, CAPABILITIES)
        except OSError:  # nearly always: there are none
            return self._union.write(handle, data, offset)
        count = self._union.write(handle, data, offset)
        self._union.setxattr(handle.node, CAPABILITIES, capabilities)
        return count

    def _release(self) -> bytes:
        (number,) = p.U64.unpack_from(self._request.buffer, p.BODY)
        self._union.release(self._files.remove(number))
        return b""

    def _fsync(self) -> bytes:
        number, flags = p.FSYNC_IN.unpack_from(self._request.buffer, p.BODY)
        self._union.fsync(self._files.find(number), bool(flags & p.FSYNC_FDATASYNC))
        return b""

    def _fallocate(self) -> bytes:
        number, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(self._request.buffer, p.BODY)
        self._union.fallocate(self._files.find(number), mode, offset, length)
        return b""

    def _lseek(self) -> bytes:
        number, offset, whence, _ = p.LSEEK_IN.unpack_from(self._request.buffer, p.BODY)
        return p.U64.pack(self._union.seek(self._files.find(number), offset, whence))

    def _copy_range(self) -> bytes:
        source, source_offset, _, target, target_offset, length, _ = p.COPY_IN.unpack_from(self._request.buffer, p.BODY)
        length = min(length, 1 << 30)  # the older form's reply has 32 bits, and one request should not take for ever
        return p.U64.pack(self._union.copy_range(self._files.find(source), source_offset, self._files.find(target), target_offset, length))
