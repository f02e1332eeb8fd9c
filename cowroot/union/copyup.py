"""Copy-up: give a node that is only in the lower an object in the upper, whole or not at all.

What is copied is built as a temporary in the work directory and renamed into place, so neither a crash nor a full disk leaves a half
file in the upper.
"""

from __future__ import annotations

import errno
import os
import stat

from cowroot.union import patchwork
from cowroot.union.node import Node, Patch
from cowroot.union.syscalls import ficlone, near, rename, through, utimensat
from cowroot.union.tree import Tree, fail

CHUNK = 1 << 20  # bytes per copying call: large enough to cost nothing, small enough to be interrupted


def copy_up(tree: Tree, node: Node, size: int | None = None) -> None:
    """Make `node` and its ancestors be in the upper; nothing to do if they are.

    Arguments: `size`: only so many bytes of data will be needed (the file is about to be truncated).
    Raises OSError: EROFS in a read-only union, ENOENT for what is gone, ENOSPC and whatever else the upper answers.
    """
    if node.upper:
        return
    if not node.lowers:
        fail(errno.ENOENT, node.name)
    missing = [node]
    while missing[-1].parent is not None and not missing[-1].parent.upper:
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        _copy_up_one(tree, each, size if each is node else None)


def _copy_up_one(tree: Tree, node: Node, size: int | None) -> None:
    layer, path = node.lowers[0]
    st = layer.stat(path)
    temporary = tree.temporary()
    patch = None
    try:
        patch = _make(tree, node, st, temporary, size)
        _copy_attributes(tree, node, st, temporary)
        upper_ino = _put_in_place(tree, node, temporary)
    except BaseException:
        _discard(tree, node, temporary)
        raise
    node.upper = True
    if node.children is None:
        node.lowers = ()
        node.patch = patch
    if node.origin is not None:
        tree.register_upper(node, upper_ino)
    if node.fd >= 0:
        os.close(node.fd)  # the next access opens the copy, for every handle
        node.fd, node.fd_writable = -1, False
    if node.origin is not None and node.parent is not None:
        link_name(tree, node, node.parent, node.name)
    if tree.on_copy_up is not None:
        tree.on_copy_up(node)


def _make(tree: Tree, node: Node, st: os.stat_result, temporary: bytes, size: int | None) -> Patch | None:
    """Make the copy, without its attributes. Returns where it has its data from, if that was not copied."""
    layer, path = node.lowers[0]
    work = tree.work
    if node.kind == stat.S_IFREG:
        source = layer.open_untouched(path)
        try:
            target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=work.fd)
            try:
                return _fill(tree, node, source, target, temporary, st.st_size if size is None else min(size, st.st_size))
            finally:
                os.close(target)
        finally:
            os.close(source)
    elif node.kind == stat.S_IFDIR:
        os.mkdir(temporary, 0o700, dir_fd=work.fd)
    elif node.kind == stat.S_IFLNK:
        dir_fd, path = near(layer.fd, path)
        os.symlink(os.readlink(path, dir_fd=dir_fd), temporary, dir_fd=work.fd)
    else:
        os.mknod(temporary, node.kind | 0o600, st.st_rdev, dir_fd=work.fd)
    return None


def _fill(tree: Tree, node: Node, source: int, target: int, temporary: bytes, size: int) -> Patch | None:
    """Give the copy `size` bytes of data: all of it, or, of a large file, a promise."""
    if node.patch is not None:
        os.ftruncate(target, size)
        for offset in range(0, size, CHUNK):
            os.pwrite(target, patchwork.read(node.patch, source, min(CHUNK, size - offset), offset), offset)
    elif not _clone(source, target, size):
        if size >= patchwork.WORTHWHILE and tree.layers.metacopy:
            os.ftruncate(target, size)
            marks, work = tree.marks, tree.work
            marks.set(work.fd, temporary, marks.metacopy, b"")
            marks.set(work.fd, temporary, marks.redirect, b"/" + tree.lower_path(node))
            marks.set(work.fd, temporary, marks.limit, b"%d" % size)
            return Patch(node.lowers[0], size)
        copy_data(source, target, size)
    # else a power cut could leave the name, renamed into place, without its data
    os.fdatasync(target)
    return None


