"""Open files: data goes through one backing descriptor per node, shared by all handles.

That is why a descriptor opened before copy-up sees what is written after it: the handle names the node, and copy-up changes what is
behind the node.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING
from typing import Union as EitherOf

from cowroot.union import patchwork, syscalls
from cowroot.union.attributes import getattr_
from cowroot.union.copyup import copy_up
from cowroot.union.node import Handle, Node, Patch
from cowroot.union.tree import Tree, fail

if TYPE_CHECKING:
    Buffer = EitherOf[bytes, bytearray, memoryview]


def open_(tree: Tree, node: Node, flags: int) -> Handle:
    """Open a regular file. Copying up waits for the first change: many programs open for writing and never write."""
    if node.kind != stat.S_IFREG:
        fail(errno.EISDIR if node.kind == stat.S_IFDIR else errno.ENXIO, node.name)
    if flags & os.O_ACCMODE != os.O_RDONLY and tree.layers.upper is None:
        fail(errno.EROFS, node.name)
    if node.last is not None:
        reopen(tree, node)
        tree.watch.reopened(node)
    node.opens += 1
    return Handle(node, flags)


def reopen(tree: Tree, node: Node) -> None:
    """Open what has been removed. Raises OSError(ESTALE) if nobody holds it."""
    held = tree.removed.place(node)
    if held is None:
        fail(errno.ESTALE, node.name)
    node.fd = os.open(held, os.O_RDWR | os.O_CLOEXEC)
    node.fd_writable, node.last = True, None


def backing(tree: Tree, node: Node, write: bool) -> int:
    """The descriptor behind the node, opened when it is first needed."""
    if write and not node.upper:
        copy_up(tree, node)
    if node.fd >= 0:
        if node.fd_writable or not write:
            return node.fd
        os.close(node.fd)
        node.fd = -1
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    if node.upper:
        dir_fd, path = tree.place(node)
        try:
            node.fd = os.open(path, os.O_RDWR | flags, dir_fd=dir_fd)
            node.fd_writable = True
        except OSError as e:
            if write or e.errno != errno.EROFS:
                raise
            node.fd = os.open(path, flags, dir_fd=dir_fd)  # the disk has failed, and the kernel made its file system read-only
            node.fd_writable = False
    else:
        layer, path = node.lowers[0]
        node.fd = layer.open_untouched(path)
        node.fd_writable = False
    tree.descriptors.opened(node)
    return node.fd


def read(tree: Tree, handle: Handle, size: int, offset: int) -> bytes:
    """Up to `size` bytes at `offset`; fewer only at the end of the file."""
    node = handle.node
    if node.patch is not None:
        return patchwork.read(node.patch, backing(tree, node, False), size, offset)
    return os.pread(node.fd if node.fd >= 0 else backing(tree, node, False), size, offset)


def read_into(tree: Tree, handle: Handle, buffer: memoryview, offset: int) -> int:
    """Read into `buffer` from `offset`; returns how many bytes."""
    node = handle.node
    if node.patch is not None:
        data = read(tree, handle, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)
    return os.preadv(node.fd if node.fd >= 0 else backing(tree, node, False), [buffer], offset)


class Data:
    """What to read a file from, held for as long as this is: for reading it while other calls change what is behind the node."""

    def __init__(self, fd: int, patch: Patch | None) -> None:
        self.fd = os.dup(fd)
        self._patch = None if patch is None else patchwork.duplicate(patch)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read into `buffer` from `offset`; returns how many bytes: fewer only at the end of the file."""
        if self._patch is None:
            return os.preadv(self.fd, [buffer], offset)
        data = patchwork.read(self._patch, self.fd, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)
        if self._patch is not None:
            self._patch.close()


def hold(tree: Tree, handle: Handle) -> Data:
    """What is behind an open file now, as far as reading goes."""
    return Data(backing(tree, handle.node, False), handle.node.patch)


