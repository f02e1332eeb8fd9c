"""Copy-up: give a node that is only in the lower an object in the upper, whole or not at all.

What is copied is built as a temporary in the work directory and renamed into place, so neither a crash nor a full disk leaves a half
file in the upper.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from cowroot.union import patchwork
from cowroot.union.copying import CHUNK, clone, copy_data
from cowroot.union.node import Node, Patch
from cowroot.union.syscalls import UTIME_NOW, is_far, near, rename, through, utimensat
from cowroot.union.tree import Tree, fail
from cowroot.union.waiting import Wait


def copy_up(tree: Tree, node: Node, size: int | None = None) -> None:
    """Make `node` and its ancestors be in the upper; nothing to do if they are.

    Arguments: `size`: only so many bytes of data will be needed (the file is about to be truncated).
    Raises OSError: EROFS in a read-only union, ENOENT for what is gone, ENOSPC and whatever else the upper answers; Wait.
    """
    if node.upper:
        return
    if not node.lowers:
        fail(errno.ENOENT, node.name)
    copy = _Copy(tree, node, size)
    if copy.data > tree.patience and not is_far(copy.path):  # what makes a long path short is shared
        raise CopyUp(copy)
    missing = []
    above = node.parent
    while above is not None and not above.upper:
        missing.append(above)
        above = above.parent
    for each in reversed(missing):
        _make_and_place(_Copy(tree, each, None))
    _make_and_place(copy)


def _make_and_place(copy: _Copy) -> None:
    try:
        copy.make()
        copy.place()
    finally:
        copy.discard()


class CopyUp(Wait):
    """A file's data is copied, and its attributes. Where it belongs is seen to when that is done."""

    def __init__(self, copy: _Copy) -> None:
        super().__init__(copy.node)
        self.long = copy.data > CHUNK
        self._copy = copy

    def run(self) -> None:
        self._copy.make()

    def finish(self, done: bool) -> None:
        copy, node = self._copy, self.node
        try:
            if done and not node.upper and node.last is None:
                if node.parent is not None:
                    copy_up(copy.tree, node.parent)
                copy.place()
        finally:
            copy.discard()


