"""Mounts that nobody else sees, and that vanish with the process, however it ends.

What an installation mounts (an image, overlays, a scratch tmpfs) it mounts in a mount namespace of its own. When the process dies, even by
SIGKILL, the kernel drops the namespace with all its mounts, and detaches the loop devices below them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cowroot.errors import CowrootError, TargetError

# linux/sched.h, linux/mount.h
_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, place: str | os.PathLike[str], kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError with `place` as filename."""
    arguments = (os.fsencode(text) for text in (source, place, kind))
    _check(_libc.mount(*arguments, flags, os.fsencode(options)), os.fspath(place))


def bind(source: str | os.PathLike[str], place: str | os.PathLike[str]) -> None:
    """Make the directory tree `source`, with what is mounted in it, appear at `place` too."""
    mount(os.fspath(source), place, "none", _MS_BIND | _MS_REC)


def remount(place: str | os.PathLike[str], flags: int = 0) -> None:
    """Remount the file system at `place`, and this mount of it, read-only (MS_RDONLY) or writable; other mounts stay as they are."""
    mount("none", place, "none", MS_REMOUNT | flags)


def unmount(place: str | os.PathLike[str]) -> None:
    """Unmount `place`; if it is still in use, as soon as it no longer is. Not being mounted is no error."""
    with suppress(OSError):
        _check(_libc.umount2(os.fsencode(place), _MNT_DETACH), os.fspath(place))


def fork_first_process() -> int:
    """fork(2) into a PID namespace of its own. When that child ends, the kernel kills all that is left of what it has started."""
    before = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWPID), "a PID namespace")
        child = os.fork()
        if child:
            _check(_libc.setns(before, _CLONE_NEWPID), "the PID namespace")  # for the children after this one
        return child
    finally:
        os.close(before)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies: what a killed installation has started must not go on without it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _detach() -> None:
    """Have mounts of this namespace stay in it. Raises TargetError in a chroot whose root is just a directory, for which Linux cannot."""
    try:
        mount("none", "/", "none", _MS_REC | _MS_SLAVE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise TargetError(
            "this runs in a chroot whose root is no mount point, where nothing can be mounted for this command alone",
            hint="enter it so: mount --bind DIR DIR && chroot DIR; or stay outside, with --root DIR",
        ) from None


@contextmanager
def private_mounts() -> Iterator[Path]:
    """Enter a mount namespace of one's own and yield an empty scratch directory (a tmpfs) in it; leave it with everything mounted in it.

    Raises CowrootError without root's rights or without /proc, TargetError in a chroot whose root is no mount point.
    """
    try:
        before = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CowrootError("/proc is not mounted here", hint="mount -t proc proc /proc, or work from outside of this chroot") from None
    root, here = (os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in ("/", "."))
    scratch = tempfile.mkdtemp(prefix="cowroot-")
    try:
        try:
            _check(_libc.unshare(_CLONE_NEWNS), "a mount namespace")
        except PermissionError:
            raise CowrootError(
                "this needs root's rights (CAP_SYS_ADMIN), to mount what is worked on", hint="use sudo; in a container, a privileged one"
            ) from None
        try:
            # Nothing of ours is seen outside, but what is unmounted there goes here too and is not kept busy.
            _detach()
            mount("cowroot", scratch, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700")
            yield Path(scratch)
        finally:
            _check(_libc.setns(before, _CLONE_NEWNS), "the mount namespace")
            # setns goes to the root directory of the namespace; ours may be another (chroot).
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(here)
    finally:
        os.rmdir(scratch)
        for fd in (here, root, before):
            os.close(fd)
