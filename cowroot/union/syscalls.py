"""System calls that the standard library does not offer, and paths that start at a descriptor.

All raise OSError with the call's errno and take paths as bytes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections import deque

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4  # linux/fs.h
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # linux/stat.h, in tv_nsec
AT_FDCWD, AT_SYMLINK_NOFOLLOW = -100, 0x100  # linux/fcntl.h
FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
FICLONE = 0x40049409  # linux/fs.h
_BTRFS = 0x9123683E  # linux/magic.h

_OPEN_TREE, _MOUNT_SETATTR = 428, 442  # asm-generic/unistd.h: calls of this age have one number on all architectures
_OPEN_TREE_CLONE, _AT_EMPTY_PATH = 1, 0x1000  # linux/mount.h, linux/fcntl.h
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOATIME, _MOUNT_ATTR__ATIME = 1, 0x10, 0x70

_OPENAT2 = 437
_RESOLVE = 0x02 | 0x04 | 0x08  # linux/openat2.h: RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH

_SHORT = 3800  # bytes: PATH_MAX (4096) less a component (255) and what `through` puts before
_KEPT = 8  # more than any one operation names
_near: deque[int] = deque()

_libc = ctypes.CDLL(None, use_errno=True)


class _timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


_times = _timespec * 2
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_libc.utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_timespec), ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _failed(path: bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def is_far(path: bytes) -> bool:
    """True if `near` has to open something for the path."""
    return len(path) >= _SHORT


def near(fd: int, path: bytes) -> tuple[int, bytes]:
    """The same place as `path` below the directory `fd`, named so that no system call finds the path too long.

    A path as a whole may be longer than PATH_MAX, for its user may stand in a directory far down. The new descriptor stays open until
    some further ones are made here.
    """
    if len(path) < _SHORT:
        return fd, path
    start = fd
    while len(path) >= _SHORT:
        cut = path.rindex(b"/", 0, _SHORT)
        deeper = os.open(path[:cut], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        if fd != start:
            os.close(fd)
        fd, path = deeper, path[cut + 1 :]
    _near.append(fd)
    if len(_near) > _KEPT:
        os.close(_near.popleft())
    return fd, path


def let_go() -> None:
    """Close the descriptors that `near` has made."""
    while _near:
        os.close(_near.popleft())


_open_how = struct.Struct("=QQQ")  # flags, mode, resolve
_hows: dict[int, bytes] = {}  # by the flags; nothing in it for 0: there is no openat2(2)


def open_beneath(fd: int, path: bytes, flags: int) -> int:
    """Open what exists at `path` below the directory `fd`, and follow no symbolic link on the way, nor at the end.

    Somebody who may write to a layer could put one in the place of a directory that was looked up before. Before Linux 5.6, which has
    no openat2(2), only the end is looked at.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    fd, path = near(fd, path)
    if b"/" not in path or not _has_openat2():
        return os.open(path, flags, dir_fd=fd)
    how = _hows.get(flags)
    if how is None:
        how = _hows[flags] = _open_how.pack(flags, 0, _RESOLVE)
    while True:
        opened = int(_libc.syscall(_OPENAT2, fd, path, how, _open_how.size))
        if opened >= 0:
            return opened
        error = _failed(path)
        if error.errno != errno.EINTR:
            raise error


def _has_openat2() -> bool:
    """Whether the kernel has it, and lets us: the filter of some container may not."""
    if not _hows:
        _hows[0] = _open_how.pack(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE)
        fd = _libc.syscall(_OPENAT2, AT_FDCWD, b".", _hows[0], _open_how.size)
        if fd >= 0:
            os.close(fd)
        else:
            _hows[0] = b""
    return bool(_hows[0])


def rename(source_fd: int, source: bytes, target_fd: int, target: bytes) -> None:
    """renameat(2) between paths of any length."""
    source_fd, source = near(source_fd, source)
    target_fd, target = near(target_fd, target)
    os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)


