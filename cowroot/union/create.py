"""New names: files, directories, symbolic links, devices, hard links.

Objects are made by the upper's own file system right in their directory, so that setgid directories, default ACLs and the umask work
as they do there. Only where a whiteout is in the way is the object made in the work directory and renamed over it, since removing
the whiteout first would, after a crash, bring back what it hid.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Callable

from cowroot.union.copyup import copy_up, mark_impure
from cowroot.union.listing import count_subdirectory
from cowroot.union.node import Caller, Handle, Node
from cowroot.union.syscalls import RENAME_EXCHANGE, near, rename, renameat2, through
from cowroot.union.tree import Tree, fail

SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

Make = Callable[[int, bytes], None]


def mknod(tree: Tree, parent: Node, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
    """Make a regular file, FIFO, socket or device."""
    kind = stat.S_IFMT(mode) or stat.S_IFREG

    def make(dir_fd: int, path: bytes) -> None:
        os.mknod(path, kind | (mode & 0o777), rdev, dir_fd=dir_fd)
        if kind == stat.S_IFCHR and rdev == 0:
            tree.marks.set(dir_fd, path, tree.marks.device, b"y")  # else it would be a whiteout
        own(dir_fd, path, mode & SPECIAL_BITS, caller)

    path = place_new(tree, parent, name, make, caller)
    return tree.add_upper(kind, parent, name, tree.upper.stat(path))


def create(tree: Tree, parent: Node, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
    """Make a regular file and open it."""
    opened = -1

    def make(dir_fd: int, path: bytes) -> None:
        nonlocal opened
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode & 0o777, dir_fd=dir_fd)
        own(dir_fd, path, mode & SPECIAL_BITS, caller)

    try:
        place_new(tree, parent, name, make, caller)
        node = tree.add_upper(stat.S_IFREG, parent, name, os.fstat(opened))
    except BaseException:
        if opened >= 0:
            os.close(opened)
        raise
    node.fd, node.fd_writable, node.opens = opened, True, 1
    tree.descriptors.opened(node)
    return node, Handle(node, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))


def tmpfile(tree: Tree, parent: Node, mode: int, flags: int, caller: Caller) -> tuple[Node, Handle]:
    """Make a regular file without a name (O_TMPFILE) and open it; `link` can give it one."""
    copy_up(tree, parent)
    staging = _staging(tree, parent)
    temporary = staging + b"/file"
    _set_umask(caller.umask)
    opened, home = -1, tree.orphanage()
    try:
        opened = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode & 0o777, dir_fd=tree.work.fd)
        own(tree.work.fd, temporary, mode & SPECIAL_BITS, caller)
        os.rename(temporary, home, src_dir_fd=tree.work.fd, dst_dir_fd=tree.work.fd)
    except BaseException:
        if opened >= 0:
            os.close(opened)
            _remove_made(tree.work.fd, temporary, False)
        raise
    finally:
        _remove_made(tree.work.fd, staging, True)
    node = Node(stat.S_IFREG, tree.numbers.ino(tree.upper.fs, os.fstat(opened).st_ino), None, b"", True, ())
    tree.count += 1
    node.home = home
    node.fd, node.fd_writable, node.opens = opened, True, 1
    tree.descriptors.opened(node)
    return node, Handle(node, flags & ~os.O_TMPFILE)


def mkdir(tree: Tree, parent: Node, name: bytes, mode: int, caller: Caller) -> Node:
    """Make a directory."""

    def make(dir_fd: int, path: bytes) -> None:
        os.mkdir(path, mode & 0o777, dir_fd=dir_fd)
        own(dir_fd, path, mode & SPECIAL_BITS, caller)

    path = place_new(tree, parent, name, make, caller, directory=True)
    count_subdirectory(parent, +1)
    return tree.add_upper(stat.S_IFDIR, parent, name, tree.upper.stat(path))


def symlink(tree: Tree, parent: Node, name: bytes, target: bytes, caller: Caller) -> Node:
    """Make a symbolic link to `target`."""

    def make(dir_fd: int, path: bytes) -> None:
        os.symlink(target, path, dir_fd=dir_fd)
        own(dir_fd, path, 0, caller)

    path = place_new(tree, parent, name, make, caller)
    return tree.add_upper(stat.S_IFLNK, parent, name, tree.upper.stat(path))


def link(tree: Tree, node: Node, parent: Node, name: bytes) -> Node:
    """Give a file one more name; also one that has none (any more) but is open."""
    if node.kind == stat.S_IFDIR:
        fail(errno.EPERM, name)
    if node.last is not None:
        fail(errno.ENOENT, name)
    copy_up(tree, node)
    upper_ino = 0

    def make(dir_fd: int, path: bytes) -> None:
        nonlocal upper_ino
        source_fd, source = tree.place(node)
        upper_ino = os.stat(source, dir_fd=source_fd, follow_symlinks=False).st_ino
        if node.ino != tree.numbers.ino(tree.upper.fs, upper_ino):
            mark_impure(tree, parent)
        os.link(source, path, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False)

    written = tree.write_links(node, node.links + 1) if node.links is not None and node.origin is not None else None
    try:
        place_new(tree, parent, name, make, None)
    except BaseException:
        if written is not None:
            written.drop()
        raise
    tree.register_upper(node, upper_ino)
    if written is not None:
        tree.store_links(node, written)
    return tree.attach(node, parent, name)


def place_new(tree: Tree, parent: Node, name: bytes, make: Make, caller: Caller | None, directory: bool = False) -> bytes:
    """Have `make(dir_fd, path)` make something that becomes `name` in `parent`. Returns its path in the upper.

    Raises OSError: EEXIST if the name is taken, ENOENT if the directory is gone, EROFS, and what the upper answers.
    """
    if parent.children is None:
        fail(errno.ENOTDIR, name)
    upper = tree.upper
    if name in parent.children:
        fail(errno.EEXIST, name)
    if tree.is_removed(parent):
        fail(errno.ENOENT, name)
    copy_up(tree, parent)
    path = tree.child_path(parent, name)
    covered = tree.covers(parent, name)
    tree.take(parent, name)
    if caller is not None:
        _set_umask(caller.umask)
    if not covered:
        dir_fd, near_path = near(upper.fd, path)
        try:
            make(dir_fd, near_path)
            return path
        except FileExistsError:
            pass
        except BaseException:
            _remove_made(dir_fd, near_path, directory)
            raise
    try:
        if not tree.marks.is_whiteout(upper.fd, path, upper.stat(path)):
            fail(errno.EEXIST, name)
    except FileNotFoundError:
        fail(errno.EEXIST, name)  # it is in the lower
    _place_over_whiteout(tree, parent, path, make, directory, opaque=covered)
    return path


def _place_over_whiteout(tree: Tree, parent: Node, path: bytes, make: Make, directory: bool, opaque: bool) -> None:
    work, upper = tree.work, tree.upper
    staging = _staging(tree, parent)
    made = staging + b"/new"
    try:
        make(work.fd, made)
        if directory:
            if opaque:
                tree.marks.set(work.fd, made, tree.marks.opaque, b"y")
            renameat2(work.fd, made, upper.fd, path, RENAME_EXCHANGE)
            _remove_made(work.fd, made, False)  # the whiteout
        else:
            rename(work.fd, made, upper.fd, path)
    except BaseException:
        _remove_made(work.fd, made, directory)
        raise
    finally:
        _remove_made(work.fd, staging, True)


def _remove_made(dir_fd: int, path: bytes, directory: bool) -> None:
    """Remove what could not be made as it should be, if it came to be at all. What stays in the work directory the next mount removes."""
    with suppress(OSError):
        (os.rmdir if directory else os.unlink)(path, dir_fd=dir_fd)


def _staging(tree: Tree, parent: Node) -> bytes:
    """A temporary directory that hands down group and default ACL as `parent`, which is in the upper, does."""
    work = tree.work
    staging = tree.temporary()
    fd, path = tree.place(parent)
    st = os.stat(path, dir_fd=fd, follow_symlinks=False)
    os.mkdir(staging, 0o700, dir_fd=work.fd)
    if st.st_mode & stat.S_ISGID:
        os.chown(staging, -1, st.st_gid, dir_fd=work.fd)
    os.chmod(staging, 0o700 | (st.st_mode & stat.S_ISGID), dir_fd=work.fd)
    try:
        acl = os.getxattr(through(fd, path), "system.posix_acl_default", follow_symlinks=False)
    except OSError:
        return staging
    os.setxattr(through(work.fd, staging), "system.posix_acl_default", acl)
    return staging


def own(dir_fd: int, path: bytes, special: int, caller: Caller) -> None:
    """Give a new object to its creator, and set its `special` bits (setuid, setgid, sticky), which chown would clear."""
    me = os.geteuid(), os.getegid()
    if caller.uid != me[0] or caller.gid != me[1]:
        st = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        # a group other than ours was handed down by a setgid directory
        gid = caller.gid if st.st_gid == me[1] and not _inherits_group(dir_fd, path) else -1
        os.chown(path, caller.uid, gid, dir_fd=dir_fd, follow_symlinks=False)
        if special and not stat.S_ISLNK(st.st_mode):
            os.chmod(path, stat.S_IMODE(st.st_mode) | special, dir_fd=dir_fd)
    elif special:
        st = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        os.chmod(path, stat.S_IMODE(st.st_mode) | special, dir_fd=dir_fd)


def _inherits_group(dir_fd: int, path: bytes) -> bool:
    parent = os.path.dirname(path) or b"."
    return bool(os.stat(parent, dir_fd=dir_fd).st_mode & stat.S_ISGID)


_umask = -1


def _set_umask(umask: int) -> None:
    """Let the upper's file system apply the caller's umask: it knows whether a default ACL takes its place."""
    global _umask
    if umask != _umask:
        os.umask(umask)
        _umask = umask
