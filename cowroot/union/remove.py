"""Removing names: unlink, rmdir, and the whiteouts that hide what is below."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress

from cowroot.union.attributes import attr_of, getattr_
from cowroot.union.copyup import copy_up
from cowroot.union.index import LinkCount
from cowroot.union.listing import count_subdirectory, listing
from cowroot.union.node import UNKNOWN, Attr, Node
from cowroot.union.syscalls import RENAME_EXCHANGE, UTIME_OMIT, near, rename, renameat2, through, utimensat
from cowroot.union.tree import Tree, fail


def unlink(tree: Tree, parent: Node, name: bytes) -> None:
    """Remove a name of anything but a directory. Raises OSError: ENOENT, EISDIR, EROFS."""
    node = tree.lookup(parent, name)
    if node.kind == stat.S_IFDIR:
        fail(errno.EISDIR, name)
    covered = not node.upper or tree.covers(parent, name)
    if covered:
        copy_up(tree, parent)
    path = tree.child_path(parent, name)
    in_upper = has_upper_name(tree, node, path)
    with Departure(tree, node, parent, name):
        if covered:
            put_whiteout(tree, path, over=in_upper)
        else:
            dir_fd, path = near(tree.upper.fd, path)
            os.unlink(path, dir_fd=dir_fd)


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

    A context in which the name is removed from the upper. Where that fails, the node is as it was before.
    """

    def __init__(self, tree: Tree, node: Node, parent: Node, name: bytes) -> None:
        self._tree, self._node, self._parent, self._name = tree, node, parent, name
        known_elsewhere = bool(node.others) or (node.parent, node.name) != (parent, name)
        self._vanishes = not known_elsewhere
        self._last = self._attributes_after()
        self._written = tree.write_links(node, self._last.nlink) if node.origin is not None and self._last.nlink > 0 else None
        self._orphaned = self._vanishes and _is_open(node) and node.upper and node.home is None and node.kind != stat.S_IFDIR

    def __enter__(self) -> None:
        tree, node = self._tree, self._node
        if not self._orphaned:
            tree.watch.leaving(node, self._last, node.home, self._vanishes)
            return
        home = tree.orphanage()
        fd, path = tree.place(node)
        tree.watch.leaving(node, self._last, home, self._vanishes)
        os.link(path, home, src_dir_fd=fd, dst_dir_fd=tree.work.fd, follow_symlinks=False)
        node.home = home

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._done()
        else:
            self._undo()

    def _undo(self) -> None:
        if self._written is not None:
            self._written.drop()
        if self._orphaned and self._node.home is not None:
            os.unlink(self._node.home, dir_fd=self._tree.work.fd)
            self._node.home = None

    def _attributes_after(self) -> Attr:
        tree, node = self._tree, self._node
        if not node.upper and node.origin is None:
            return Attr(node.ino, node.kind, *UNKNOWN)  # it stays where it is, so that is all that anybody will have to be told
        if self._vanishes and node.refs and not node.opens and node.upper and node.kind in (stat.S_IFREG, stat.S_IFLNK):
            attr = attr_of(tree, node, os.fstat(tree.removed.hold(node, *tree.place(node))))
        else:
            attr = getattr_(tree, node)
        return Attr(*attr[:2], 0 if node.kind == stat.S_IFDIR else attr.nlink - 1, *attr[3:])

    def _done(self) -> None:
        tree, node = self._tree, self._node
        tree.detach(node, self._parent, self._name)
        count_links(tree, node, self._last, self._written)
        if not self._vanishes:
            return
        if node.upper and node.home is None:
            node.last = self._last
        if node.opens or node.refs:
            tree.watch.left(node, self._last)
        else:
            tree.evict(node)


