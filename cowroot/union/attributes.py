"""Attributes of nodes: stat, chmod, chown, times, sizes, extended attributes."""

from __future__ import annotations

import errno
import os
import stat

from cowroot.union import patchwork
from cowroot.union.copyup import copy_up
from cowroot.union.listing import link_count
from cowroot.union.node import Attr, Node
from cowroot.union.syscalls import UTIME_NOW, UTIME_OMIT, through, utimensat
from cowroot.union.tree import Tree, fail

NOW = 1 << 80  # as a time for `setattr`: the current one. No time that a file can have: -1 is a nanosecond before 1970


def getattr_(tree: Tree, node: Node) -> Attr:
    """What stat(2) shows of the node."""
    if node.last is not None:
        return node.last
    if node.fd >= 0:
        st = os.fstat(node.fd)
    else:
        fd, path = tree.place(node)
        st = os.stat(path, dir_fd=fd, follow_symlinks=False)
    blocks = st.st_blocks
    if node.patch is not None:
        layer, path = node.patch.place
        blocks = max(blocks, layer.stat(path).st_blocks)  # as if it were all here, and as overlayfs shows it
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
    """Change what is not None. Raises OSError: EOPNOTSUPP for the mode of a symbolic link, and what the upper answers."""
    if mode is not None and node.kind == stat.S_IFLNK:
        fail(errno.EOPNOTSUPP, node.name)
    copy_up(tree, node, size)
    fd, path = tree.place(node)
    if size is not None:
        _truncate(tree, node, fd, path, size)
    if mode is uid is gid is size is atime_ns is mtime_ns is None:
        uid = -1  # chown(-1, -1), say: it sets nothing, but is a change
    if uid is not None or gid is not None:
        # before the mode: it clears setuid and setgid bits
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid, dir_fd=fd, follow_symlinks=False)
    if mode is not None:
        os.chmod(path, stat.S_IMODE(mode), dir_fd=fd)
    if atime_ns is not None or mtime_ns is not None:
        utimensat(fd, path, _timespec(atime_ns), _timespec(mtime_ns))


def _truncate(tree: Tree, node: Node, dir_fd: int, path: bytes, size: int) -> None:
    if node.kind != stat.S_IFREG:
        fail(errno.EISDIR if node.kind == stat.S_IFDIR else errno.EINVAL, node.name)
    if node.fd >= 0 and node.fd_writable:
        os.ftruncate(node.fd, size)
    else:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
    if node.patch is not None:
        patchwork.shrink(tree, node, (dir_fd, path), size)


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
    fd, path = tree.place(node)
    return os.getxattr(through(fd, path), name, follow_symlinks=False)


def setxattr(tree: Tree, node: Node, name: str, value: bytes, flags: int) -> None:
    """Set an extended attribute; `flags` as setxattr(2). Raises OSError(EOPNOTSUPP) for the union's own."""
    if tree.marks.is_private(name):
        fail(errno.EOPNOTSUPP)
    copy_up(tree, node)
    fd, path = tree.place(node)
    os.setxattr(through(fd, path), name, value, flags, follow_symlinks=False)


def listxattr(tree: Tree, node: Node) -> list[str]:
    """The names of the extended attributes, without the union's own."""
    fd, path = tree.place(node)
    return [name for name in os.listxattr(through(fd, path), follow_symlinks=False) if not tree.marks.is_private(name)]


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
    fd, path = tree.place(node)
    os.removexattr(through(fd, path), name, follow_symlinks=False)
