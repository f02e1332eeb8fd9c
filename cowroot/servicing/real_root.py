"""Make the real root below the running union writable, for as long as a block lasts.

The lower is protected twice: its file system is mounted read-only, and its device is write-protected. Both are undone for a mount in a
namespace of one's own: every other mount of the file system stays read-only, and nobody else can write.

Protecting it again is left to a process of its own, which waits for nothing but the end of the one at work: also a SIGKILL of that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from cowroot.errors import ConflictError, CowrootError, MountError, TargetError
from cowroot.install import namespace
from cowroot.install.target import LOWER
from cowroot.mountinfo import TABLE, Mount, mounted_at, mounts

LOCK = "/run/cowroot/servicing.lock"
UNION = "fuse.cowroot"

_BLKROSET, _BLKROGET = 0x125D, 0x125E  # linux/fs.h
# Seconds that the kernel gets to end the processes of somebody who was killed, before a file system counts as busy for good.
_PATIENCE = 5.0
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP)


@dataclass(frozen=True)
class Protected:
    """A file system that is read-only now: where it is mounted, its block device, empty if it has none, and whether that is sealed, too."""

    place: str
    device: str
    sealed: bool


@dataclass(frozen=True)
class Opened:
    """The real root, writable at `path`, until the last process ends that has the descriptor `held`; `waiting` hangs up then."""

    path: Path
    waiting: int
    held: int

    def follow(self) -> bool:
        """In a child: end with the process that has opened it. False if that has ended already."""
        os.close(self.held)
        namespace.die_with_parent()
        poll = select.poll()
        poll.register(self.waiting, select.POLLHUP)
        return not poll.poll(0)


def is_union() -> bool:
    """Tell whether / is a union that this boot has made."""
    root = mounted_at("/")
    return root is not None and root.kind in (UNION, "overlay") and mounted_at(LOWER) is not None


def protected(mount: Mount) -> Protected:
    """What is mounted there, to be opened and protected again."""
    node = os.path.realpath(mount.source) if mount.source.startswith("/dev/") else ""
    with suppress(OSError):
        if node and stat.S_ISBLK(os.stat(node).st_mode):
            with _device(node) as fd:
                return Protected(mount.point, node, _is_read_only(fd))
    return Protected(mount.point, "", False)


def written_elsewhere(mount: Mount, table: str | os.PathLike[str] = TABLE) -> bool:
    """Tell whether its file system is mounted writable in another place: a btrfs with /home in it, which shall stay so."""
    return any(each.writable for each in mounts(table) if each.device == mount.device and each.point != mount.point)


@contextmanager
def writable(lower: str = LOWER, lock: str = LOCK, others: Sequence[Protected] = ()) -> Iterator[Opened]:
    """Enter a mount namespace of one's own in which the real root is writable, and leave it with the real root protected.

    Arguments: `lower`: where it is mounted; `lock`: the file that keeps out a second one; `others`: file systems that are to be writable
    in the same way, at the places where they are. Raises CowrootError: TargetError where the disk cannot be written, ConflictError if
    somebody else is at work.
    """
    mount = mounted_at(lower)
    if mount is None:
        raise TargetError(f"no real root is mounted at {lower}", hint="`cowroot status` says what / is")
    # Its device is always to be sealed: it may be open from a time when that could not be done.
    real, alone = replace(protected(mount), sealed=True), not written_elsewhere(mount)
    with ExitStack() as stack:
        stack.enter_context(_locked(lock))
        waiting, held = stack.enter_context(_guarded([real, *others] if alone else others))
        scratch = stack.enter_context(namespace.private_mounts())
        root = scratch / "root"
        root.mkdir()
        namespace.bind(lower, root)
        _open(real, root)
        for other in others:
            _open(other, Path(other.place))
        yield Opened(root, waiting, held)


def is_open(lock: str | os.PathLike[str] = LOCK) -> bool:
    """Tell whether somebody has the real root open."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextmanager
def _locked(path: str) -> Iterator[None]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        raise CowrootError(f"{path} is closed to all but root", hint="run this as root") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError("somebody else has the real root open", hint="wait until that `cowroot chroot` has ended") from None
        yield
    finally:
        os.close(fd)


def _open(what: Protected, place: Path) -> None:
    """Take both protections off; `place` is where the file system becomes writable."""
    if what.device:
        with _device(what.device) as fd:
            fcntl.ioctl(fd, _BLKROSET, b"\0\0\0\0")
            if _is_read_only(fd):
                raise TargetError(
                    f"{what.device} is a read-only disk: nothing can be changed on it here",
                    hint="change the image that it was made from, or attach it writable",
                )
    try:
        namespace.remount(place)
    except OSError as error:
        raise MountError(f"{what.device or what.place} cannot be made writable: {error.strerror}", hint="see the kernel's log") from None


@contextmanager
def _device(node: str) -> Iterator[int]:
    fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_read_only(fd: int) -> bool:
    return any(fcntl.ioctl(fd, _BLKROGET, b"\0\0\0\0"))


@contextmanager
def _guarded(everything: Sequence[Protected]) -> Iterator[tuple[int, int]]:
    """Have a process of its own protect these again when this one leaves the block, or ends. Yields both ends of what tells it."""
    waiting, held = os.pipe()
    guardian = os.fork()
    if guardian == 0:
        end_with(lambda: _guard(waiting, held, everything))
    try:
        yield waiting, held
    finally:
        os.close(held)
        os.close(waiting)
        _, how = os.waitpid(guardian, 0)
        if os.WIFSIGNALED(how):  # it could be killed, too
            protect(everything)


def _guard(waiting: int, held: int, everything: Sequence[Protected]) -> int:
    os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.close(held)
    os.read(waiting, 1)  # nothing is ever written: it returns at the end of all who could
    protect(everything)
    return 0


def protect(everything: Sequence[Protected]) -> None:
    """Make these read-only again, the devices too, and have the kernel forget what it remembers of them through the union."""
    for what in reversed(everything):
        if not _remounted(what.place):
            sys.stderr.write(
                f"cowroot: the file system of {what.device or what.place} stays writable inside the kernel until the next boot, because "
                "files that are in use were removed from it; nobody can write to it, as all mounts of it are read-only\n"
            )
        elif what.device and what.sealed:
            with _device(what.device) as fd, suppress(OSError):  # not every device has the switch
                fcntl.ioctl(fd, _BLKROSET, b"\1\0\0\0")
    with suppress(OSError), open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as switch:
        switch.write("3")


def _remounted(place: str) -> bool:
    """Remount read-only. EBUSY is also what the kernel says of a file system with removed files that are in use (fs/namespace.c)."""
    os.sync()
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            namespace.remount(place, namespace.MS_RDONLY)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            return False
        return True


def end_with(work: Callable[[], int]) -> None:
    """End this process, a fork, with what `work` returns; with 1 and a line where it fails."""
    code = 1
    try:
        code = work()
    except CowrootError as error:
        sys.stderr.write(f"cowroot: error: {error.message}\n")
    except OSError as error:
        sys.stderr.write(f"cowroot: error: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)
