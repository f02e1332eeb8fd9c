"""The interface of the union: what engines translate the kernel's requests to.

Every method raises OSError with the errno that the system call should fail with. Calls are to be serialised by the engine.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from cowroot.union import attributes, create, files, former, patchwork, remove, rename
from cowroot.union.attributes import NOW
from cowroot.union.layers import Layers, LayerSpec
from cowroot.union.listing import listing
from cowroot.union.node import Attr, Caller, DirHandle, Entry, Handle, Node
from cowroot.union.reserve import Reserve
from cowroot.union.syscalls import syncfs
from cowroot.union.tree import Tree, fail

if TYPE_CHECKING:
    from cowroot.union.files import Buffer, Data

__all__ = ["NOW", "Union"]


class Union:
    """A copy-on-write union of directories. Make one with `Union.open`."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.tree = Tree(layers)
        self.reserve = Reserve(layers.work, layers.reserve)
        self.root = self.tree.root

    @classmethod
    def open(cls, spec: LayerSpec) -> Union:
        """Open and check the layers. Raises LayerError where they are not fit."""
        layers = Layers(spec)
        if layers.work is not None:
            layers.metacopy = layers.metacopy and patchwork.can_patch(layers.work, b"tmp/probe")
        union = cls(layers)
        if layers.upper is not None:
            former.note(layers.upper.fd, layers.marks, layers.upper.fs, layers.work_name)
        return union

    def close(self) -> None:
        """Let go of the layers; the union cannot be used afterwards. Files without a name that are still open are gone."""
        self.tree.removed.let_go_of_all()
        self.reserve.give_up()
        self.layers.close()

    def resume(self, generation: int) -> None:
        """Go on where another process was killed, the `generation`-th that was."""
        self.tree.resume(generation)

    # -- names

    def lookup(self, parent: Node, name: bytes) -> Node:
        """The node called `name` in the directory `parent`."""
        return self.tree.lookup(parent, name)

    def find(self, parent: Node, name: bytes) -> Node | None:
        """The same, or None if there is none."""
        return self.tree.find(parent, name)

    def retain(self, node: Node) -> None:
        """Somebody outside holds on to the node, until `forget`."""
        node.refs += 1

    def forget(self, node: Node, count: int = 1) -> None:
        """`count` holds on the node are given up; one that nobody holds leaves the table."""
        node.refs -= count
        if not node.refs:
            self.tree.evict(node)

    def mknod(self, parent: Node, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        """Make a regular file, FIFO, socket or device."""
        return create.mknod(self.tree, parent, name, mode, rdev, caller)

    def mkdir(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a directory."""
        return create.mkdir(self.tree, parent, name, mode, caller)

    def symlink(self, parent: Node, name: bytes, target: bytes, caller: Caller) -> Node:
        """Make a symbolic link to `target`."""
        return create.symlink(self.tree, parent, name, target, caller)

    def link(self, node: Node, parent: Node, name: bytes) -> Node:
        """Make `name` in `parent` a further name of `node`."""
        return create.link(self.tree, node, parent, name)

    def unlink(self, parent: Node, name: bytes) -> None:
        """Remove a name of anything but a directory."""
        remove.unlink(self.tree, parent, name)

    def rmdir(self, parent: Node, name: bytes) -> None:
        """Remove an empty directory."""
        remove.rmdir(self.tree, parent, name)

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int = 0) -> None:
        """Rename; `flags` as renameat2(2)."""
        rename.rename(self.tree, parent, name, new_parent, new_name, flags)

    # -- attributes

    def getattr(self, node: Node) -> Attr:
        """What stat(2) shows."""
        return attributes.getattr_(self.tree, node)

    def getattr_as_found(self, node: Node) -> Attr:
        """The same for a node that was looked up or made since `forget_found`, and not changed: without looking once more."""
        found = self.tree.found
        return attributes.getattr_(self.tree, node) if found is None or found[0] is not node else attributes.attr_of(self.tree, *found)

    def forget_found(self) -> None:
        """From now on, what `getattr_as_found` knows may be out of date."""
        self.tree.found = None

    def setattr(
        self,
        node: Node,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> Attr:
        """Change what is given (size in bytes, times in nanoseconds or NOW) and return the attributes after that.

        ftruncate(2) and O_TRUNC are a size and NOW as mtime; truncate(2) is a size alone.
        """
        attributes.setattr_(self.tree, node, mode, uid, gid, size, atime_ns, mtime_ns)
        return attributes.getattr_(self.tree, node)

    def readlink(self, node: Node) -> bytes:
        """Where a symbolic link points."""
        if node.kind != stat.S_IFLNK:
            fail(errno.EINVAL)
        return attributes.readlink(self.tree, node)

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of an extended attribute."""
        return attributes.getxattr(self.tree, node, os.fsdecode(name))

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; `flags` XATTR_CREATE or XATTR_REPLACE."""
        attributes.setxattr(self.tree, node, os.fsdecode(name), value, flags)

    def listxattr(self, node: Node) -> list[bytes]:
        """The names of the extended attributes."""
        return [os.fsencode(name) for name in attributes.listxattr(self.tree, node)]

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove an extended attribute."""
        attributes.removexattr(self.tree, node, os.fsdecode(name))

    def statfs(self) -> os.statvfs_result:
        """Size and free space: those of the upper's file system, where writes go. The reserve is free, but not available."""
        space = os.fstatvfs((self.layers.upper or self.layers.lower[0]).fd)
        held, missing = (count // space.f_frsize for count in (self.reserve.held, self.reserve.missing))
        if not held and not missing:
            return space
        values = list(space)
        values[3:5] = space.f_bfree + held, max(space.f_bavail - missing, 0)  # f_bfree, f_bavail
        return os.statvfs_result(values)

    # -- files

    def open_file(self, node: Node, flags: int) -> Handle:
        """Open a regular file with open(2) `flags`.

        Raises OSError(ESTALE) if it was removed too long ago; the kernel then looks its path up again.
        """
        if flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_RDONLY:
            self.setattr(node, size=0, mtime_ns=NOW)
        return files.open_(self.tree, node, flags)

    def inherit_file(self, node: Node, flags: int) -> Handle:
        """The same for a node that another process had open."""
        if node.last is not None and self.tree.removed.fd(node) >= 0:
            files.reopen(self.tree, node)
        node.opens += 1
        return Handle(node, flags)

    def create(self, parent: Node, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        """Make a regular file and open it."""
        return create.create(self.tree, parent, name, mode, flags, caller)

    def tmpfile(self, parent: Node, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
        """Make a regular file without a name and open it."""
        return create.tmpfile(self.tree, parent, mode, flags, caller)

    def upper_file(self, node: Node) -> int:
        """A descriptor of the file in the upper that holds all data of an open node, for as long as it is open; -1 where there is none."""
        if not node.upper or node.patch is not None:
            return -1
        fd = files.backing(self.tree, node, False)
        return fd if node.fd_writable else -1

    def read(self, handle: Handle, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`; fewer only at the end of the file."""
        return files.read(self.tree, handle, size, offset)

    def read_into(self, handle: Handle, buffer: memoryview, offset: int) -> int:
        """Read into `buffer` from `offset`; returns how many bytes."""
        return files.read_into(self.tree, handle, buffer, offset)

    def read_at_once(self, handle: Handle, buffer: memoryview, offset: int) -> int:
        """Read into `buffer` from `offset`; returns how many bytes, or -1 if that would mean to wait for a disk."""
        return files.read_at_once(self.tree, handle, buffer, offset)

    def hold(self, handle: Handle) -> Data:
        """What to read an open file from, by whichever thread, while other calls are made."""
        return files.hold(self.tree, handle)

    def write(self, handle: Handle, data: Buffer, offset: int, append: bool = False) -> int:
        """Write `data` at `offset`; returns how many bytes.

        The kernel makes offsets of O_APPEND itself. `append` is for an engine that cannot trust its idea of the size.
        """
        return files.write(self.tree, handle, data, offset, append)

    def fsync(self, handle: Handle, datasync: bool = False) -> None:
        """Bring the file to the disk."""
        if handle.node.upper:
            self.bring_to_disk(files.backing(self.tree, handle.node, False), datasync, handle.node.origin is not None)

    def bring_to_disk(self, fd: int, datasync: bool, names: bool) -> None:
        """fsync(2), or fdatasync(2), of the upper's object that is open as `fd`; `names`: not only its own data counts, but names.

        For any thread. On ext4 and xfs fsync brings all earlier changes of names along; on btrfs those of this one directory at most, and
        not even them where others are renamed at that moment. And the count of a file's links is kept apart from its names.
        """
        if names and self.layers.scattered:
            syncfs(fd)
        else:
            (os.fdatasync if datasync else os.fsync)(fd)

    def fallocate(self, handle: Handle, mode: int, offset: int, length: int) -> None:
        """fallocate(2); `offset` and `length` in bytes."""
        files.fallocate(self.tree, handle, mode, offset, length)

    def seek(self, handle: Handle, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE from `offset`."""
        return files.seek(self.tree, handle, offset, whence)

    def copy_range(self, source: Handle, source_offset: int, target: Handle, target_offset: int, length: int) -> int:
        """copy_file_range(2); returns how many bytes."""
        return files.copy_range(self.tree, source, source_offset, target, target_offset, length)

    # -- descriptors, good until the next call, for system calls that take long: the engine has others of them then, and makes them itself

    def syncable(self, handle: Handle) -> int:
        """What to call fsync(2) on; -1 for what is only in the lower."""
        return files.backing(self.tree, handle.node, False) if handle.node.upper else -1

    def allocatable(self, handle: Handle, mode: int, offset: int, length: int) -> int:
        """What to call fallocate(2) on."""
        return files.allocatable(self.tree, handle, mode, offset, length)

    def copyable(self, source: Handle, target: Handle) -> tuple[int, int]:
        """What to call copy_file_range(2) on."""
        return files.copyable(self.tree, source, target)

    def release(self, handle: Handle) -> None:
        """Close a file."""
        files.release(self.tree, handle)

    # -- directories

    def opendir(self, node: Node) -> DirHandle:
        """Open a directory."""
        if node.kind != stat.S_IFDIR:
            fail(errno.ENOTDIR)
        node.opens += 1
        return DirHandle(node)

    def readdir(self, handle: DirHandle) -> list[Entry]:
        """All entries as they are now, "." and ".." first."""
        node = handle.node
        if self.tree.is_removed(node):
            fail(errno.ENOENT)  # as the kernel answers for a removed directory (iterate_dir)
        above = node.parent or node
        return [Entry(b".", node.ino, stat.S_IFDIR), Entry(b"..", above.ino, stat.S_IFDIR), *listing(self.tree, node)]

    def fsyncdir(self, handle: DirHandle, datasync: bool = False) -> None:
        """Bring a directory's names to the disk."""
        fd = self.open_directory(handle.node)
        if fd >= 0:
            try:
                self.bring_to_disk(fd, datasync, True)
            finally:
                os.close(fd)

    def open_directory(self, node: Node) -> int:
        """A new descriptor of the directory's object in the upper; -1 for what is only in the lower."""
        if not node.upper:
            return -1
        dir_fd, path = self.tree.place(node)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)

    def open_lower(self, node: Node) -> int:
        """A new descriptor of a directory all of whose entries are simply what one lower layer has there; -1 for any other directory."""
        if node.upper or len(node.lowers) != 1:
            return -1
        layer, path = node.lowers[0]
        return -1 if layer.marked or layer.oci else layer.open_untouched(path, os.O_DIRECTORY)

    def releasedir(self, handle: DirHandle) -> None:
        """Close a directory."""
        node = handle.node
        node.opens -= 1
        if not node.opens and self.tree.is_removed(node):
            self.tree.evict(node)
