"""Requests that are answered without libfuse.

Two kinds: those about a file that has lost its last path (unlinked while open, never named), for which libfuse's path interface has nothing
to call; and those younger than libfuse 2 (SEEK_HOLE, copy_file_range, O_TMPFILE, renames with flags). Each method returns the reply's body.
"""

from __future__ import annotations

import errno
import os
from typing import Callable

from cowroot.fuse import protocol as p
from cowroot.fuse.inodes import Inodes
from cowroot.fuse.operations import Operations
from cowroot.fuse.request import OpenFiles, Request
from cowroot.union import Attr, Caller, Union

YEAR = 365 * 24 * 3600  # seconds the kernel may keep what it was told: every change goes through it
NO_HANDLE = 0  # of a directory that was opened here; libfuse's handles are addresses


class DirectAnswers:
    """The answers, by opcode: `pathless` for files without a path, `always` for what libfuse 2 does not know."""

    def __init__(self, union: Union, inodes: Inodes, files: OpenFiles, request: Request, operations: Operations) -> None:
        self._union = union
        self._inodes = inodes
        self._files = files
        self._request = request
        self._operations = operations
        self.extended = False  # SETXATTR_EXT is agreed on
        self.pathless: dict[int, Callable[[], bytes]] = {
            p.GETATTR: self._getattr, p.SETATTR: self._setattr, p.READLINK: self._readlink, p.OPEN: self._open, p.STATFS: self._statfs,
            p.OPENDIR: self._opendir, p.SETXATTR: self._setxattr, p.GETXATTR: self._getxattr, p.LISTXATTR: self._listxattr,
            p.REMOVEXATTR: self._removexattr,
        }  # fmt: skip
        self.always: dict[int, Callable[[], bytes]] = {
            p.LSEEK: self._lseek, p.COPY_FILE_RANGE: self._copy_range, p.COPY_FILE_RANGE_64: self._copy_range, p.TMPFILE: self._tmpfile,
        }  # fmt: skip

    def _getattr(self) -> bytes:
        return _attr_out(self._union.getattr(self._request.inode.node))

    def _setattr(self) -> bytes:
        return _attr_out(self._operations.set_attributes())

    def _readlink(self) -> bytes:
        return self._union.readlink(self._request.inode.node)

    def _open(self) -> bytes:
        return p.OPEN_OUT.pack(self._operations.open_file(0), p.FOPEN_KEEP_CACHE, 0)

    def _opendir(self) -> bytes:
        return p.OPEN_OUT.pack(NO_HANDLE, 0, 0)

    def _statfs(self) -> bytes:
        s = self._union.statfs()
        return p.KSTATFS.pack(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax, s.f_frsize, 0)

    def _setxattr(self) -> bytes:
        self._operations.set_attribute(p.SETXATTR_IN_EXT if self.extended else p.SETXATTR_IN)
        return b""

    def _removexattr(self) -> bytes:
        self._operations.removexattr(0, 0)
        return b""

    def _getxattr(self) -> bytes:
        return self._sized(self._union.getxattr(self._request.inode.node, self._request.name(p.GETXATTR_IN.size)))

    def _listxattr(self) -> bytes:
        return self._sized(self._operations.attribute_names())

    def _sized(self, value: bytes) -> bytes:
        size, _ = p.GETXATTR_IN.unpack_from(self._request.buffer, p.BODY)
        if not size:
            return p.GETXATTR_IN.pack(len(value), 0)  # fuse_getxattr_out has the same form
        if len(value) > size:
            raise OSError(errno.ERANGE, "value is longer than the buffer")
        return value

    def _lseek(self) -> bytes:
        number, offset, whence, _ = p.LSEEK_IN.unpack_from(self._request.buffer, p.BODY)
        return p.U64.pack(self._union.seek(self._files.find(number).handle, offset, whence))

    def _copy_range(self) -> bytes:
        source, source_offset, _, target, target_offset, length, _ = p.COPY_IN.unpack_from(self._request.buffer, p.BODY)
        length = min(length, 1 << 30)  # the older form's reply has 32 bits, and one request should not take for ever
        source, target = self._files.find(source).handle, self._files.find(target).handle
        return p.U64.pack(self._union.copy_range(source, source_offset, target, target_offset, length))

    def _tmpfile(self) -> bytes:
        request = self._request
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(request.buffer, p.BODY)
        node, handle = self._union.tmpfile(request.inode.node, mode, flags & os.O_ACCMODE, Caller(request.uid, request.gid, umask))
        attr = self._union.getattr(node)
        self._union.retain(node)
        inode = self._inodes.remember_nameless(node)
        opened = p.OPEN_OUT.pack(self._files.add(handle, 0), p.FOPEN_KEEP_CACHE, 0)
        return p.ENTRY_OUT.pack(inode.number, 0, YEAR, YEAR, 0, 0) + _attr(attr) + opened


def _attr_out(attr: Attr) -> bytes:
    return p.ATTR_OUT.pack(YEAR, 0, 0) + _attr(attr)


def _attr(attr: Attr) -> bytes:
    second = 1000000000
    return p.ATTR.pack(
        attr.ino, attr.size, attr.blocks, attr.atime_ns // second & p.U64_MASK, attr.mtime_ns // second & p.U64_MASK,
        attr.ctime_ns // second & p.U64_MASK, attr.atime_ns % second, attr.mtime_ns % second, attr.ctime_ns % second, attr.mode,
        attr.nlink, attr.uid, attr.gid, attr.rdev & 0xFFFFFFFF, attr.blksize, 0,
    )  # fmt: skip