def count_links(tree: Tree, node: Node, last: Attr, written: LinkCount | None = None) -> None:
    """A node has lost a name, and has the attributes `last` now: keep its link count, where no backing file does.

    Arguments: `written`: the count, if it lies in the work directory already.
    """
    if node.origin is None and node.upper:
        return
    node.links = last.nlink
    node.ctime_ns = time.time_ns()
    if node.origin is None:
        return
    if node.links > 0:
        tree.store_links(node, written)
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
    covered = not node.upper or tree.covers(parent, name)
    if covered:
        copy_up(tree, parent)
    path = tree.child_path(parent, name)
    with Departure(tree, node, parent, name):
        if node.upper:
            _take_away(tree, node, path, covered)
        else:
            put_whiteout(tree, path, over=False)
        count_subdirectory(parent, -1)


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
    place = _place_for(tree, node)
    if not covered:
        rename(upper.fd, path, work.fd, place)
        _keep_or_remove(tree, node, place, None)
        return
    st = upper.stat(path)
    os.mknod(place, stat.S_IFCHR, 0, dir_fd=work.fd)
    try:
        renameat2(work.fd, place, upper.fd, path, RENAME_EXCHANGE)
    except BaseException:
        os.unlink(place, dir_fd=work.fd)
        raise
    _keep_or_remove(tree, node, place, st)


class StandIn:
    """A context in which a directory is renamed over the upper's directory at `path`, which shows nothing: a really empty one is there.

    An empty stand-in takes its place at once, so that nothing hidden comes to light and whoever holds the old one keeps it. Where
    renaming fails, the old one takes it back.
    """

    def __init__(self, tree: Tree, node: Node, path: bytes) -> None:
        self._tree, self._node, self._path = tree, node, path
        self._temporary = b""

    def __enter__(self) -> None:
        tree, path = self._tree, self._path
        upper, work = tree.upper, tree.work
        if not _is_held(self._node) and not os.listdir(through(upper.fd, path)):
            return
        st = self._st = upper.stat(path)
        temporary = _place_for(tree, self._node)
        os.mkdir(temporary, 0o700, dir_fd=work.fd)
        try:
            os.chown(temporary, st.st_uid, st.st_gid, dir_fd=work.fd)
            os.chmod(temporary, stat.S_IMODE(st.st_mode), dir_fd=work.fd)
            if self._node.lowers:
                tree.marks.set(work.fd, temporary, tree.marks.opaque, b"y")
            renameat2(work.fd, temporary, upper.fd, path, RENAME_EXCHANGE)
        except BaseException:
            os.rmdir(temporary, dir_fd=work.fd)
            raise
        self._temporary = temporary

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        tree, temporary = self._tree, self._temporary
        if not temporary:
            return
        if error is None:
            _keep_or_remove(tree, self._node, temporary, self._st)
        else:
            renameat2(tree.work.fd, temporary, tree.upper.fd, self._path, RENAME_EXCHANGE)
            os.rmdir(temporary, dir_fd=tree.work.fd)


def _is_held(node: Node) -> bool:
    return bool(node.refs or node.opens)


def _is_open(node: Node) -> bool:
    """True if a descriptor may lead to the node. FIFOs and devices the kernel opens itself: as long as it knows them, they may be open."""
    return bool(node.opens or (node.refs and node.kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)))


def _place_for(tree: Tree, node: Node) -> bytes:
    """Where in the work directory the node's directory is to go, which is about to lose its name."""
    return tree.orphanage() if _is_held(node) else tree.temporary()


def _keep_or_remove(tree: Tree, node: Node, place: bytes, exchanged: os.stat_result | None) -> None:
    """The node's directory has gone to `place`: what becomes of it must not have the call fail. What stays behind the next mount removes.

    Arguments: `exchanged`: what it was like before, if it went there in exchange for something.
    """
    if _is_held(node):
        node.home = place
    with suppress(OSError):
        if not _is_held(node):
            tree.remove_directory(place)
        elif exchanged is not None:  # which xfs takes for a change of the directory
            utimensat(tree.work.fd, place, (0, UTIME_OMIT), divmod(exchanged.st_mtime_ns, 10**9))


def put_whiteout(tree: Tree, path: bytes, over: bool) -> None:
    """Hide a name of the lower by a whiteout at `path` in the upper; `over`: in place of the non-directory that is there."""
    upper, work = tree.upper, tree.work
    if not over:
        dir_fd, path = near(upper.fd, path)
        os.mknod(path, stat.S_IFCHR, 0, dir_fd=dir_fd)
        return
    temporary = tree.temporary()
    os.mknod(temporary, stat.S_IFCHR, 0, dir_fd=work.fd)
    try:
        rename(work.fd, temporary, upper.fd, path)
    except BaseException:
        os.unlink(temporary, dir_fd=work.fd)
        raise