class _Copy:
    """A copy in the making, as a temporary; `data`: how many bytes have to be copied for it.

    What is in the lower stays as it is, so `make` needs nothing that other calls could change.
    """

    __slots__ = ("_fd", "_layer", "_parts", "_promise", "_size", "_st", "_temporary", "data", "node", "path", "tree")

    def __init__(self, tree: Tree, node: Node, size: int | None) -> None:
        self.tree, self.node = tree, node
        self._layer, self.path = node.lowers[0]
        self._st = self._layer.stat(self.path)
        self._temporary = tree.temporary()
        self._fd = -1  # of a file, for whoever has it open
        self._promise: Patch | None = None  # where it has its data from, if that is not copied
        self._parts: Patch | None = None  # the same, of a file of which the lower has only parts
        self._size = self.data = 0
        if node.kind == stat.S_IFREG:
            self._size = self.data = self._st.st_size if size is None else min(size, self._st.st_size)
            rest = None if node.patch is None else node.patch.anew()
            if self._size >= patchwork.WORTHWHILE and tree.layers.metacopy:
                self._promise = Patch(node.lowers[0], self._size, rest)
                self.data = 0
            elif rest is not None:
                self._parts = Patch(node.lowers[0], self._size, rest)

    def make(self) -> None:
        """Make it, complete but for its name."""
        if self.node.kind == stat.S_IFREG:
            self._make_file()
        else:
            self._make_other()

    def _make_file(self) -> None:
        source = self._layer.open_untouched(self.path)
        try:
            target = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.tree.work.fd)
            self._fd = target
            self._fill(source, target)
            os.fchown(target, self._st.st_uid, self._st.st_gid)
            os.fchmod(target, stat.S_IMODE(self._st.st_mode))
            copy_xattrs(self.tree, source, target)  # after chown, which clears file capabilities
            os.setxattr(target, self.tree.marks.ino, b"%d" % self.node.ino)
            if self._size < self._st.st_size:
                # a shorter copy is a truncated file: the truncation that it is made for will find it done
                utimensat(self.tree.work.fd, self._temporary, divmod(self._st.st_atime_ns, 10**9), (0, UTIME_NOW))
            else:
                os.utime(target, ns=(self._st.st_atime_ns, self._st.st_mtime_ns))
        finally:
            os.close(source)

    def _fill(self, source: int, target: int) -> None:
        """Give the copy its data: all of it, or, of a large file, a promise."""
        size = self._size
        if self._parts is not None:
            os.ftruncate(target, size)
            patchwork.fill_up(self._parts, target)
            self._parts.close()
        elif self._can_share() and clone(source, target, size):
            self._promise = None
        elif self._promise is not None:
            os.ftruncate(target, size)
            marks = self.tree.marks
            os.setxattr(target, marks.metacopy, b"")
            os.setxattr(target, marks.redirect, b"/" + self.tree.lower_path(self.node))
            os.setxattr(target, marks.limit, b"%d" % size)
            return
        elif size:
            copy_data(source, target, size, self._st.st_blocks)
        # else a power cut could leave the name, renamed into place, without its data
        os.fdatasync(target)

    def _can_share(self) -> bool:
        is_in_parts = self._promise is not None and self._promise.further is not None
        return self._size > 0 and self._st.st_dev == self.tree.work.dev and not is_in_parts

    def _make_other(self) -> None:
        tree, st, temporary, kind = self.tree, self._st, self._temporary, self.node.kind
        work = tree.work
        if kind == stat.S_IFDIR:
            os.mkdir(temporary, 0o700, dir_fd=work.fd)
        elif kind == stat.S_IFLNK:
            dir_fd, path = near(self._layer.fd, self.path)
            os.symlink(os.readlink(path, dir_fd=dir_fd), temporary, dir_fd=work.fd)
        else:
            os.mknod(temporary, kind | 0o600, st.st_rdev, dir_fd=work.fd)
        os.chown(temporary, st.st_uid, st.st_gid, dir_fd=work.fd, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(temporary, stat.S_IMODE(st.st_mode), dir_fd=work.fd)
        copy_xattrs(tree, through(self._layer.fd, self.path), through(work.fd, temporary))
        if kind == stat.S_IFCHR and st.st_rdev == 0:
            tree.marks.set(work.fd, temporary, tree.marks.device, b"y")
        if kind == stat.S_IFDIR or not tree.marks.ino.startswith("user."):
            # Linux allows user.* only on regular files and directories
            tree.marks.set(work.fd, temporary, tree.marks.ino, b"%d" % self.node.ino)
        os.utime(temporary, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=work.fd, follow_symlinks=False)

    def place(self) -> None:
        """Put it where it belongs: from then on the node is in the upper."""
        tree, node = self.tree, self.node
        upper_ino = None if node.origin is None else tree.work.stat(self._temporary).st_ino
        self._rename(upper_ino)
        self._temporary = b""
        node.upper = True
        if node.children is None:
            node.lowers = ()
            node.patch = self._promise
        elif node.links is None and len(node.lowers) == 1 and self._st.st_nlink > 1:
            node.links = self._st.st_nlink  # the same as if it were counted now
        if upper_ino is not None:
            tree.register_upper(node, upper_ino)
        if node.opens and self._fd >= 0:
            # the next access is to the copy, through every handle
            node.fd, node.fd_writable, self._fd = self._fd, True, node.fd
            tree.descriptors.opened(node)
        if node.origin is not None and node.parent is not None:
            link_name(tree, node, node.parent, node.name)
        if node.parent is None and node is not tree.root:
            tree.watch.left(node, None)
        if tree.on_copy_up is not None:
            tree.on_copy_up(node)

    def _rename(self, upper_ino: int | None) -> None:
        tree, node, work = self.tree, self.node, self.tree.work
        if upper_ino is not None and node.origin is not None and node.links:
            tree.store_links(node)
            tree.index.add(node.origin, upper_ino)
            node.home = tree.index.home(node.origin)
        elif node.parent is None:
            node.home = tree.orphanage()
        else:
            with ParentTimes(tree, node.parent):
                rename(work.fd, self._temporary, tree.upper.fd, tree.path(node))
            return
        os.rename(self._temporary, node.home, src_dir_fd=work.fd, dst_dir_fd=work.fd)

    def discard(self) -> None:
        """Let go of it, as far as it is not in use now: it failed, or the file has gone or been copied meanwhile."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary:
            try:
                (os.rmdir if self.node.kind == stat.S_IFDIR else os.unlink)(self._temporary, dir_fd=self.tree.work.fd)
            except FileNotFoundError:
                pass  # it did not come to that


def copy_xattrs(tree: Tree, source: bytes | int, target: bytes | int) -> None:
    """Copy the extended attributes, ACLs and file capabilities included, but the union's own. Both are paths, or both descriptors."""
    follow = isinstance(source, int)  # with a descriptor there is no choice
    try:
        names = os.listxattr(source, follow_symlinks=follow)
    except OSError as e:
        if e.errno == errno.ENOTSUP:
            return
        raise
    for name in names:
        if tree.marks.is_private(name):
            continue
        value = os.getxattr(source, name, follow_symlinks=follow)
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as e:
            # An upper that has no such namespace (tmpfs has user.* only from Linux 6.6) must not make the file unwritable;
            # an access rule, on the other hand, is never dropped.
            if e.errno not in (errno.ENOTSUP, errno.EPERM) or name.startswith("system.posix_acl_") or name == "security.capability":
                raise


def link_name(tree: Tree, node: Node, parent: Node, name: bytes) -> None:
    """Give a file that lives in the index its name in the upper too, if it is not there yet; `parent` is in the upper."""
    assert node.home is not None
    with ParentTimes(tree, parent):
        dir_fd, path = near(tree.upper.fd, tree.child_path(parent, name))
        try:
            os.link(node.home, path, src_dir_fd=tree.work.fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        except FileExistsError:
            pass


class ParentTimes:
    """Putting a copy into a directory of the upper is not a change of the directory: keep its times, and mark it impure."""

    def __init__(self, tree: Tree, parent: Node) -> None:
        self._tree, self._parent = tree, parent
        self._path = tree.path(parent)

    def __enter__(self) -> None:
        self._st = self._tree.upper.stat(self._path)
        mark_impure(self._tree, self._parent)  # first: whoever is interrupted leaves a needless mark, not a missing one
        self._tree.watch.disturbs(self._parent, (self._st.st_atime_ns, self._st.st_mtime_ns))

    def __exit__(self, *_exception: object) -> None:
        dir_fd, path = near(self._tree.upper.fd, self._path)
        with suppress(OSError):  # what was put there is there, whatever becomes of the times
            os.utime(path, ns=(self._st.st_atime_ns, self._st.st_mtime_ns), dir_fd=dir_fd, follow_symlinks=False)
        self._tree.watch.disturbs(self._parent, None)


def mark_impure(tree: Tree, directory: Node) -> None:
    """Note that a directory of the upper holds something whose inode number is not the upper's."""
    if not directory.impure:
        tree.marks.set(tree.upper.fd, tree.path(directory), tree.marks.impure, b"y")
        directory.impure = True
