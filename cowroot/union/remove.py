"""Removing names: unlink, rmdir, and the whiteouts that hide what is below."""

from __future__ import annotations

import errno
import os
import stat
import time

from cowroot.union.attributes import attr_of, getattr_
from cowroot.union.copyup import copy_up
from cowroot.union.listing import count_subdirectory, listing
from cowroot.union.node import Attr, Node
from cowroot.union.syscalls import RENAME_EXCHANGE, UTIME_OMIT, near, rename, renameat2, through, utimensat
from cowroot.union.tree import Tree, fail


def unlink(tree: Tree, parent: Node, name: bytes) -> None:
    """Remove a name of anything but a directory. Raises OSError: ENOENT, EISDIR, EROFS."""
    node = tree.lookup(parent, name)
    if node.kind == stat.S_IFDIR:
        fail(errno.EISDIR, name)
    covered = bool(tree.below(parent.lowers, name))
    if covered:
        copy_up(tree, parent)
    path = tree.child_path(parent, name)
    in_upper = has_upper_name(tree, node, path)
    keep = Departure(tree, node, parent, name)
    if covered:
        put_whiteout(tree, path, over=in_upper)
    else:
        dir_fd, path = near(tree.upper.fd, path)
        os.unlink(path, dir_fd=dir_fd)
    keep.done()


def has_upper_name(tree: Tree, node: Node, path: bytes) -> bool:
    """True if the upper has an entry for this name of the node (a file in the index may have names that only the lower has)."""
    if not node.upper:
        return False
    if node.origin is None:
        return True
    try:
        return not tree.marks.is_whiteout(tree.upper.fd, path, tree.upper.stat(path))
    except FileNotFoundError:
        return False


class Departure:
    """A node is about to lose a name: see to it that what is open stays reachable, and that its link count is right afterwards.

    Make it before the name is removed from the upper, call `done` after.
    """

    def __init__(self, tree: Tree, node: Node, parent: Node, name: bytes) -> None:
        self._tree, self._node, self._parent, self._name = tree, node, parent, name
        known_elsewhere = bool(node.others) or (node.parent, node.name) != (parent, name)
        self._vanishes = not known_elsewhere
        if self._vanishes and node.refs and not node.opens and node.upper and node.kind in (stat.S_IFREG, stat.S_IFLNK):
            attr = attr_of(tree, node, os.fstat(tree.removed.hold(node, *tree.place(node))))
        else:
            attr = getattr_(tree, node)
        self._last = attr._replace(nlink=0 if node.kind == stat.S_IFDIR else attr.nlink - 1)
        if self._vanishes and _is_open(node) and node.upper and node.home is None and node.kind != stat.S_IFDIR:
            home = tree.orphanage()
            fd, path = tree.place(node)
            tree.watch.leaving(node, self._last, home, self._vanishes)
            os.link(path, home, src_dir_fd=fd, dst_dir_fd=tree.work.fd, follow_symlinks=False)
            node.home = home
        else:
            tree.watch.leaving(node, self._last, node.home, self._vanishes)

    def done(self) -> None:
        """The name is gone from the upper."""
        tree, node = self._tree, self._node
        tree.detach(node, self._parent, self._name)
        count_links(tree, node, self._last)
        if not self._vanishes:
            return
        if node.upper and node.home is None:
            node.last = self._last
        if node.opens or node.refs:
            tree.watch.left(node, self._last)
        else:
            tree.evict(node)


def count_links(tree: Tree, node: Node, last: Attr) -> None:
    """A node has lost a name, and has the attributes `last` now: keep its link count, where no backing file does."""
    if node.origin is None and node.upper:
        return
    node.links = last.nlink
    node.ctime_ns = time.time_ns()
    if node.origin is None:
        return
    if node.links > 0:
        tree.store_links(node)
        return
    tree.index.forget(node.origin)
    if node.upper and node.home is not None:
        if _is_open(node):
            home = tree.orphanage()
            tree.watch.leaving(node, last, home, True)
            os.rename(node.home, home, src_dir_fd=tree.work.fd, dst_dir_fd=tree.work.fd)
            node.home = home
        else:
            os.unlink(node.home, dir_fd=tree.work.fd)
            node.home = None


