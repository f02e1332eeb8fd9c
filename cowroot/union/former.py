"""Layers that were the upper of a union and are only read now, below another upper.

Some of what such a union showed is not in the upper's tree. So its root says how to find the rest: the number that its file system had
among the inode numbers, and the work directory beside it, which has the index of hard links (index.py).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from cowroot.union.syscalls import through

if TYPE_CHECKING:
    from cowroot.union.marks import Marks

MOST = 0x3F  # numbers of layers; what comes after it is for file systems inside layers (numbers.py)


def number_of(fd: int, marks: Marks) -> int:
    """The number that the file system of the directory `fd` has, or had, as an upper's; -1 if it never was one."""
    number = marks.read(fd, b".").get(marks.fs, b"")
    return int(number) if number.isdigit() and len(number) <= 2 and int(number) <= MOST else -1


def open_work(fd: int, marks: Marks) -> int:
    """A descriptor of our own part of the work directory of the former upper `fd`; -1 if it is not there: the tree was copied, say.

    It counts only if it is what it should be, and no link leads there, nor to another file system: a name on a disk can be anything. Raises
    OSError.
    """
    name = marks.read(fd, b".").get(marks.work, b"")
    if not name or b"/" in name or name in (b".", b".."):
        return -1
    work, layer = os.dup(fd), os.fstat(fd)
    try:
        for part in (b"..", name, b"cowroot"):
            above, work = work, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work)
            os.close(above)
        parts = [os.stat(part, dir_fd=work, follow_symlinks=False) for part in (b".", b"index", b"links", b"numbers")]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        parts = []
    except BaseException:
        os.close(work)
        raise
    if parts and all(stat.S_ISDIR(st.st_mode) and st.st_dev == layer.st_dev for st in parts):
        return work
    os.close(work)
    return -1


def name_beside(fd: int, upper: int) -> bytes:
    """What the directory `fd` is called, if it is in the same directory as `upper`; nothing otherwise."""
    with suppress(OSError):
        name = os.path.basename(os.readlink(through(fd, b".").rpartition(b"/")[0]))
        above = os.open(b"..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=upper)
        try:
            if os.path.samestat(os.stat(name, dir_fd=above, follow_symlinks=False), os.fstat(fd)):
                return name
        finally:
            os.close(above)
    return b""


def note(upper: int, marks: Marks, number: int, work: bytes) -> None:
    """Have the root of an upper, the directory `upper`, say what is read here. If it is full, the next mount does it."""
    found = marks.read(upper, b".")
    for name, value in ((marks.fs, b"%d" % number), (marks.work, work)):
        if value and found.get(name) != value:
            with suppress(OSError):
                marks.set(upper, b".", name, value)
        elif not value and name in found:
            os.removexattr(upper, name)
