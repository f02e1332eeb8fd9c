"""Copying a file's data, by the shortest way that its two file systems allow."""

from __future__ import annotations

import errno
import os

from cowroot.union.syscalls import ficlone

CHUNK = 1 << 20  # bytes per copying call: large enough to cost nothing, small enough to be interrupted
_SMALL = 65536  # bytes: less is read and written at once


def clone(source: int, target: int, size: int) -> bool:
    """Make `target` share the first `size` bytes of `source`, on the same file system. False where that cannot do it."""
    try:
        ficlone(target, source)
        os.ftruncate(target, size)
    except OSError:
        return False
    return True


def copy_data(source: int, target: int, size: int, blocks: int) -> None:
    """Copy the first `size` bytes between two open files, the second of them empty; holes stay holes.

    Arguments: `blocks`: how many blocks of 512 bytes the source occupies.
    """
    if size <= _SMALL and blocks * 512 >= size:
        data = os.pread(source, size, 0)
        if len(data) == size and os.pwrite(target, data, 0) == size:
            return
    os.ftruncate(target, size)
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            return  # nothing but a hole up to the end
        end = min(os.lseek(source, offset, os.SEEK_HOLE), size)
        while offset < end:
            copied = _copy_some(source, target, offset, min(end - offset, CHUNK))
            if copied == 0:
                return  # the source is shorter than it was
            offset += copied


def _copy_some(source: int, target: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset, offset)
    except OSError as e:
        # refused between different file systems since Linux 5.19, not known before 4.5, not supported by some
        if e.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY):
            raise
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, offset, count)
