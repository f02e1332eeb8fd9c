"""One process's view of a file system, as data: operations go in, results that can be compared come out.

An operation is a tuple: its name, then plain values (paths are bytes, descriptors are numbered slots), so that a sequence can be printed,
pasted into a test, and cut down. A slot that holds nothing makes an operation do nothing, on every backend alike: any subsequence of a
sequence is a sequence.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat as st
import struct
from collections.abc import Callable
from typing import Any, Optional

from tests.behaviour import calls
from tests.behaviour.backends import Backend
from tests.behaviour.filesystem import FileSystem, SharedMapping, Target, entries, entries_at, read_all, write_file
from tests.behaviour.snapshot import xattr_names
from tests.behaviour.trees import pattern

Operation = tuple[Any, ...]
EMPTY = "nothing in that slot"
MAP_LENGTH = 1 << 18


def named_error(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


class Session:
    """Performs operations on a backend. `slots` are descriptors, `maps` shared mappings."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.slots: dict[int, int] = {}
        self.maps: dict[int, SharedMapping] = {}
        self.user: Optional[tuple[int, int]] = None

    @property
    def fs(self) -> FileSystem:
        return self.backend.fs

    def perform(self, operation: Operation) -> object:
        """The result, or the name of the error that the call gave."""
        call: Callable[..., object] = getattr(self, "do_" + operation[0])
        try:
            if self.user and operation[0] not in ("remount", "freeze", "as_user", "close", "unmap"):
                with self.fs.user(*self.user):
                    return call(*operation[1:])
            return call(*operation[1:])
        except OSError as error:
            return named_error(error)

    def close_all(self) -> None:
        for slot in list(self.maps):
            self.do_unmap(slot)
        for slot in list(self.slots):
            self.do_close(slot)

    def target(self, target: Target) -> Optional[Target]:
        """A path as it is, a slot as its descriptor."""
        return self.slots.get(target) if isinstance(target, int) else target

    # -- descriptors ---------------------------------------------------------------------------------------------------------------

    def do_open(self, slot: int, path: bytes, flags: int, mode: int) -> object:
        self.do_close(slot)
        fd = self.fs.open(path, flags | os.O_NONBLOCK, mode)
        try:
            self.fs.lseek(fd, 0, os.SEEK_CUR)
        except OSError:  # a FIFO: what it does from here on is the kernel's alone
            self.fs.close(fd)
            return "opened a FIFO"
        self.slots[slot] = fd
        return "open"

    def do_tmpfile(self, slot: int, path: bytes, mode: int) -> object:
        return self.do_open(slot, path, os.O_TMPFILE | os.O_RDWR, mode)

    def do_link_descriptor(self, slot: int, path: bytes) -> object:
        return self._on(slot, lambda fd: self.fs.link(fd, path))

    def do_close(self, slot: int) -> object:
        fd = self.slots.pop(slot, None)
        if fd is None:
            return EMPTY
        self.fs.close(fd)
        return None

    def _on(self, slot: int, call: Callable[[int], object]) -> object:
        fd = self.slots.get(slot)
        return EMPTY if fd is None else call(fd)

    def do_read(self, slot: int, length: int) -> object:
        return self._on(slot, lambda fd: EMPTY if self._is_directory(fd) else self.fs.read(fd, length))

    def do_pread(self, slot: int, offset: int, length: int) -> object:
        return self._on(slot, lambda fd: self.fs.pread(fd, length, offset))

    def do_write(self, slot: int, tag: int, length: int) -> object:
        return self._on(slot, lambda fd: self.fs.write(fd, pattern(tag, length)))

    def do_pwrite(self, slot: int, offset: int, tag: int, length: int) -> object:
        return self._on(slot, lambda fd: self.fs.pwrite(fd, pattern(tag, length), offset))

    def do_lseek(self, slot: int, offset: int, whence: int) -> object:
        return self._on(slot, lambda fd: EMPTY if self._is_directory(fd) else self.fs.lseek(fd, offset, whence))

    def _is_directory(self, fd: int) -> bool:
        """Positions in a directory are opaque, and some lead read() astray: see `do_rewind_read` for what can be compared."""
        return self.fs.stat(fd).kind == st.S_IFDIR

    def do_fallocate(self, slot: int, mode: int, offset: int, length: int) -> object:
        return self._on(slot, lambda fd: self.fs.fallocate(fd, mode, offset, length))

    def do_copy_range(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> object:
        if source not in self.slots or target not in self.slots:
            return EMPTY
        done = 0
        while True:  # it may copy less than it was asked to: where it shares blocks, whole ones first
            count = self.fs.copy_range(self.slots[source], source_offset + done, self.slots[target], target_offset + done, length - done)
            done += count
            if not count or done >= length:
                return done

    def do_fsync(self, slot: int) -> object:
        return self._on(slot, self.fs.fsync)

    def do_flock(self, slot: int, how: int) -> object:
        return self._on(slot, lambda fd: fcntl.flock(fd, how | fcntl.LOCK_NB))

    def do_lock_range(self, slot: int, kind: int, start: int, length: int) -> object:
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
        return self._on(slot, lambda fd: fcntl.fcntl(fd, calls.F_OFD_SETLK, request) and None)

    def do_rewind_read(self, slot: int) -> object:
        """rewinddir() and read everything: the names must be those that are there now."""

        def listing(fd: int) -> object:
            self.fs.lseek(fd, 0, os.SEEK_SET)
            return sorted((entry.name, entry.kind) for entry in entries_at(self.fs, fd))

        return self._on(slot, listing)

    # -- mappings ------------------------------------------------------------------------------------------------------------------

    def do_map(self, number: int, slot: int, writable: bool) -> object:
        self.do_unmap(number)
        if slot not in self.slots:
            return EMPTY
        self.maps[number] = self.fs.map(self.slots[slot], MAP_LENGTH, writable)
        return "mapped"

    def do_unmap(self, number: int) -> object:
        mapping = self.maps.pop(number, None)
        if mapping is None:
            return EMPTY
        mapping.close()
        return None

    def do_map_read(self, number: int, offset: int, length: int) -> object:
        mapping = self.maps.get(number)
        return EMPTY if mapping is None else mapping.read(offset, length)

    def do_map_write(self, number: int, offset: int, tag: int, length: int) -> object:
        """Write through a mapping. Synced at once: when the file's time moves is otherwise left open by POSIX."""
        mapping = self.maps.get(number)
        if mapping is None:
            return EMPTY
        written = mapping.write(offset, pattern(tag, length))
        mapping.sync()
        return written

    # -- files by path or descriptor -----------------------------------------------------------------------------------------------

    def _with(self, target: Target, call: Callable[[Target], object]) -> object:
        found = self.target(target)
        return EMPTY if found is None else call(found)

    def do_truncate(self, target: Target, size: int) -> object:
        return self._with(target, lambda where: self.fs.truncate(where, size))

    def do_stat(self, target: Target, follow: bool) -> object:
        return self._with(target, lambda where: self.fs.stat(where, follow))

    def do_chmod(self, target: Target, mode: int) -> object:
        return self._with(target, lambda where: self.fs.chmod(where, mode))

    def do_chown(self, target: Target, uid: int, gid: int, follow: bool) -> object:
        return self._with(target, lambda where: self.fs.chown(where, uid, gid, follow))

    def do_utimens(self, target: Target, atime_ns: int, mtime_ns: int, follow: bool) -> object:
        return self._with(target, lambda where: self.fs.utimens(where, atime_ns, mtime_ns, follow))

    def do_getxattr(self, target: Target, name: bytes, follow: bool) -> object:
        return self._with(target, lambda where: self.fs.getxattr(where, name, follow))

    def do_setxattr(self, target: Target, name: bytes, value: bytes, flags: int, follow: bool) -> object:
        return self._with(target, lambda where: self.fs.setxattr(where, name, value, flags, follow))

    def do_listxattr(self, target: Target, follow: bool) -> object:
        return self._with(target, lambda where: [name for name in xattr_names(self.fs, where, follow) if not self._hides(name)])

    def _hides(self, name: bytes) -> bool:
        """Unlike others, btrfs lists trusted attributes for everybody."""
        return self.user is not None and name.startswith(b"trusted.")

    def do_removexattr(self, target: Target, name: bytes, follow: bool) -> object:
        return self._with(target, lambda where: self.fs.removexattr(where, name, follow))

    # -- names ---------------------------------------------------------------------------------------------------------------------

    def do_mkdir(self, path: bytes, mode: int) -> None:
        self.fs.mkdir(path, mode)

    def do_rmdir(self, path: bytes) -> None:
        self.fs.rmdir(path)

    def do_unlink(self, path: bytes) -> None:
        self.fs.unlink(path)

    def do_rename(self, source: bytes, target: bytes, flags: int) -> None:
        self.fs.rename(source, target, flags)

    def do_link(self, source: bytes, target: bytes) -> None:
        self.fs.link(source, target)

    def do_symlink(self, value: bytes, path: bytes) -> None:
        self.fs.symlink(value, path)

    def do_readlink(self, path: bytes) -> object:
        return self.fs.readlink(path)

    def do_mknod(self, path: bytes, mode: int, rdev: int) -> None:
        self.fs.mknod(path, mode, rdev)

    def do_readdir(self, path: bytes) -> object:
        return sorted((entry.name, entry.kind) for entry in entries(self.fs, path))

    def do_cat(self, path: bytes) -> object:
        """The content; not of a FIFO or device, whose open is the kernel's own."""
        kind = self.fs.stat(path).kind
        return read_all(self.fs, path) if kind in (0o100000, 0o040000) else kind

    def do_put(self, path: bytes, tag: int, length: int) -> None:
        write_file(self.fs, path, pattern(tag, length), os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOFOLLOW)

    # -- the process and the mount -------------------------------------------------------------------------------------------------

    def do_umask(self, mask: int) -> object:
        self.fs.umask(mask)
        return None

    def do_as_user(self, uid: int, gid: int) -> object:
        self.user = (uid, gid) if uid else None
        return None

    def do_remount(self) -> object:
        self.close_all()
        self.backend.remount()
        return None

    def do_freeze(self) -> object:
        self.close_all()
        self.backend.freeze()
        return None
