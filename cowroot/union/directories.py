"""Directories by descriptor: made, emptied, locked, and whether one lies in another."""

from __future__ import annotations

import fcntl
import os
import stat
import time

from cowroot.union.syscalls import through

LOCK_SECONDS = 3.0  # how long a work directory may still be in use by a mount that is going away


def is_inside(inner: int, outer: int) -> bool:
    """True if `inner` is `outer` or lies below it: walk up to where ".." leads nowhere new.

    Where `inner` is another file system mounted somewhere below, that counts only if `outer` came through the mount that it is seen in.
    The daemon of / runs in a bind of the lower, with the upper mounted in it; the lower that it serves is a second bind, in which
    nothing is mounted.
    """
    target, own = os.fstat(outer), os.fstat(inner)
    fd = os.dup(inner)
    try:
        while True:
            here = os.fstat(fd)
            if os.path.samestat(here, target) and (here.st_dev == own.st_dev or _mount_id(fd) == _mount_id(outer)):
                return True
            up = os.open(b"..", os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = up
            if os.path.samestat(os.fstat(fd), here):
                return False
    finally:
        os.close(fd)


def lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Have the directory for this mount alone, or, with LOCK_SH, for those alone that read it. False if another has it, and keeps it.

    umount(8) returns before the daemon knows of it, so a mount that follows at once finds the lock held for a moment.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _mount_id(fd: int) -> bytes:
    """The number of the mount that a descriptor came through (proc_pid_fdinfo(5)); nothing where /proc is not mounted."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
            return next((line for line in info if line.startswith(b"mnt_id:")), b"")
    except FileNotFoundError:
        return b""


def make_directory(dir_fd: int, name: bytes) -> None:
    """Make a directory of the union's own, if it is not there. What else is in its place was not put there by any union."""
    try:
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=dir_fd)
            os.mkdir(name, 0o700, dir_fd=dir_fd)


def open_directory(dir_fd: int, name: bytes) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def empty(fd: int) -> None:
    """Remove everything below the directory `fd`, not following links, and close it."""
    try:
        with os.scandir(through(fd, b".")) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in found:
            _remove(fd, name, is_directory)
    finally:
        os.close(fd)


def remove(dir_fd: int, path: bytes) -> None:
    """Remove whatever is at `path` below the directory `dir_fd`, with all that it holds."""
    _remove(dir_fd, path, stat.S_ISDIR(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode))


def _remove(dir_fd: int, path: bytes, is_directory: bool) -> None:
    if is_directory:
        empty(open_directory(dir_fd, path))
        os.rmdir(path, dir_fd=dir_fd)
    else:
        os.unlink(path, dir_fd=dir_fd)
