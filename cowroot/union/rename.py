"""rename(2): within the upper, leaving whiteouts where the lower would show through, and redirects where it must follow."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager, nullcontext

from cowroot.union import syscalls
from cowroot.union.copyup import copy_up, link_name, mark_impure
from cowroot.union.listing import count_subdirectory, listing
from cowroot.union.marks import REDIRECT_MAX
from cowroot.union.node import Node
from cowroot.union.remove import Departure, StandIn, has_upper_name, put_whiteout
from cowroot.union.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, UTIME_OMIT, near, renameat2, utimensat
from cowroot.union.tree import Tree, fail

_NOBODY_LEAVES: AbstractContextManager[object] = nullcontext()


def rename(tree: Tree, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int) -> None:
    """Rename, in any direction, directories of any layer too: their contents stay where they are.

    Arguments: `flags`: RENAME_NOREPLACE, RENAME_EXCHANGE; RENAME_WHITEOUT, which leaves a character device 0:0, as on any file system.
    Raises OSError: those of rename(2).
    """
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) or (flags & RENAME_EXCHANGE and flags != RENAME_EXCHANGE):
        fail(errno.EINVAL, name)
    node = tree.lookup(parent, name)
    if tree.is_removed(new_parent):
        fail(errno.ENOENT, new_name)
    target = tree.find(new_parent, new_name)
    _check(tree, node, target, new_parent, new_name, flags)
    if target is node:
        return  # two names of one file: nothing happens, says POSIX
    tree.take(new_parent, new_name)
    tree.watch.moving(node, target)
    if flags & RENAME_EXCHANGE:
        assert target is not None
        _exchange(tree, node, parent, name, target, new_parent, new_name)
    else:
        _move(tree, node, parent, name, target, new_parent, new_name, bool(flags & RENAME_WHITEOUT))


def _check(tree: Tree, node: Node, target: Node | None, new_parent: Node, new_name: bytes, flags: int) -> None:
    if _is_below(new_parent, node):
        fail(errno.EINVAL, new_name)
    if target is None:
        if flags & RENAME_EXCHANGE:
            fail(errno.ENOENT, new_name)
        return
    if flags & RENAME_NOREPLACE:
        fail(errno.EEXIST, new_name)
    if flags & RENAME_EXCHANGE or target is node:
        return
    if node.kind != stat.S_IFDIR and target.kind == stat.S_IFDIR:
        fail(errno.EISDIR, new_name)
    if node.kind == stat.S_IFDIR and target.kind != stat.S_IFDIR:
        fail(errno.ENOTDIR, new_name)
    if target.kind == stat.S_IFDIR and listing(tree, target):
        fail(errno.ENOTEMPTY, new_name)


def _is_below(node: Node, ancestor: Node) -> bool:
    here: Node | None = node
    while here is not None:
        if here is ancestor:
            return True
        here = here.parent
    return False


def _bring_up(tree: Tree, node: Node, parent: Node, name: bytes) -> bytes:
    """Have this name of the node in the upper, and its directory. Returns its path there."""
    copy_up(tree, parent)
    copy_up(tree, node)
    path = tree.child_path(parent, name)
    if node.origin is not None and not has_upper_name(tree, node, path):
        link_name(tree, node, parent, name)
    return path


def _let_lower_follow(tree: Tree, node: Node, path: bytes, new_parent: Node, new_name: bytes) -> None:
    """Before a directory of the upper, at `path`, gets its new name: say where its lower part is, or that it has none."""
    marks, upper = tree.marks, tree.upper
    if node.lowers:
        redirect = b"/" + tree.lower_path(node)
        if len(redirect) > REDIRECT_MAX:
            fail(errno.ENAMETOOLONG, new_name)
        marks.set(upper.fd, path, marks.redirect, redirect)
        node.redirect = redirect[1:]
    elif tree.covers(new_parent, new_name):
        marks.set(upper.fd, path, marks.opaque, b"y")


def _move(
    tree: Tree, node: Node, parent: Node, name: bytes, target: Node | None, new_parent: Node, new_name: bytes, leave_device: bool
) -> None:
    upper = tree.upper
    path = _bring_up(tree, node, parent, name)
    copy_up(tree, new_parent)
    new_path = tree.child_path(new_parent, new_name)
    covered = leave_device or tree.covers(parent, name)
    if node.kind == stat.S_IFDIR:
        _let_lower_follow(tree, node, path, new_parent, new_name)
    if parent is not new_parent and node.ino != _upper_number(tree, path):
        mark_impure(tree, new_parent)
    departure = stand_in = _NOBODY_LEAVES
    if target is not None:
        departure = Departure(tree, target, new_parent, new_name)
    if node.kind == stat.S_IFDIR and target is not None and target.upper:
        stand_in = StandIn(tree, target, new_path)
    with departure, stand_in:
        _move_object(tree, node, path, new_path, covered)
        if leave_device:
            tree.marks.set(upper.fd, path, tree.marks.device, b"y")
    tree.detach(node, parent, name)
    tree.attach(node, new_parent, new_name)
    if node.kind == stat.S_IFDIR:
        count_subdirectory(parent, -1)
        count_subdirectory(new_parent, +1 - (target is not None))


def _move_object(tree: Tree, node: Node, path: bytes, new_path: bytes, covered: bool) -> None:
    """Rename what the upper has; `covered`: a whiteout has to stay behind."""
    upper = tree.upper
    if node.kind == stat.S_IFDIR and _is_whiteout_at(tree, new_path):
        # a directory cannot be renamed over the whiteout, but change places with it
        before = upper.stat(path)
        renameat2(upper.fd, path, upper.fd, new_path, RENAME_EXCHANGE)
        utimensat(upper.fd, new_path, (0, UTIME_OMIT), divmod(before.st_mtime_ns, 10**9))  # xfs takes an exchange for a change of both
        if not covered:
            dir_fd, near_path = near(upper.fd, path)
            os.unlink(near_path, dir_fd=dir_fd)
    elif covered:
        _rename_leaving_whiteout(tree, path, new_path)
    else:
        syscalls.rename(upper.fd, path, upper.fd, new_path)


def _rename_leaving_whiteout(tree: Tree, path: bytes, new_path: bytes) -> None:
    upper = tree.upper
    try:
        renameat2(upper.fd, path, upper.fd, new_path, RENAME_WHITEOUT)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        # a file system without it: for a moment the name shows what is in the lower
        syscalls.rename(upper.fd, path, upper.fd, new_path)
        put_whiteout(tree, path, over=False)


def _is_whiteout_at(tree: Tree, path: bytes) -> bool:
    try:
        return tree.marks.is_whiteout(tree.upper.fd, path, tree.upper.stat(path))
    except FileNotFoundError:
        return False


def _upper_number(tree: Tree, path: bytes) -> int:
    return tree.numbers.ino(tree.upper.fs, tree.upper.stat(path).st_ino)


def _exchange(tree: Tree, node: Node, parent: Node, name: bytes, target: Node, new_parent: Node, new_name: bytes) -> None:
    if _is_below(parent, target):
        fail(errno.EINVAL, name)
    upper = tree.upper
    path = _bring_up(tree, node, parent, name)
    new_path = _bring_up(tree, target, new_parent, new_name)
    if node.kind == stat.S_IFDIR:
        _let_lower_follow(tree, node, path, new_parent, new_name)
    if target.kind == stat.S_IFDIR:
        _let_lower_follow(tree, target, new_path, parent, name)
    for directory in (parent, new_parent):
        mark_impure(tree, directory)
    renameat2(upper.fd, path, upper.fd, new_path, RENAME_EXCHANGE)
    tree.detach(node, parent, name)
    tree.detach(target, new_parent, new_name)
    tree.attach(node, new_parent, new_name)
    tree.attach(target, parent, name)
    if node.kind != target.kind:
        change = (node.kind == stat.S_IFDIR) - (target.kind == stat.S_IFDIR)
        count_subdirectory(parent, -change)
        count_subdirectory(new_parent, change)
