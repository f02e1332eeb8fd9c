"""Passthrough (Linux 6.9): files of the upper that the kernel reads, writes and maps by itself, without asking.

The kernel's rules (fs/fuse/iomode.c): all opens of an inode at one time are of one kind, through our page cache ("cached") or past us, and
past us to one backing file. So the first open decides for all that come while it lasts:

- a file that is wholly in the upper passes through: nothing can ever come between it and its backing file;
- a file of the lower is cached, also when it is opened for writing, since a copy-up later would leave a passed-through reader behind with
  what is no longer the file. Once all its opens are closed, the next one finds it in the upper.

What the kernel writes past us moves times without our knowing, and through a mapping even after the file was closed. So attributes of
such a file are not kept by the kernel until nobody writes to it any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from cowroot.fuse.direct.session import Session
from cowroot.union import Node

FOPEN_PASSTHROUGH = 1 << 7
# include/uapi/linux/fuse.h: _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t)
_BACKING_OPEN, _BACKING_CLOSE = 0x4010E501, 0x4004E502
_BACKING_MAP = struct.Struct("=iIQ")  # fd flags padding
_UNFIT = (errno.ELOOP, errno.EPERM, errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL)  # refusals that will not be different for the next file


class _Backing:
    """A backing file that the kernel knows by `number`, and how many opens pass through to it."""

    __slots__ = ("number", "opens")

    def __init__(self, number: int) -> None:
        self.number = number
        self.opens = 0


class Passthrough:
    """Which files pass through, over one session. `wanted`: INIT has agreed on it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._passed: dict[Node, _Backing] = {}
        self.refused = ""  # why no file passes through although the kernel could

    def open(self, node: Node, first: bool, writable: bool) -> int:
        """Decide about one more open of a node. Returns the kernel's number of the backing file, or 0 for a cached open.

        Arguments: `first`: it has no other open; `writable`: it is opened for writing.
        """
        backing = self._passed.get(node)
        if backing is None:
            if not first or self.refused or "passthrough" not in self._session.features:
                return 0
            union = self._session.union
            if writable and union.reserve.is_tight():
                return 0  # what is written past us could be lent nothing
            fd = union.upper_file(node)
            if fd < 0:
                return 0
            try:
                # a buffer that may be written to makes Python return what the call returned: the number
                number = fcntl.ioctl(self._session.fd, _BACKING_OPEN, bytearray(_BACKING_MAP.pack(fd, 0, 0)))
            except OSError as e:
                if e.errno in _UNFIT:
                    self.refused = f"the kernel refuses the upper's files: {e.strerror}"
                return 0
            backing = self._passed[node] = _Backing(number)
        backing.opens += 1
        if writable and node not in self._session.restless:
            self._session.restless.add(node)
            self._session.tell_stale(node)
        return backing.number

    def inherit(self, node: Node, number: int) -> None:
        """A predecessor had opened the node past us."""
        backing = self._passed.setdefault(node, _Backing(number))
        backing.opens += 1

    def release(self, node: Node) -> None:
        """One open of a node is closed, however it was opened."""
        backing = self._passed.get(node)
        if backing is not None:
            backing.opens -= 1
            if not backing.opens:
                del self._passed[node]
                with contextlib.suppress(FileNotFoundError):  # a predecessor had done that, and was killed
                    fcntl.ioctl(self._session.fd, _BACKING_CLOSE, struct.pack("=I", backing.number))

    def has_calmed(self, node: Node) -> bool:
        """True if nobody can write to the file past us any more: it is not open, and no mapping of it is left."""
        if node in self._passed:
            return False
        if node.last is not None:
            return True
        try:
            dir_fd, path = self._session.union.tree.place(node)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
        except OSError:
            return False  # removed, perhaps, and open
        try:
            # A read lease is given only where nobody has the file open for writing, and a mapping counts as that (fs/locks.c). Closing
            # gives it back.
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
