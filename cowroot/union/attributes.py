"""Attributes of nodes: stat, chmod, chown, times, sizes, extended attributes."""

from __future__ import annotations

import errno
import os
import stat

from cowroot.union import patchwork
from cowroot.union.copyup import copy_up
from cowroot.union.listing import link_count
from cowroot.union.node import Attr, Node
from cowroot.union.syscalls import AT_FDCWD, UTIME_NOW, UTIME_OMIT, through, utimensat
from cowroot.union.tree import Tree, fail
from cowroot.union.waiting import Wait

NOW = 1 << 80  # as a time for `setattr`: the current one. No time that a file can have: -1 is a nanosecond before 1970


def getattr_(tree: Tree, node: Node) -> Attr:
    """What stat(2) shows of the node."""
    if node.fd >= 0:
        st = os.fstat(node.fd)
    elif node.last is not None:
        held = tree.removed.place(node)
        if held is None:
            return node.last
        st = os.stat(held)
    else:
        fd, path = tree.place(node)
        st = os.stat(path, dir_fd=fd, follow_symlinks=False)
    return attr_of(tree, node, st)


def attr_of(tree: Tree, node: Node, st: os.stat_result) -> Attr:
    """What the node shows while its object, or the topmost one, has the attributes `st`."""
    blocks = st.st_blocks
    if node.patch is not None:
        # as if it were all here, and as overlayfs shows it
        blocks = max(blocks, *(layer.stat(path).st_blocks for layer, path in (patch.place for patch in node.patch.all())))
    if node.children is not None:
        links = 0 if tree.is_removed(node) else link_count(tree, node, st.st_nlink)
    elif node.links is not None:
        links = node.links
    else:
        links = st.st_nlink - (node.home is not None)
    return Attr(
        node.ino, st.st_mode, links, st.st_uid, st.st_gid, st.st_rdev, st.st_size, blocks, st.st_blksize,
        st.st_atime_ns, st.st_mtime_ns, max(st.st_ctime_ns, node.ctime_ns),
    )  # fmt: skip


def setattr_(
    tree: Tree,
    node: Node,
    mode: int | None,
    uid: int | None,
    gid: int | None,
    size: int | None,
    atime_ns: int | None,
    mtime_ns: int | None,
) -> None:
    """Change what is not None. Raises OSError: EOPNOTSUPP for the mode of a symbolic link, and what the upper answers.

    A size that comes with NOW as mtime is ftruncate(2) or O_TRUNC, which always move the time. For truncate(2) it is the file system that
    decides what it does when the size stays (tmpfs: nothing).
    """
    if mode is not None and node.kind == stat.S_IFLNK:
        fail(errno.EOPNOTSUPP, node.name)
    if node.patch is not None and node.patch.filling:
        raise Wait(node)
    copy_up(tree, node, size)
    fd, path, follow = _reach(tree, node)
    if size is not None:
        _truncate(tree, node, (fd, path, follow), size, mtime_ns == NOW)
        mtime_ns = None if mtime_ns == NOW else mtime_ns
    if mode is uid is gid is size is atime_ns is mtime_ns is None:
        uid = -1  # chown(-1, -1), say: it sets nothing, but is a change
    if uid is not None or gid is not None:
        # before the mode: it clears setuid and setgid bits
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid, dir_fd=fd, follow_symlinks=follow)
    if mode is not None:
        os.chmod(path, stat.S_IMODE(mode), dir_fd=fd)
    if atime_ns is not None or mtime_ns is not None:
        utimensat(fd, path, _timespec(atime_ns), _timespec(mtime_ns), follow)


def _reach(tree: Tree, node: Node) -> tuple[int, bytes, bool]:
    """Where the node's object is, as `Tree.place` says, and whether what is there is a link to it that has to be followed."""
    held = tree.removed.place(node)
    return (*tree.place(node), False) if held is None else (AT_FDCWD, held, True)


def _path_to(tree: Tree, node: Node) -> tuple[bytes, bool]:
    """The same for calls that take no descriptor."""
    fd, path, follow = _reach(tree, node)
    return path if follow else through(fd, path), follow


def _truncate(tree: Tree, node: Node, place: tuple[int, bytes, bool], size: int, touch: bool) -> None:
    if node.kind != stat.S_IFREG:
        fail(errno.EISDIR if node.kind == stat.S_IFDIR else errno.EINVAL, node.name)
    dir_fd, path, follow = place
    if not touch and node.patch is None:
        os.truncate(path if follow else through(dir_fd, path), size)
        return
    # A file copied up in part has more data than its file system knows: tmpfs would leave the time of one without any alone.
    is_open = node.fd >= 0 and node.fd_writable
    fd = node.fd if is_open else os.open(path, os.O_RDWR | (0 if follow else os.O_NOFOLLOW) | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if node.patch is not None and os.fstat(fd).st_size != size:
            patchwork.prepare_write(tree, node, fd, size, size)
        os.ftruncate(fd, size)
    finally:
        if not is_open:
            os.close(fd)
    if node.patch is not None:
        patchwork.shrink(tree, node, size)


def readlink(tree: Tree, node: Node) -> bytes:
    """Where a symbolic link points."""
    fd, path, follow = _reach(tree, node)
    return os.readlink(b"", dir_fd=tree.removed.fd(node)) if follow else os.readlink(path, dir_fd=fd)


def _timespec(ns: int | None) -> tuple[int, int]:
    if ns is None:
        return 0, UTIME_OMIT
    if ns == NOW:
        return 0, UTIME_NOW
    return divmod(ns, 10**9)


def getxattr(tree: Tree, node: Node, name: str) -> bytes:
    """The value of an extended attribute. Raises OSError(ENODATA) where there is none to be seen."""
    if tree.marks.is_private(name):
        fail(errno.ENODATA)
    if node.fd >= 0:
        return os.getxattr(node.fd, name)
    path, follow = _path_to(tree, node)
    return os.getxattr(path, name, follow_symlinks=follow)


def setxattr(tree: Tree, node: Node, name: str, value: bytes, flags: int) -> None:
    """Set an extended attribute; `flags` as setxattr(2). Raises OSError(EOPNOTSUPP) for the union's own."""
    if tree.marks.is_private(name):
        fail(errno.EOPNOTSUPP)
    copy_up(tree, node)
    path, follow = _path_to(tree, node)
    os.setxattr(path, name, value, flags, follow_symlinks=follow)


def listxattr(tree: Tree, node: Node) -> list[str]:
    """The names of the extended attributes, without the union's own."""
    path, follow = _path_to(tree, node)
    return [name for name in os.listxattr(path, follow_symlinks=follow) if not tree.marks.is_private(name)]


def removexattr(tree: Tree, node: Node, name: str) -> None:
    """Remove an extended attribute. Raises OSError(ENODATA) where there is none, without copying anything up."""
    if tree.marks.is_private(name):
        fail(errno.EOPNOTSUPP)
    if not node.upper:
        try:
            getxattr(tree, node, name)
        except OSError as e:
            if e.errno == errno.ENODATA and name.startswith("system.posix_acl_"):
                return  # removing an ACL that is not there succeeds (vfs_remove_acl)
            raise
    copy_up(tree, node)
    path, follow = _path_to(tree, node)
    os.removexattr(path, name, follow_symlinks=follow)