def read_at_once(tree: Tree, handle: Handle, buffer: memoryview, offset: int) -> int:
    """Read into `buffer` from `offset`; returns how many bytes, or -1 if that would mean to wait for a disk."""
    node = handle.node
    fd = node.fd if node.fd >= 0 else backing(tree, node, False)
    if node.patch is not None:
        place = patchwork.one_source(node.patch, fd, offset, offset + len(buffer))
        if place is None:
            return -1
        fd = place
    try:
        count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as e:
        if e.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):  # the latter: a file system that cannot tell
            raise
        return -1
    if count < len(buffer) and offset + count < os.fstat(fd).st_size:
        return -1  # the rest is not in memory
    return count


def write(tree: Tree, handle: Handle, data: Buffer, offset: int, append: bool) -> int:
    """Write `data` at `offset`, or at the end of the file if `append`; returns how many bytes."""
    node = handle.node
    fd = node.fd if node.fd_writable else backing(tree, node, True)
    if append:
        offset = os.fstat(fd).st_size
    if node.patch is not None:
        patchwork.prepare_write(tree, node, fd, offset, offset + len(data))
    return os.pwrite(fd, data, offset)


def fallocate(tree: Tree, handle: Handle, mode: int, offset: int, length: int) -> None:
    """fallocate(2), all modes that the upper's file system has."""
    syscalls.fallocate(allocatable(tree, handle, mode, offset, length), mode, offset, length)


def allocatable(tree: Tree, handle: Handle, mode: int, offset: int, length: int) -> int:
    """The descriptor on which fallocate(2) can be called."""
    fd = backing(tree, handle.node, True)
    patch = handle.node.patch
    if patch is not None and (mode & ~syscalls.FALLOC_FL_KEEP_SIZE or offset < patch.limit):
        # Holes would no longer mean "not copied up": on tmpfs even plain allocation turns them into data.
        patchwork.complete(tree, handle.node, fd)
    elif patch is not None:
        patchwork.prepare_write(tree, handle.node, fd, offset + length, offset + length)
    return fd


def seek(tree: Tree, handle: Handle, offset: int, whence: int) -> int:
    """SEEK_DATA and SEEK_HOLE; the other kinds are the kernel's own business."""
    fd = backing(tree, handle.node, False)
    if handle.node.patch is not None:
        return patchwork.seek(handle.node.patch, fd, offset, whence)
    return os.lseek(fd, offset, whence)


def copy_range(tree: Tree, source: Handle, source_offset: int, target: Handle, target_offset: int, length: int) -> int:
    """copy_file_range(2) between two open files; returns how many bytes. Raises OSError(EXDEV) where the caller has to copy itself."""
    return os.copy_file_range(*copyable(tree, source, target), length, source_offset, target_offset)


def copyable(tree: Tree, source: Handle, target: Handle) -> tuple[int, int]:
    """The descriptors between which copy_file_range(2) can be called."""
    if source.node.patch is not None or target.node.patch is not None:
        fail(errno.EXDEV)
    backing(tree, target.node, True)
    if target.node.patch is not None:
        fail(errno.EXDEV)
    source_fd = backing(tree, source.node, False)
    return source_fd, backing(tree, target.node, True)  # opening the one may have closed the other


def release(tree: Tree, handle: Handle) -> None:
    """A handle is closed. With the last one goes the backing descriptor, and a file without a name."""
    node = handle.node
    node.opens -= 1
    if node.opens:
        return
    if node.home is not None and node.home.startswith(b"orphans/"):
        _release_orphan(tree, node)
    elif node.upper and node.home is None and node.parent is None:
        node.last = getattr_(tree, node)
    tree.descriptors.close(node)
    if node.parent is None:
        tree.evict(node)


def _release_orphan(tree: Tree, node: Node) -> None:
    assert node.home is not None
    attr = getattr_(tree, node)
    if node.parent is None and node.refs:
        tree.removed.hold(node, tree.work.fd, node.home)
    os.unlink(node.home, dir_fd=tree.work.fd)
    node.home = None
    if node.parent is None:
        node.last = attr
        tree.watch.left(node, attr)
