"""What libfuse calls: the operations of its table that are about names and directories, answered by the union.

libfuse finds a path for each request and hands it over; the path is not used. The request itself is at hand (`request`), and with it the
node, the raw name and what libfuse 2 leaves out on the way, such as the caller's umask. All else is answered without libfuse: see
`node_answers` and `file_answers`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any, Callable

from cowroot.fuse import protocol as p
from cowroot.fuse.inodes import Inodes
from cowroot.fuse.libfuse import FILLER
from cowroot.fuse.request import OpenFiles, Request
from cowroot.fuse.writers import Writers
from cowroot.union import Caller, Node, Union


class Operations:
    """The operations. Each returns 0 or a size, and raises OSError for an error."""

    def __init__(self, fusepy: Any, union: Union, inodes: Inodes, files: OpenFiles, request: Request, writers: Writers) -> None:
        self._union = union
        self._inodes = inodes
        self._files = files
        self._request = request
        self._writers = writers
        self._file_info: Callable[[int], Any] = fusepy.fuse_file_info.from_address
        self._stat = fusepy.c_stat
        self._mode_offset = fusepy.c_stat.st_mode.offset
        self._stat_size = ctypes.sizeof(fusepy.c_stat)
        self._filler: Any = None

    def getattr(self, path: int, buffer: int) -> int:
        """The second half of every request that is answered with an entry. libfuse only wants to see that what was created is a file."""
        attr = self._request.attr = self._union.getattr(self._request.entry)
        ctypes.memmove(buffer + self._mode_offset, p.U32.pack(attr.mode), p.U32.size)
        return 0

    def fgetattr(self, path: int, buffer: int, info: int) -> int:
        return self.getattr(path, buffer)

    # -- names

    def _caller(self, umask: int) -> Caller:
        return Caller(self._request.uid, self._request.gid, umask)

    def _here(self, name: bytes) -> Node:
        """Note that the entry of this request is `name` in the header's directory; returns that directory."""
        request = self._request
        request.place = (request.inode.number, name)
        return request.inode.node

    def mknod(self, path: int, mode: int, device: int) -> int:
        mode, device, umask, _ = p.MKNOD_IN.unpack_from(self._request.buffer, p.BODY)
        name = self._request.name(p.MKNOD_IN.size)
        self._request.entry = self._union.mknod(self._here(name), name, mode, device, self._caller(umask))
        return 0

    def mkdir(self, path: int, mode: int) -> int:
        mode, umask = p.MKDIR_IN.unpack_from(self._request.buffer, p.BODY)
        name = self._request.name(p.MKDIR_IN.size)
        self._request.entry = self._union.mkdir(self._here(name), name, mode, self._caller(umask))
        return 0

    def symlink(self, target: int, path: int) -> int:
        name, text = self._request.names(0)
        self._request.entry = self._union.symlink(self._here(name), name, text, self._caller(0))
        return 0

    def link(self, old: int, new: int) -> int:
        """`request.entry` is the file already: the header names the directory."""
        name = self._request.name(p.U64.size)
        self._union.link(self._request.entry, self._here(name), name)
        return 0

    def unlink(self, path: int) -> int:
        return self._remove(self._union.unlink)

    def rmdir(self, path: int) -> int:
        return self._remove(self._union.rmdir)

    def _remove(self, remove: Callable[[Node, bytes], None]) -> int:
        name = self._request.name(0)
        parent = self._here(name)
        inode = self._inodes.of(self._union.lookup(parent, name))
        remove(parent, name)
        self._inodes.unname(inode, self._request.place)
        return 0

    def rename(self, old: int, new: int) -> int:
        request = self._request
        if request.opcode == p.RENAME2:
            return 0  # an exchange, which is done: only libfuse's own table follows
        target_directory = self._inodes.by_number[p.U64.unpack_from(request.buffer, p.BODY)[0]]
        old_name, new_name = request.names(p.U64.size)
        old_place, new_place = (request.inode.number, old_name), (target_directory.number, new_name)
        moved = self._inodes.of(self._union.lookup(request.inode.node, old_name))
        try:
            replaced = self._inodes.of(self._union.lookup(target_directory.node, new_name))
        except FileNotFoundError:
            replaced = None
        self._union.rename(request.inode.node, old_name, target_directory.node, new_name, request.rename_flags)
        if replaced is moved and replaced is not None:
            return 0  # two names of one file: rename(2) does nothing. The kernel sees to it where it knows both
        self._inodes.unname(replaced, new_place)
        self._inodes.rename(moved, old_place, new_place)
        return 0

    def create(self, path: int, mode: int, info: int) -> int:
        request = self._request
        if request.opcode != p.CREATE:
            raise OSError(errno.ENOSYS, "mknod of a regular file: libfuse then calls mknod")
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(request.buffer, p.BODY)
        name = request.name(p.CREATE_IN.size)
        parent = self._here(name)
        request.entry, handle = self._union.create(parent, name, mode, flags & (os.O_ACCMODE | os.O_EXCL), self._caller(umask))
        request.opened = self._files.add(handle)
        self._writers.note(request.entry.ino, request.pid)
        fields = self._file_info(info)
        fields.fh = request.opened
        fields.keep_cache = 1
        return 0

    def release(self, path: int, info: int) -> int:
        self._union.release(self._files.remove(self._file_info(info).fh))
        return 0

    # -- directories

    def readdir(self, path: int, buffer: int, filler: int, offset: int, info: int) -> int:
        """Hand over the whole directory at once: libfuse keeps it for this opendir, so that a reader loses and repeats nothing."""
        fill = self._filler
        if fill is None:
            fill = self._filler = FILLER(filler)  # libfuse has just one
        pack_stat = self._pack_entry()
        directory = self._union.opendir(self._request.inode.node)
        try:
            for name, ino, mode in self._union.readdir(directory):
                if fill(buffer, name, pack_stat(ino, mode), 0):
                    raise OSError(errno.ENOMEM, "libfuse has no memory for the directory")
        finally:
            self._union.releasedir(directory)
        return 0

    def _pack_entry(self) -> Callable[[int, int], int]:
        """A function that puts inode number and type into one `struct stat` and returns its address."""
        space = bytearray(self._stat_size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(space))
        ino_format = struct.Struct("=Q" if self._stat.st_ino.size == 8 else "=I")
        ino_offset, mode_offset = self._stat.st_ino.offset, self._stat.st_mode.offset

        def pack(ino: int, mode: int) -> int:
            ino_format.pack_into(space, ino_offset, ino)
            p.U32.pack_into(space, mode_offset, mode)
            return address

        return pack

    def fsyncdir(self, path: int, datasync: int, info: int) -> int:
        directory = self._union.opendir(self._request.inode.node)
        try:
            self._union.fsyncdir(directory)
        finally:
            self._union.releasedir(directory)
        return 0

    def table(self) -> dict[str, Callable[..., int]]:
        """Each operation under libfuse's name for it. `release` is for a creation whose caller has been killed."""
        return {
            "getattr": self.getattr, "fgetattr": self.fgetattr, "mknod": self.mknod, "mkdir": self.mkdir, "unlink": self.unlink,
            "rmdir": self.rmdir, "symlink": self.symlink, "rename": self.rename, "link": self.link, "create": self.create,
            "release": self.release, "fsyncdir": self.fsyncdir, "readdir": self.readdir,
        }  # fmt: skip