def rmdir(tree: Tree, parent: Node, name: bytes) -> None:
    """Remove an empty directory. Raises OSError: ENOENT, ENOTDIR, ENOTEMPTY, EROFS."""
    node = tree.lookup(parent, name)
    if node.kind != stat.S_IFDIR:
        fail(errno.ENOTDIR, name)
    if listing(tree, node):
        fail(errno.ENOTEMPTY, name)
    covered = bool(tree.below(parent.lowers, name))
    if covered:
        copy_up(tree, parent)
    path = tree.child_path(parent, name)
    keep = Departure(tree, node, parent, name)
    if node.upper:
        _take_away(tree, node, path, covered)
    else:
        put_whiteout(tree, path, over=False)
    count_subdirectory(parent, -1)
    keep.done()


def _take_away(tree: Tree, node: Node, path: bytes, covered: bool) -> None:
    """Remove the upper's directory at `path`, which shows nothing but may hold whiteouts, leaving a whiteout if the lower has the name."""
    upper, work = tree.upper, tree.work
    if not covered and not _is_held(node):
        try:
            dir_fd, near_path = near(upper.fd, path)
            os.rmdir(near_path, dir_fd=dir_fd)
            return
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    st = upper.stat(path)
    temporary = tree.temporary()
    if covered:
        os.mknod(temporary, stat.S_IFCHR, 0, dir_fd=work.fd)
        renameat2(work.fd, temporary, upper.fd, path, RENAME_EXCHANGE)
    else:
        rename(upper.fd, path, work.fd, temporary)
    _keep_or_remove(tree, node, temporary, st)


def make_way(tree: Tree, node: Node, path: bytes) -> None:
    """Before a directory is renamed over the upper's directory at `path`, which shows nothing: have a really empty one there.

    An empty stand-in takes its place at once, so that nothing hidden comes to light and whoever holds the old one keeps it.
    """
    upper, work = tree.upper, tree.work
    if not _is_held(node) and not os.listdir(through(upper.fd, path)):
        return
    st = upper.stat(path)
    temporary = tree.temporary()
    os.mkdir(temporary, 0o700, dir_fd=work.fd)
    os.chown(temporary, st.st_uid, st.st_gid, dir_fd=work.fd)
    os.chmod(temporary, stat.S_IMODE(st.st_mode), dir_fd=work.fd)
    if node.lowers:
        tree.marks.set(work.fd, temporary, tree.marks.opaque, b"y")
    renameat2(work.fd, temporary, upper.fd, path, RENAME_EXCHANGE)
    _keep_or_remove(tree, node, temporary, st)


def _is_held(node: Node) -> bool:
    return bool(node.refs or node.opens)


def _is_open(node: Node) -> bool:
    """True if a descriptor may lead to the node. FIFOs and devices the kernel opens itself: as long as it knows them, they may be open."""
    return bool(node.opens or (node.refs and node.kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)))


def _keep_or_remove(tree: Tree, node: Node, temporary: bytes, st: os.stat_result) -> None:
    if _is_held(node):
        home = tree.orphanage()
        os.rename(temporary, home, src_dir_fd=tree.work.fd, dst_dir_fd=tree.work.fd)
        utimensat(tree.work.fd, home, (0, UTIME_OMIT), divmod(st.st_mtime_ns, 10**9))  # xfs takes an exchange for a change of the directory
        node.home = home
    else:
        tree.remove_directory(temporary)


def put_whiteout(tree: Tree, path: bytes, over: bool) -> None:
    """Hide a name of the lower by a whiteout at `path` in the upper; `over`: in place of the non-directory that is there."""
    upper, work = tree.upper, tree.work
    if not over:
        dir_fd, path = near(upper.fd, path)
        os.mknod(path, stat.S_IFCHR, 0, dir_fd=dir_fd)
        return
    temporary = tree.temporary()
    os.mknod(temporary, stat.S_IFCHR, 0, dir_fd=work.fd)
    rename(work.fd, temporary, upper.fd, path)
