"""The facade that every backend offers: system calls on paths below a root, and on descriptors.

Paths are bytes relative to the root of the file system under test, b"" is the root itself. Errors are OSError as the kernel gives them.
"""

from __future__ import annotations

import contextlib
import os
import stat as st
from collections.abc import Iterator
from typing import NamedTuple, Optional, Protocol, Union

from tests.behaviour import calls
from tests.behaviour.calls import DirectoryEntry

Target = Union[bytes, int]  # a path, or a descriptor


class Stat(NamedTuple):
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    dev: int
    birth_ns: int = 0  # only where the backend knows it, and only by path

    @property
    def kind(self) -> int:
        return st.S_IFMT(self.mode)

    @property
    def permissions(self) -> int:
        return st.S_IMODE(self.mode)


class SharedMapping(Protocol):
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> int: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class FileSystem(Protocol):
    """System calls on the file system under test. `target` is a path or a descriptor."""

    mounted: bool  # real system calls: locks, execution and other processes are possible

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> int: ...
    def close(self, fd: int) -> None: ...
    def close_all(self) -> None: ...
    def read(self, fd: int, length: int) -> bytes: ...
    def pread(self, fd: int, length: int, offset: int) -> bytes: ...
    def write(self, fd: int, data: bytes) -> int: ...
    def pwrite(self, fd: int, data: bytes, offset: int) -> int: ...
    def lseek(self, fd: int, offset: int, whence: int) -> int: ...
    def truncate(self, target: Target, size: int) -> None: ...
    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None: ...
    def copy_range(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> int: ...
    def fsync(self, fd: int, datasync: bool = False) -> None: ...
    def map(self, fd: int, length: int, writable: bool = False) -> SharedMapping: ...
    def stat(self, target: Target, follow: bool = True) -> Stat: ...
    def chmod(self, target: Target, mode: int) -> None: ...
    def chown(self, target: Target, uid: int, gid: int, follow: bool = True) -> None: ...
    def utimens(self, target: Target, atime_ns: int, mtime_ns: int, follow: bool = True) -> None: ...
    def mkdir(self, path: bytes, mode: int = 0o777) -> None: ...
    def rmdir(self, path: bytes) -> None: ...
    def unlink(self, path: bytes) -> None: ...
    def rename(self, source: bytes, target: bytes, flags: int = 0) -> None: ...
    def link(self, source: Target, target: bytes) -> None: ...
    def symlink(self, value: bytes, path: bytes) -> None: ...
    def readlink(self, path: bytes) -> bytes: ...
    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None: ...
    def getdents(self, fd: int, size: int = 32768) -> list[DirectoryEntry]: ...
    def getxattr(self, target: Target, name: bytes, follow: bool = True) -> bytes: ...
    def setxattr(self, target: Target, name: bytes, value: bytes, flags: int = 0, follow: bool = True) -> None: ...
    def listxattr(self, target: Target, follow: bool = True) -> list[bytes]: ...
    def removexattr(self, target: Target, name: bytes, follow: bool = True) -> None: ...
    def statvfs(self) -> os.statvfs_result: ...
    def umask(self, mask: int) -> int: ...
    def user(self, uid: int, gid: int) -> contextlib.AbstractContextManager[None]: ...
    def below(self, path: bytes) -> FileSystem: ...


class MountedFileSystem:
    """Real system calls below a directory."""

    mounted = True

    def __init__(self, root: bytes, births: bool = False) -> None:
        self.root = root
        self._births = births
        self._opened: set[int] = set()
        self._mappings: list[calls.Mapping] = []

    def path(self, path: bytes) -> bytes:
        return self.root + b"/" + path if path else self.root

    def _target(self, target: Target) -> Target:
        return target if isinstance(target, int) else self.path(target)

    def below(self, path: bytes) -> MountedFileSystem:
        view = MountedFileSystem(self.path(path), self._births)
        view._opened, view._mappings = self._opened, self._mappings
        return view

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> int:
        fd = os.open(self.path(path), flags | os.O_CLOEXEC, mode)
        self._opened.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._opened.discard(fd)
        os.close(fd)

    def close_all(self) -> None:
        while self._opened:
            os.close(self._opened.pop())
        while self._mappings:
            self._mappings.pop().close()

    def read(self, fd: int, length: int) -> bytes:
        return os.read(fd, length)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        return os.lseek(fd, offset, whence)

    def truncate(self, target: Target, size: int) -> None:
        os.truncate(self._target(target), size)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        calls.fallocate(fd, mode, offset, length)

    def copy_range(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
        return os.copy_file_range(source, target, length, source_offset, target_offset)

    def fsync(self, fd: int, datasync: bool = False) -> None:
        (os.fdatasync if datasync else os.fsync)(fd)

    def map(self, fd: int, length: int, writable: bool = False) -> SharedMapping:
        mapping = calls.Mapping(fd, length, writable)
        self._mappings[:] = [*(known for known in self._mappings if known.is_open), mapping]
        return mapping

    def stat(self, target: Target, follow: bool = True) -> Stat:
        where = self._target(target)
        found = os.stat(where) if isinstance(where, int) else os.stat(where, follow_symlinks=follow)
        birth = calls.birth_ns(where) if self._births and isinstance(where, bytes) and not follow else 0
        return Stat(
            found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, found.st_size,
            found.st_blocks, found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, birth,
        )  # fmt: skip

    def chmod(self, target: Target, mode: int) -> None:
        os.chmod(self._target(target), mode)

    def chown(self, target: Target, uid: int, gid: int, follow: bool = True) -> None:
        where = self._target(target)
        if isinstance(where, int):
            os.chown(where, uid, gid)
        else:
            os.chown(where, uid, gid, follow_symlinks=follow)

    def utimens(self, target: Target, atime_ns: int, mtime_ns: int, follow: bool = True) -> None:
        where = self._target(target)
        if isinstance(where, int):
            calls.futimens(where, atime_ns, mtime_ns)
        else:
            calls.utimensat(where, atime_ns, mtime_ns, follow)

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        os.mkdir(self.path(path), mode)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.path(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self.path(path))

    def rename(self, source: bytes, target: bytes, flags: int = 0) -> None:
        if flags:
            calls.renameat2(self.path(source), self.path(target), flags)
        else:
            os.rename(self.path(source), self.path(target))

    def link(self, source: Target, target: bytes) -> None:
        """A further name for a path (not followed when a symlink) or for what a descriptor holds."""
        if isinstance(source, int):
            name = b"/proc/self/fd/%d" % source
            calls.linkat(calls.AT_FDCWD, name, self.path(target), calls.AT_SYMLINK_FOLLOW)
        else:
            calls.linkat(calls.AT_FDCWD, self.path(source), self.path(target), 0)

    def symlink(self, value: bytes, path: bytes) -> None:
        os.symlink(value, self.path(path))

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(self.path(path))

    def mknod(self, path: bytes, mode: int, rdev: int = 0) -> None:
        os.mknod(self.path(path), mode, rdev)

    def getdents(self, fd: int, size: int = 32768) -> list[DirectoryEntry]:
        return calls.getdents(fd, size)

    def getxattr(self, target: Target, name: bytes, follow: bool = True) -> bytes:
        where = self._target(target)
        return os.getxattr(where, name) if isinstance(where, int) else os.getxattr(where, name, follow_symlinks=follow)

    def setxattr(self, target: Target, name: bytes, value: bytes, flags: int = 0, follow: bool = True) -> None:
        where = self._target(target)
        if isinstance(where, int):
            os.setxattr(where, name, value, flags)
        else:
            os.setxattr(where, name, value, flags, follow_symlinks=follow)

    def listxattr(self, target: Target, follow: bool = True) -> list[bytes]:
        where = self._target(target)
        names = os.listxattr(where) if isinstance(where, int) else os.listxattr(where, follow_symlinks=follow)
        return [os.fsencode(name) for name in names]

    def removexattr(self, target: Target, name: bytes, follow: bool = True) -> None:
        where = self._target(target)
        if isinstance(where, int):
            os.removexattr(where, name)
        else:
            os.removexattr(where, name, follow_symlinks=follow)

    def statvfs(self) -> os.statvfs_result:
        return os.statvfs(self.root)

    def umask(self, mask: int) -> int:
        return os.umask(mask)

    @contextlib.contextmanager
    def user(self, uid: int, gid: int) -> Iterator[None]:
        """Do what follows as another user, without supplementary groups."""
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(gid)
        os.seteuid(uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)


def read_all(fs: FileSystem, target: Target) -> bytes:
    """The whole content of a file; a descriptor's offset is left alone."""
    fd = target if isinstance(target, int) else fs.open(target, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        chunks: list[bytes] = []
        offset = 0
        while chunk := fs.pread(fd, 1 << 20, offset):
            chunks.append(chunk)
            offset += len(chunk)
        return b"".join(chunks)
    finally:
        if not isinstance(target, int):
            fs.close(fd)


def write_file(fs: FileSystem, path: bytes, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC, mode: int = 0o644) -> None:
    """Write `data` to a file, made anew or emptied first unless `flags` say otherwise."""
    fd = fs.open(path, os.O_WRONLY | flags, mode)
    try:
        at = 0
        while at < len(data):
            at += fs.write(fd, data[at:])
    finally:
        fs.close(fd)


def entries(fs: FileSystem, path: bytes) -> list[DirectoryEntry]:
    """All entries of a directory, "." and ".." included, in the order that the file system gives."""
    fd = fs.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return entries_at(fs, fd)
    finally:
        fs.close(fd)


def entries_at(fs: FileSystem, fd: int, size: int = 32768) -> list[DirectoryEntry]:
    """What is left to read from an open directory."""
    found: list[DirectoryEntry] = []
    while some := fs.getdents(fd, size):
        found.extend(some)
    return found


def names(fs: FileSystem, path: bytes = b"") -> list[bytes]:
    """Sorted names in a directory, without "." and ".."."""
    return sorted(entry.name for entry in entries(fs, path) if entry.name not in (b".", b".."))


def exists(fs: FileSystem, path: bytes) -> bool:
    try:
        fs.stat(path, follow=False)
    except FileNotFoundError:
        return False
    return True


def optional_xattr(fs: FileSystem, target: Target, name: bytes) -> Optional[bytes]:
    """The attribute's value, or None where the file has no such attribute."""
    return fs.getxattr(target, name, follow=False) if name in fs.listxattr(target, follow=False) else None
