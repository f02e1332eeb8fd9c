"""The union core behind the facade of `filesystem`, without a mount: this file plays the kernel's part.

What the kernel's VFS does before it asks a file system is done here in the same order, for the order decides which error wins (sources:
fs/namei.c, fs/open.c, fs/read_write.c, fs/xattr.c). Permissions are not modelled: the caller is root.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat as st
from pathlib import Path
from typing import Optional

from cowroot.union.layers import LayerSpec
from cowroot.union.node import Caller, Node
from cowroot.union.union import NOW as UNION_NOW
from cowroot.union.union import Union
from tests.behaviour import calls
from tests.behaviour.backends import Case
from tests.behaviour.calls import NOW, OMIT, DirectoryEntry
from tests.behaviour.core_files import CoreMapping, OpenFile
from tests.behaviour.core_names import Names, Place, failure
from tests.behaviour.filesystem import SharedMapping, Stat, Target


class CoreFileSystem:
    """System calls on a `Union`. Satisfies `filesystem.FileSystem`."""

    mounted = False

    def __init__(self, union: Union, prefix: bytes = b"") -> None:
        self.union = union
        self._prefix = prefix
        self._files: dict[int, OpenFile] = {}
        self._numbers = itertools.count(1000)
        self._names = Names(union)
        self._dead: set[Node] = set()  # directories that were removed while somebody holds them
        self._linkable: set[Node] = set()  # of O_TMPFILE, without a name so far
        self._umask = 0o022

    @classmethod
    def of(cls, case: Case, layers: Optional[list[bytes]] = None, whiteouts: str = "overlay") -> CoreFileSystem:
        return cls(Union.open(LayerSpec(lower=layers or case.layers, upper=case.upper, work=case.work, whiteouts=[whiteouts])))

    def below(self, path: bytes) -> CoreFileSystem:
        """The same file system, with paths below a directory; descriptors are shared."""
        view = CoreFileSystem.__new__(CoreFileSystem)
        view.__dict__ = {**self.__dict__, "_prefix": self._prefix + path + b"/"}
        return view

    def shut_down(self) -> None:
        self._names.forget()
        self.union.close()

    # -- paths ---------------------------------------------------------------------------------------------------------------------

    def _node(self, target: Target, follow: bool = True) -> Node:
        if isinstance(target, int):
            return self._files[target].node
        node = self._names.place(self._prefix + target, follow).node
        if node is None:
            raise failure(errno.ENOENT, target)
        return node

    def _vacant(self, path: bytes) -> Place:
        """Where something new may go."""
        place = self._names.place(self._prefix + path)
        if place.node is not None:
            raise failure(errno.EEXIST, path)
        return place

    def _caller(self) -> Caller:
        return Caller(0, 0, self._umask)

    # -- descriptors ---------------------------------------------------------------------------------------------------------------

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return self._open_tmpfile(path, flags, mode)
        follow = not flags & os.O_NOFOLLOW and not (flags & os.O_CREAT and flags & os.O_EXCL)
        place = self._names.place(self._prefix + path, follow)
        node = place.node
        if node is None:
            if not flags & os.O_CREAT:
                raise failure(errno.ENOENT, path)
            made, handle = self.union.create(
                place.parent, place.name, mode & 0o7777, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC), self._caller()
            )
            return self._install(OpenFile(self._names.remember(made), flags, handle))
        if flags & os.O_CREAT:
            if flags & os.O_EXCL:
                raise failure(errno.EEXIST, path)
            if node.kind == st.S_IFDIR:
                raise failure(errno.EISDIR, path)
            self._refuse_in_sticky(place.parent, node)
        if flags & os.O_DIRECTORY and node.kind != st.S_IFDIR:
            raise failure(errno.ENOTDIR, path)
        return self._open_node(node, flags, path)

    def _refuse_in_sticky(self, parent: Node, node: Node) -> None:
        """O_CREAT on what others left in /tmp and the like (fs/namei.c, may_create_in_sticky; sysctl fs.protected_*)."""
        directory, found = self.union.getattr(parent), self.union.getattr(node)
        protected = {st.S_IFREG: "regular", st.S_IFIFO: "fifos"}.get(node.kind)
        level = int(Path("/proc/sys/fs", f"protected_{protected}").read_text()) if protected else 1
        if not directory.mode & st.S_ISVTX or not level or found.uid in (directory.uid, 0):
            return
        if directory.mode & 0o002 or (directory.mode & 0o020 and level >= 2):
            raise failure(errno.EACCES)

    def _open_node(self, node: Node, flags: int, path: bytes) -> int:
        if node.kind == st.S_IFLNK:
            raise failure(errno.ELOOP, path)
        if node.kind == st.S_IFDIR:
            if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
                raise failure(errno.EISDIR, path)
            return self._install(OpenFile(node, flags, directory=self.union.opendir(node)))
        if node.kind == st.S_IFIFO and flags & os.O_ACCMODE != os.O_WRONLY:
            return self._install(OpenFile(node, flags))
        if node.kind != st.S_IFREG:
            raise failure(errno.ENXIO, path)
        handle = self.union.open_file(node, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))
        opened = OpenFile(node, flags, handle)
        if flags & os.O_TRUNC:
            self.union.setattr(node, size=0, mtime_ns=UNION_NOW)
        return self._install(opened)

    def _open_tmpfile(self, path: bytes, flags: int, mode: int) -> int:
        parent = self._node(path)
        if parent.kind != st.S_IFDIR:
            raise failure(errno.ENOTDIR, path)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise failure(errno.EINVAL, path)
        node, handle = self.union.tmpfile(parent, mode & 0o7777, flags & os.O_ACCMODE, self._caller())
        self._linkable.add(self._names.remember(node))
        return self._install(OpenFile(node, flags & ~(os.O_TMPFILE | os.O_DIRECTORY), handle))

    def _install(self, opened: OpenFile) -> int:
        self.union.retain(opened.node)
        number = next(self._numbers)
        self._files[number] = opened
        return number

    def close(self, fd: int) -> None:
        self._files.pop(fd).let_go(self.union)

    def close_all(self) -> None:
        for fd in list(self._files):
            self.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        opened = self._files[fd]
        if not opened.readable:
            raise failure(errno.EBADF)
        handle = opened.file
        return bytes(self.union.read(handle, length, offset)) if length else b""

    def read(self, fd: int, length: int) -> bytes:
        opened = self._files[fd]
        data = self.pread(fd, length, opened.position)
        opened.position += len(data)
        return data

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        opened = self._files[fd]
        if not opened.writable:
            raise failure(errno.EBADF)
        if not data:
            return 0
        if opened.flags & os.O_APPEND:  # Linux appends whatever offset pwrite() names
            offset = self.union.getattr(opened.node).size
        return self.union.write(opened.file, data, offset)

    def write(self, fd: int, data: bytes) -> int:
        opened = self._files[fd]
        start = opened.position
        if opened.flags & os.O_APPEND and opened.writable and data:
            start = self.union.getattr(opened.node).size
        written = self.pwrite(fd, data, start)
        opened.position = start + written
        return written

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        opened = self._files[fd]
        if opened.directory is not None:
            if whence not in (os.SEEK_SET, os.SEEK_CUR):
                raise failure(errno.EINVAL)
            opened.position = offset + (opened.position if whence == os.SEEK_CUR else 0)
            return opened.position
        if opened.handle is None:
            raise failure(errno.ESPIPE)
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            target = self.union.seek(opened.handle, offset, whence)
        elif whence == os.SEEK_END:
            target = self.union.getattr(opened.node).size + offset
        else:
            target = offset + (opened.position if whence == os.SEEK_CUR else 0)
        if target < 0:
            raise failure(errno.EINVAL)
        opened.position = target
        return target

    def truncate(self, target: Target, size: int) -> None:
        node = self._node(target)
        if isinstance(target, int) and not (node.kind == st.S_IFREG and self._files[target].writable):
            raise failure(errno.EINVAL)
        if node.kind != st.S_IFREG:
            raise failure(errno.EISDIR if node.kind == st.S_IFDIR else errno.EINVAL)
        self.union.setattr(node, size=size, mtime_ns=UNION_NOW if isinstance(target, int) else None)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        opened = self._files[fd]
        if offset < 0 or length <= 0:
            raise failure(errno.EINVAL)
        if not opened.writable:
            raise failure(errno.EBADF)
        self.union.fallocate(opened.file, mode, offset, length)

    def copy_range(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
        reader, writer = self._files[source], self._files[target]
        inside, outside = reader.file, writer.file
        if not reader.readable or not writer.writable or writer.flags & os.O_APPEND:
            raise failure(errno.EBADF)
        length = max(0, min(length, self.union.getattr(reader.node).size - source_offset))
        if reader.node is writer.node and target_offset + length > source_offset and target_offset < source_offset + length:
            raise failure(errno.EINVAL)
        try:
            return self.union.copy_range(inside, source_offset, outside, target_offset, length) if length else 0
        except OSError as error:
            if error.errno != errno.EXDEV:  # then the kernel copies by itself (fs/fuse/file.c, fuse_copy_file_range)
                raise
            return self.union.write(outside, self.union.read(inside, length, source_offset), target_offset)

    def fsync(self, fd: int, datasync: bool = False) -> None:
        opened = self._files[fd]
        if opened.directory is not None:
            self.union.fsyncdir(opened.directory)
        else:
            self.union.fsync(opened.file, datasync)

    def map(self, fd: int, length: int, writable: bool = False) -> SharedMapping:
        opened = self._files[fd]
        if not opened.readable or (writable and not opened.writable):
            raise failure(errno.EACCES)
        if opened.directory is not None:
            raise failure(errno.ENODEV)
        return CoreMapping(self.union, opened, length, writable)

    def getdents(self, fd: int, size: int = 32768) -> list[DirectoryEntry]:
        """What is left of the listing that was taken at the first call since open or rewind; offsets count entries."""
        opened = self._files[fd]
        if opened.directory is None:
            raise failure(errno.ENOTDIR)
        if opened.node in self._dead:
            raise failure(errno.ENOENT)
        if not opened.position:
            opened.listing = self.union.readdir(opened.directory)
        start = opened.position
        opened.position = min(len(opened.listing), start + max(1, size // 64))
        part = opened.listing[start : opened.position]
        return [DirectoryEntry(entry.name, entry.ino, entry.mode >> 12, start + at + 1) for at, entry in enumerate(part)]

    # -- attributes ----------------------------------------------------------------------------------------------------------------

    def stat(self, target: Target, follow: bool = True) -> Stat:
        a = self.union.getattr(self._node(target, follow))
        return Stat(a.ino, a.mode, a.nlink, a.uid, a.gid, a.rdev, a.size, a.blocks, a.atime_ns, a.mtime_ns, a.ctime_ns, 0)

    def chmod(self, target: Target, mode: int) -> None:
        self.union.setattr(self._node(target), mode=st.S_IMODE(mode))

    def chown(self, target: Target, uid: int, gid: int, follow: bool = True) -> None:
        """Without KILLPRIV the kernel's FUSE client sends the mode without suid and sgid along (fs/fuse/dir.c, fuse_setattr)."""
        node = self._node(target, follow)
        mode = old = st.S_IMODE(self.union.getattr(node).mode)
        if node.kind != st.S_IFDIR:
            mode &= ~st.S_ISUID
            mode &= ~(st.S_ISGID if mode & st.S_IXGRP else 0)
            if b"security.capability" in self.union.listxattr(node):  # fs/attr.c, setattr_prepare
                self.union.removexattr(node, b"security.capability")
        self.union.setattr(
            node, mode=mode if mode != old else None, uid=None if uid == -1 else uid, gid=None if gid == -1 else gid
        )  # fmt: skip

    def utimens(self, target: Target, atime_ns: int, mtime_ns: int, follow: bool = True) -> None:
        if atime_ns == mtime_ns == OMIT:
            return  # the kernel does not even look the path up
        node = self._node(target, follow)
        chosen = [{OMIT: None, NOW: UNION_NOW}.get(ns, ns) for ns in (atime_ns, mtime_ns)]
        self.union.setattr(node, atime_ns=chosen[0], mtime_ns=chosen[1])

    def _xattr_node(self, target: Target, name: bytes, follow: bool, absent: int) -> Node:
        node = self._node(target, follow)
        if name.startswith(b"user.") and node.kind not in (st.S_IFREG, st.S_IFDIR):
            raise failure(absent)
        return node

    def getxattr(self, target: Target, name: bytes, follow: bool = True) -> bytes:
        return self.union.getxattr(self._xattr_node(target, name, follow, errno.ENODATA), name)

    def setxattr(self, target: Target, name: bytes, value: bytes, flags: int = 0, follow: bool = True) -> None:
        if not 0 < len(name) <= 255:
            raise failure(errno.ERANGE)
        if len(value) > 65536:
            raise failure(errno.E2BIG)
        self.union.setxattr(self._xattr_node(target, name, follow, errno.EPERM), name, value, flags)

    def listxattr(self, target: Target, follow: bool = True) -> list[bytes]:
        return list(self.union.listxattr(self._node(target, follow)))

    def removexattr(self, target: Target, name: bytes, follow: bool = True) -> None:
        self.union.removexattr(self._xattr_node(target, name, follow, errno.EPERM), name)

    # -- names ---------------------------------------------------------------------------------------------------------------------

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        place = self._vacant(path)
        self._names.remember(self.union.mkdir(place.parent, place.name, mode & 0o1777, self._caller()))

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        place = self._vacant(path)
        kind = st.S_IFMT(mode) or st.S_IFREG
        self._names.remember(self.union.mknod(place.parent, place.name, kind | st.S_IMODE(mode), rdev, self._caller()))

    def symlink(self, value: bytes, path: bytes) -> None:
        if not value:
            raise failure(errno.ENOENT)
        if len(value) > 4095:
            raise failure(errno.ENAMETOOLONG)
        place = self._vacant(path)
        self._names.remember(self.union.symlink(place.parent, place.name, value, self._caller()))

    def readlink(self, path: bytes) -> bytes:
        node = self._node(path, follow=False)
        if node.kind != st.S_IFLNK:
            raise failure(errno.EINVAL, path)
        return self.union.readlink(node)

    def rmdir(self, path: bytes) -> None:
        place = self._names.place(self._prefix + path)
        if place.node is None:
            raise failure(errno.ENOENT, path)
        if place.node.kind != st.S_IFDIR:
            raise failure(errno.ENOTDIR, path)
        self.union.rmdir(place.parent, place.name)
        self._dead.add(place.node)

    def unlink(self, path: bytes) -> None:
        place = self._names.place(self._prefix + path)
        if place.node is None:
            raise failure(errno.ENOENT, path)
        if place.node.kind == st.S_IFDIR:
            raise failure(errno.EISDIR, path)
        self.union.unlink(place.parent, place.name)

    def link(self, source: Target, target: bytes) -> None:
        node = self._node(source, follow=False)
        place = self._vacant(target)
        if node.kind == st.S_IFDIR:
            raise failure(errno.EPERM, target)
        if isinstance(source, int) and node not in self._linkable and not self.union.getattr(node).nlink:
            raise failure(errno.ENOENT)
        self._names.remember(self.union.link(node, place.parent, place.name))
        self._linkable.discard(node)

    def rename(self, source: bytes, target: bytes, flags: int = 0) -> None:
        exchange = flags & calls.RENAME_EXCHANGE
        if exchange and flags & (calls.RENAME_NOREPLACE | calls.RENAME_WHITEOUT):
            raise failure(errno.EINVAL)
        old, new = self._names.place(self._prefix + source), self._names.place(self._prefix + target)
        if old.node is None:
            raise failure(errno.ENOENT, source)
        if flags & calls.RENAME_NOREPLACE and new.node is not None:
            raise failure(errno.EEXIST, target)
        if exchange and new.node is None:
            raise failure(errno.ENOENT, target)
        if old.node in new.way:
            raise failure(errno.EINVAL, target)
        if new.node in old.way:
            raise failure(errno.EINVAL if exchange else errno.ENOTEMPTY, target)
        if old.node is new.node:
            return
        if new.node is not None and not exchange:
            if old.node.kind == st.S_IFDIR and new.node.kind != st.S_IFDIR:
                raise failure(errno.ENOTDIR, target)
            if old.node.kind != st.S_IFDIR and new.node.kind == st.S_IFDIR:
                raise failure(errno.EISDIR, target)
        self.union.rename(old.parent, old.name, new.parent, new.name, flags)
        if new.node is not None and new.node.kind == st.S_IFDIR and not exchange:
            self._dead.add(new.node)

    # -- the whole -----------------------------------------------------------------------------------------------------------------

    def statvfs(self) -> os.statvfs_result:
        return self.union.statfs()

    def umask(self, mask: int) -> int:
        before, self._umask = self._umask, mask
        return before

    def user(self, uid: int, gid: int) -> contextlib.AbstractContextManager[None]:
        raise NotImplementedError("permissions are the kernel's to check")
