"""Open files and shared mappings on the union core, as the kernel keeps them for a process."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Optional

from cowroot.union.node import DirHandle, Entry, Handle, Node
from cowroot.union.union import Union
from tests.behaviour.core_names import failure


@dataclass
class OpenFile:
    """An open file description. `uses`: descriptors and mappings that share it."""

    node: Node
    flags: int
    handle: Optional[Handle] = None
    directory: Optional[DirHandle] = None
    position: int = 0
    uses: int = 1
    listing: list[Entry] = field(default_factory=list)

    @property
    def readable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def file(self) -> Handle:
        """The handle, for calls that want a file."""
        if self.handle is None:
            raise failure(errno.EISDIR)
        return self.handle

    def let_go(self, union: Union) -> None:
        """One use less; the last one closes the file."""
        self.uses -= 1
        if not self.uses:
            if self.handle is not None:
                union.release(self.handle)
            if self.directory is not None:
                union.releasedir(self.directory)
            union.forget(self.node)


class CoreMapping:
    """A shared mapping: it keeps its open file, and shows what the file holds."""

    def __init__(self, union: Union, opened: OpenFile, length: int, writable: bool) -> None:
        self._union, self._opened, self._length, self._writable = union, opened, length, writable
        opened.uses += 1

    def _inside(self, offset: int, length: int) -> int:
        size = self._union.getattr(self._opened.node).size
        return max(0, min(length, min(self._length, size) - offset))

    def read(self, offset: int, length: int) -> bytes:
        length = self._inside(offset, length)
        return bytes(self._union.read(self._opened.file, length, offset)) if length else b""

    def write(self, offset: int, data: bytes) -> int:
        if not self._writable:
            raise failure(errno.EACCES)
        data = data[: self._inside(offset, len(data))]
        return self._store(data, offset) if data else 0

    def _store(self, data: bytes, offset: int) -> int:
        """Engines put file capabilities back, for unlike write(2), stores through a mapping leave them alone."""
        union, node = self._union, self._opened.node
        kept = union.getxattr(node, b"security.capability") if b"security.capability" in union.listxattr(node) else None
        stored = union.write(self._opened.file, data, offset)
        if kept is not None:
            union.setxattr(node, b"security.capability", kept)
        return stored

    def sync(self) -> None:
        self._union.fsync(self._opened.file)

    def close(self) -> None:
        self._opened.let_go(self._union)