def _clone(source: int, target: int, size: int) -> bool:
    """Share the data, where both files are on one file system that can."""
    here, there = os.fstat(source), os.fstat(target)
    if here.st_dev != there.st_dev or not size:
        return False
    try:
        ficlone(target, source)
        os.ftruncate(target, size)
    except OSError:
        return False
    return True


def _copy_attributes(tree: Tree, node: Node, st: os.stat_result, temporary: bytes) -> None:
    layer, path = node.lowers[0]
    work = tree.work
    os.chown(temporary, st.st_uid, st.st_gid, dir_fd=work.fd, follow_symlinks=False)
    if node.kind != stat.S_IFLNK:
        os.chmod(temporary, stat.S_IMODE(st.st_mode), dir_fd=work.fd)
    # after chown, which clears file capabilities
    copy_xattrs(tree, through(layer.fd, path), through(work.fd, temporary))
    if node.kind == stat.S_IFCHR and st.st_rdev == 0:
        tree.marks.set(work.fd, temporary, tree.marks.device, b"y")
    if node.kind in (stat.S_IFREG, stat.S_IFDIR) or not tree.marks.ino.startswith("user."):
        # Linux allows user.* only on regular files and directories
        tree.marks.set(work.fd, temporary, tree.marks.ino, b"%d" % node.ino)
    utimensat(work.fd, temporary, divmod(st.st_atime_ns, 10**9), divmod(st.st_mtime_ns, 10**9))


def copy_xattrs(tree: Tree, source: bytes, target: bytes) -> None:
    """Copy the extended attributes, ACLs and file capabilities included, but the union's own."""
    try:
        names = os.listxattr(source, follow_symlinks=False)
    except OSError as e:
        if e.errno == errno.ENOTSUP:
            return
        raise
    for name in names:
        if tree.marks.is_private(name):
            continue
        value = os.getxattr(source, name, follow_symlinks=False)
        try:
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as e:
            # An upper that has no such namespace (tmpfs has user.* only from Linux 6.6) must not make the file unwritable;
            # an access rule, on the other hand, is never dropped.
            if e.errno not in (errno.ENOTSUP, errno.EPERM) or name.startswith("system.posix_acl_") or name == "security.capability":
                raise


def _put_in_place(tree: Tree, node: Node, temporary: bytes) -> int:
    """Rename the finished copy to where it belongs. Returns its inode number in the upper."""
    work, upper = tree.work, tree.upper
    upper_ino = work.stat(temporary).st_ino
    if node.origin is not None and node.links:
        tree.store_links(node)
        tree.index.add(node.origin, upper_ino)
        home = tree.index.home(node.origin)
        os.rename(temporary, home, src_dir_fd=work.fd, dst_dir_fd=work.fd)
        node.home = home
    elif node.parent is None:
        node.home = tree.orphanage()
        os.rename(temporary, node.home, src_dir_fd=work.fd, dst_dir_fd=work.fd)
    else:
        with ParentTimes(tree, node.parent):
            rename(work.fd, temporary, upper.fd, tree.path(node))
    return upper_ino


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

    def __exit__(self, *_exception: object) -> None:
        mark_impure(self._tree, self._parent)
        utimensat(self._tree.upper.fd, self._path, divmod(self._st.st_atime_ns, 10**9), divmod(self._st.st_mtime_ns, 10**9))


def mark_impure(tree: Tree, directory: Node) -> None:
    """Note that a directory of the upper holds something whose inode number is not the upper's."""
    if not directory.impure:
        tree.marks.set(tree.upper.fd, tree.path(directory), tree.marks.impure, b"y")
        directory.impure = True


def _discard(tree: Tree, node: Node, temporary: bytes) -> None:
    try:
        if node.kind == stat.S_IFDIR:
            os.rmdir(temporary, dir_fd=tree.work.fd)
        else:
            os.unlink(temporary, dir_fd=tree.work.fd)
    except FileNotFoundError:
        pass


def copy_data(source: int, target: int, size: int) -> None:
    """Copy the first `size` bytes between two open files; holes stay holes."""
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
