"""Who may have what is left of an upper that is full: see cowroot/union/reserve.py."""

from __future__ import annotations

import errno
import os
from typing import Callable, Union

from cowroot.fuse import protocol as p
from cowroot.union import Handle
from cowroot.union import Union as Layers

Buffer = Union[bytearray, memoryview]

REMOVING = frozenset((p.UNLINK, p.RMDIR))
_GROWING = frozenset((p.CREATE, p.MKNOD, p.MKDIR, p.SYMLINK, p.LINK, p.TMPFILE, p.FALLOCATE, p.COPY_FILE_RANGE, p.COPY_FILE_RANGE_64))


def lends(union: Layers, opcode: int, uid: int, buffer: Buffer) -> bool:
    """Whether a request for which there was no room has more now, and is to be tried again."""
    # Pages of a mapping are written back by the kernel, as root, whosever they are.
    privileged = uid == 0 and not (opcode == p.WRITE and p.WRITE_IN.unpack_from(buffer, p.BODY)[3] & p.WRITE_CACHE)
    return union.reserve.lend(opcode in REMOVING, privileged)


def keep_off(union: Layers, opcode: int, buffer: Buffer, find: Callable[[int], Handle]) -> None:
    """Keep others than root off the room that root has been lent. Raises OSError(ENOSPC). `find`: an open file by its number."""
    if opcode == p.WRITE:
        number, offset, length, *_ = p.WRITE_IN.unpack_from(buffer, p.BODY)
        grows = offset + length > union.getattr(find(number).node).size
    else:
        grows = opcode in _GROWING
    if grows and not union.reserve.has_room():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
