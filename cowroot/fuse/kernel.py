"""System calls about mounts and processes that Python's library lacks."""

from __future__ import annotations

import ctypes
import os
from typing import Optional

_libc = ctypes.CDLL(None, use_errno=True)

FUSE_7_31 = (5, 4)  # the release that brought this version of the protocol (fs/fuse, include/uapi/linux/fuse.h)
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
PR_SET_IO_FLUSHER = 57
MCL_CURRENT, MCL_FUTURE = 1, 2  # asm-generic/mman.h
CLOCK_MONOTONIC = 1
# statfs(2): what `f_type` says
_FILE_SYSTEMS = {
    0xEF53: "ext4", 0x01021994: "tmpfs", 0x9123683E: "btrfs", 0x58465342: "xfs", 0x73717368: "squashfs", 0xE0F5E1E2: "erofs",
    0x794C7630: "overlay", 0x65735546: "fuse", 0x6969: "nfs", 0x9660: "iso9660", 0xF2F52010: "f2fs", 0x2FC12FC1: "zfs", 0x858458F6: "ramfs",
}  # fmt: skip
ON_DISKS = frozenset(("ext4", "btrfs", "xfs", "squashfs", "erofs", "iso9660", "f2fs", "zfs", "tmpfs"))  # of this machine, or in its memory


def mount(source: str, target: str, kind: str, flags: int, data: Optional[str]) -> None:
    """mount(2). Raises OSError."""
    encoded = os.fsencode(data) if data is not None else None
    if _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), encoded):
        raise last_error(target)


def unmount_lazily(target: str) -> None:
    """umount2(2) with MNT_DETACH: the mount leaves the tree now, and ends with its last user. Raises OSError."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW):
        raise last_error(target)


def release(text: str = "") -> tuple[int, int]:
    """The running kernel's release as (major, minor), or that of `text`; (0, 0) if it is not like Linux's."""
    major, _, rest = (text or os.uname().release).partition(".")
    minor = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return (int(major), int(minor)) if major.isdecimal() and minor else (0, 0)


def set_read_ahead(device: str, kibibytes: int) -> None:
    """How far the kernel reads ahead in files of the mount with the device number `device`, as MAJOR:MINOR. Raises OSError.

    INIT can only make it less than the 128 KiB that each file system begins with.
    """
    with open(f"/sys/class/bdi/{device}/read_ahead_kb", "w") as file:
        file.write(str(kibibytes))


def become_io_flusher() -> bool:
    """Tell the kernel that memory can only be freed when this process goes on (Linux 5.6, needs CAP_SYS_RESOURCE). True if it listens."""
    return bool(_libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)


def lock_memory() -> None:
    """Keep all memory of this process where it is, now and in future (mlockall(2)); a child has to do so anew. Raises OSError."""
    if _libc.mlockall(MCL_CURRENT | MCL_FUTURE):
        raise last_error("mlockall")


def file_system_type(fd: int) -> str:
    """The name of the file system that the open file `fd` is on, or its number in hexadecimal."""
    space = (ctypes.c_long * 64)()
    if _libc.fstatfs(fd, space):
        raise last_error(str(fd))
    magic = space[0] & 0xFFFFFFFF
    return _FILE_SYSTEMS.get(magic, hex(magic))


class _SignalEvent(ctypes.Structure):
    """struct sigevent; 64 bytes on every Linux."""

    _fields_ = [("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int), ("rest", ctypes.c_byte * 48)]


def signal_every(number: int, seconds: float) -> None:
    """Send this process the signal `number` again and again, from a timer of the kernel's. Raises OSError.

    The handler is libc's `abs`: something has to handle the signal, since from Linux 6.13 on a timer whose signal is ignored does not
    run, and a Python handler would interrupt whatever is going on. libc's signal() restarts system calls (SA_RESTART).
    """
    _libc.signal.argtypes, _libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    _libc.signal(number, ctypes.cast(_libc.abs, ctypes.c_void_p))
    library = _libc if hasattr(_libc, "timer_create") else ctypes.CDLL("librt.so.1", use_errno=True)  # before glibc 2.34
    event = _SignalEvent(signal=number)  # notify 0: SIGEV_SIGNAL
    timer = ctypes.c_void_p()
    nanoseconds = int(seconds * 1e9)
    times = (ctypes.c_long * 4)(*divmod(nanoseconds, 10**9), *divmod(nanoseconds, 10**9))  # interval, first time
    if library.timer_create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) or library.timer_settime(timer, 0, times, None):
        raise last_error("timer")


def last_error(what: str) -> OSError:
    """What the last call of libc's in this thread that failed has said, about `what`."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