def renameat2(source_fd: int, source: bytes, target_fd: int, target: bytes, flags: int) -> None:
    """Rename with RENAME_* `flags`, between paths of any length. EINVAL where the file system does not know them."""
    source_fd, source = near(source_fd, source)
    target_fd, target = near(target_fd, target)
    if _libc.renameat2(source_fd, source, target_fd, target, flags) != 0:
        raise _failed(source)


def utimensat(dir_fd: int, path: bytes, atime: tuple[int, int], mtime: tuple[int, int], follow: bool = False) -> None:
    """Set times, each as (seconds, nanoseconds) where the nanoseconds may be UTIME_NOW or UTIME_OMIT; `follow` symbolic links?"""
    dir_fd, path = near(dir_fd, path)
    times = _times(_timespec(*atime), _timespec(*mtime))
    if _libc.utimensat(dir_fd, path, times, 0 if follow else AT_SYMLINK_NOFOLLOW) != 0:
        raise _failed(path)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with all its FALLOC_FL_* modes; `offset` and `length` in bytes."""
    if _libc.fallocate(fd, mode, offset, length) != 0:
        raise _failed()


def syncfs(fd: int) -> None:
    """Bring all of the file system that `fd` is on to the disk."""
    if _libc.syncfs(fd) != 0:
        raise _failed()


def is_btrfs(fd: int) -> bool:
    """True if the open file is on btrfs."""
    space = (ctypes.c_long * 64)()
    return _libc.fstatfs(fd, space) == 0 and space[0] & 0xFFFFFFFF == _BTRFS


def ficlone(target_fd: int, source_fd: int) -> None:
    """Make the whole of one file a reflink of another (btrfs, xfs)."""
    fcntl.ioctl(target_fd, FICLONE, source_fd)


class _mount_attr(ctypes.Structure):
    _fields_ = [("set", ctypes.c_uint64), ("clear", ctypes.c_uint64), ("propagation", ctypes.c_uint64), ("userns_fd", ctypes.c_uint64)]


def private_mount(fd: int) -> int:
    """A mount of our own that begins at the directory `fd`: without what is mounted below that, not to be written, keeping access times.

    Returns a descriptor of the same directory in it; nobody else sees the mount, and it ends with the last descriptor of anything in it.
    Raises OSError: EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.2. Before 5.12 the mount can be written.
    """
    clone = _libc.syscall(_OPEN_TREE, fd, b"", _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH)
    if clone < 0:
        raise _failed()
    try:
        attributes = _mount_attr(_MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOATIME, _MOUNT_ATTR__ATIME)
        _libc.syscall(_MOUNT_SETATTR, clone, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes))
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=clone)
    finally:
        os.close(clone)


_fd_directory = b"/proc/self/fd/"


def enter_fd_directory(proc: int) -> None:
    """Make self/fd below the directory `proc` the working directory, so that `through` needs no visible /proc from now on.

    The daemon of `/` is started in a root that is later taken away from under it. What the standard library does only by path
    (extended attributes, scandir) goes on working through a working directory, which is a reference of its own.
    """
    global _fd_directory
    os.fchdir(proc)
    os.chdir("self/fd")
    _fd_directory = b""


def fd_directory() -> bytes:
    """The directory in which each descriptor is a link to what it is open for, with a slash; nothing if that is the working directory."""
    return _fd_directory


def through(fd: int, path: bytes) -> bytes:
    """A path for calls that take no dir_fd: `path`, relative to the directory `fd`, whatever is mounted where."""
    fd, path = near(fd, path)
    return b"%s%d/%s" % (_fd_directory, fd, path)


def groups_of(thread: int) -> list[int]:
    """The supplementary groups of a process or thread (proc_pid_status(5)); none if it is gone, or not to be seen from here."""
    try:
        with open(b"%s../../%d/status" % (_fd_directory, thread), "rb") as status:
            line = next((line for line in status if line.startswith(b"Groups:")), b"Groups:")
    except OSError:
        return []
    return [int(group) for group in line.split()[1:]]
