"""Room in the upper that is kept, by occupying it, for when nothing else is left: for removing things, and for root.

To hide what is in the lower takes a whiteout, and so an inode and perhaps a block: without a reserve nobody could delete anything on a full
upper. And whoever has to mend things there, or to log what happens, is root. The file systems' own reserves do not help: what is written
through the union is written by the daemon or with its credentials (passthrough), and so all by root; and tmpfs has none.

The reserve is one file without holes, and some empty ones, in the work directory. What is lent of it is taken back as soon as there is
room again.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import time
from typing import Optional

from cowroot.union.layers import Layer
from cowroot.union.syscalls import fallocate

INODES = 32
INODES_FOR_REMOVAL = 16  # of those
FOR_REMOVAL = 256 << 10  # bytes
LARGEST_PART = 20  # it is never more than this part of the upper
STEPS = 8  # in which it is lent
SECONDS = 1.0  # after which it is tried to have back what was lent, and then less and less often,
LONGEST = 16.0  # but not less than that
FASTEST = 4 << 30  # bytes per second that may be written past us
_DIRECTORY = b"reserve"
_SPACE = b"reserve/space"


def size_of(text: str, whole: int) -> int:
    """How many bytes `text` means: a number, with K, M, G or, of `whole`, %. Raises ValueError."""
    number, unit = (text[:-1], text[-1:].upper()) if not text[-1:].isdecimal() else (text, "")
    if not (number.isdecimal() and number.isascii()) or unit not in ("", "K", "M", "G", "%"):
        raise ValueError(text)
    return whole * int(number) // 100 if unit == "%" else int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit]


class Reserve:
    """The reserve of one union. `work`: its work directory, None if it is read-only; `wanted`: for root, as `size_of` reads it.

    `lacking`: some of it is lent, or was never to be had. `lend` and `take` may be called by different threads.
    """

    def __init__(self, work: Optional[Layer], wanted: str) -> None:
        self._work = work
        self._lock = _thread.allocate_lock()
        self._regaining = False
        self.lacking = False
        self.size = self.held = self._inodes = 0  # bytes; files
        self._look_again, self._tight = 0.0, False
        self._wanted = wanted
        if work is not None:
            space = os.fstatvfs(work.fd)
            whole = space.f_blocks * space.f_frsize
            self.size = min(size_of(wanted, whole) + FOR_REMOVAL, whole // LARGEST_PART) // 4096 * 4096

    def start(self) -> None:
        """Have it taken, by another thread: a boot need not wait for that."""
        if self._work is not None:
            self.lacking = True
            self._regain()

    def take(self) -> bool:
        """Take what is missing, if there is enough room. Returns whether it is whole."""
        if self._work is None:
            return True
        with self._lock:
            try:
                self._take(self._work.fd)
            except OSError as e:
                if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                    self.size, self.lacking = self.held, False  # a file system that cannot do that; or that is going
                return not self.lacking
            self.lacking = self.held < self.size or self._inodes < INODES
            return not self.lacking

    def _take(self, fd: int) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(_DIRECTORY, 0o700, dir_fd=fd)
        room = os.fstatvfs(fd)
        space = os.open(_SPACE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            self.held = min(os.fstat(space).st_size, self.size)
            os.ftruncate(space, self.held)  # of an earlier mount, which kept more
            missing = self.size - self.held
            if missing and room.f_bavail * room.f_frsize >= missing + self._step():
                try:
                    fallocate(space, 0, 0, self.size)
                except OSError:
                    os.ftruncate(space, self.held)
                    raise
                self.held = self.size
        finally:
            os.close(space)
        if not room.f_files or room.f_ffree > 2 * INODES:
            for number in range(INODES):
                os.close(os.open(_inode(number), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd))
            self._inodes = INODES

    def give_up(self) -> None:
        """Leave nothing of it in the work directory."""
        if self._work is not None:
            with self._lock, contextlib.suppress(OSError):
                for name in self._work.names(_DIRECTORY):
                    os.unlink(_DIRECTORY + b"/" + name, dir_fd=self._work.fd)
                os.rmdir(_DIRECTORY, dir_fd=self._work.fd)
            self._work = None

    # -- where there is no room

    def lend(self, removes: bool, privileged: bool) -> bool:
        """A call failed for want of room. Returns whether there is more now, so that it may be tried again.

        Arguments: `removes`: it was to remove something, and so may have all; `privileged`: it was root's. Others get nothing.
        """
        if self._work is None or not (removes or privileged):
            return False
        with self._lock:
            try:
                if not self._is_low():
                    return False  # there is room, but not for that: an attribute too large for ext4, say
                given = self._lend_space(0 if removes else FOR_REMOVAL) | self._lend_inode(0 if removes else INODES_FOR_REMOVAL)
            except OSError:
                return False
            self.lacking = self.lacking or given
        if given:
            self._regain()
        return given

    def _step(self) -> int:
        return max(self.size // STEPS, 65536) // 4096 * 4096

    def _is_low(self) -> bool:
        assert self._work is not None
        room = os.fstatvfs(self._work.fd)
        return room.f_bavail * room.f_frsize < self.size or bool(room.f_files and room.f_ffree < INODES)

    def _lend_space(self, floor: int) -> bool:
        assert self._work is not None
        if self.held <= floor:
            return False
        self.held = max(self.held - self._step(), floor)
        fd = os.open(_SPACE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._work.fd)
        try:
            os.ftruncate(fd, self.held)
        finally:
            os.close(fd)
        return True

    def _lend_inode(self, floor: int) -> bool:
        assert self._work is not None
        if self._inodes <= floor:
            return False
        self._inodes -= 1
        os.unlink(_inode(self._inodes), dir_fd=self._work.fd)
        return True

    def _regain(self) -> None:
        if not self._regaining:
            self._regaining = True
            try:
                _thread.start_new_thread(self._take_back, ())
            except RuntimeError:  # no room for a thread: the next loan tries again
                self._regaining = False

    def _take_back(self) -> None:
        seconds = SECONDS
        while not self.take():
            time.sleep(seconds)
            seconds = min(2 * seconds, LONGEST)
        self._regaining = False

    # -- what others have to mind

    @property
    def missing(self) -> int:
        """How many bytes are lent: they are not free, whatever the file system says."""
        return self.size - self.held if self.lacking else 0

    def has_room(self) -> bool:
        """True if there is anything free beside what is lent."""
        assert self._work is not None
        room = os.fstatvfs(self._work.fd)
        return room.f_bavail * room.f_frsize > self.missing

    def is_tight(self) -> bool:
        """True if it may soon be needed. Files opened for writing then should be written by the daemon, which can lend."""
        now = time.monotonic()
        if now >= self._look_again and self._work is not None:
            room = os.fstatvfs(self._work.fd)
            left = room.f_bavail * room.f_frsize - 2 * self.size
            self._look_again, self._tight = now + max(left, 0) / FASTEST, left < 0
        return self._tight


def _inode(number: int) -> bytes:
    return b"%s/%d" % (_DIRECTORY, number)
