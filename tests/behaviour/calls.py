"""System calls that Python's os module lacks, through the C library. All raise OSError with the call's errno."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any, NamedTuple

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE_RANGE, FALLOC_ZERO_RANGE, FALLOC_INSERT_RANGE = 1, 2, 8, 16, 32
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x400, 0x1000
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
FICLONE = 0x40049409
PROT_READ, PROT_WRITE, MAP_SHARED, MS_SYNC = 1, 2, 1, 4
_STATX_BTIME = 0x800
_NR_GETDENTS64 = {"x86_64": 217, "aarch64": 61, "riscv64": 61, "i686": 220, "ppc64le": 202, "s390x": 220}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, *names: object) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *names)
    return result


def renameat2(source: bytes, target: bytes, flags: int) -> None:
    _checked(_libc.renameat2(AT_FDCWD, source, AT_FDCWD, target, ctypes.c_uint(flags)), source, None, target)


def linkat(source_fd: int, source: bytes, target: bytes, flags: int) -> None:
    _checked(_libc.linkat(source_fd, source, AT_FDCWD, target, flags), source, None, target)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _checked(_libc.fallocate(fd, mode, offset, length))


def private_mounts() -> None:
    """Give this process mounts of its own (CLONE_NEWNS): what it mounts ends with it, and no other process holds it.

    Without that, whoever makes a namespace meanwhile gets a copy of our mounts, and umount no longer ends them.
    """
    _checked(_libc.unshare(0x20000))
    _checked(_libc.mount(b"none", b"/", None, ctypes.c_ulong(0x44000), None))  # MS_REC | MS_PRIVATE


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


def _timespec(ns: int) -> _Timespec:
    """A time in nanoseconds, or UTIME_NOW / UTIME_OMIT given as the negative of their value (no file is that old)."""
    if ns in (-UTIME_NOW, -UTIME_OMIT):
        return _Timespec(0, -ns)
    return _Timespec(ns // 10**9, ns % 10**9)


NOW, OMIT = -UTIME_NOW, -UTIME_OMIT


def utimensat(path: bytes, atime_ns: int, mtime_ns: int, follow: bool) -> None:
    """Set times; either may be NOW or OMIT."""
    times = (_Timespec * 2)(_timespec(atime_ns), _timespec(mtime_ns))
    _checked(_libc.utimensat(AT_FDCWD, path, times, 0 if follow else AT_SYMLINK_NOFOLLOW), path)


def futimens(fd: int, atime_ns: int, mtime_ns: int) -> None:
    times = (_Timespec * 2)(_timespec(atime_ns), _timespec(mtime_ns))
    _checked(_libc.futimens(fd, times))


class DirectoryEntry(NamedTuple):
    name: bytes
    ino: int
    kind: int  # DT_*: the S_IFMT bits shifted right by 12
    offset: int  # where seekdir() goes to read what follows this entry


def getdents(fd: int, size: int = 32768) -> list[DirectoryEntry]:
    """The next entries of an open directory, as many as fit into `size` bytes; empty at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _checked(_libc.syscall(_NR_GETDENTS64[os.uname().machine], fd, buffer, size))
    raw, at, entries = buffer.raw[:length], 0, []
    while at < length:
        ino, offset, reclen, kind = struct.unpack_from("=QqHB", raw, at)
        name = raw[at + 19 : at + reclen].split(b"\0", 1)[0]
        entries.append(DirectoryEntry(name, ino, kind, offset))
        at += reclen
    return entries


def birth_ns(path: bytes) -> int:
    """When the file was made (nanoseconds; 0 where the file system does not know). Not through symlinks."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer), path)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer.raw, 0x50)
    return int(seconds) * 10**9 + int(nanoseconds)


class Mapping:
    """A shared mapping of the first `length` bytes of a file. Access stays inside the file: beyond its end lies SIGBUS."""

    def __init__(self, fd: int, length: int, writable: bool) -> None:
        protection = PROT_READ | (PROT_WRITE if writable else 0)
        address = _libc.mmap(None, length, protection, MAP_SHARED, fd, 0)
        if address == ctypes.c_void_p(-1).value:
            _checked(-1)
        self._address: Any = address
        self._length = length
        self._writable = writable
        self._fd = os.dup(fd)

    @property
    def is_open(self) -> bool:
        return self._address is not None

    def _inside(self, offset: int, length: int) -> int:
        return max(0, min(length, min(self._length, os.fstat(self._fd).st_size) - offset))

    def read(self, offset: int, length: int) -> bytes:
        return ctypes.string_at(self._address + offset, self._inside(offset, length))

    def write(self, offset: int, data: bytes) -> int:
        if not self._writable:  # the processor's answer would be SIGSEGV
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        length = self._inside(offset, len(data))
        ctypes.memmove(self._address + offset, data, length)
        return length

    def sync(self) -> None:
        _checked(_libc.msync(self._address, self._length, MS_SYNC))

    def close(self) -> None:
        if self._address is not None:
            _checked(_libc.munmap(self._address, self._length))
            self._address = None
            os.close(self._fd)
