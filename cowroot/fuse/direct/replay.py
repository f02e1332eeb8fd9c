"""Requests that were in hand when a predecessor was killed: done again, or found to be done.

Nobody but this request could touch what it was about: the kernel holds the locks of the directories and files concerned until it is
answered. So what is found on the disk now is either the state before it, or what it left. Most requests can simply be done again.
What changes names cannot; there the disk is asked first.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat
from collections.abc import Container
from typing import Callable, Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.direct import replies
from cowroot.fuse.direct.names import Names
from cowroot.fuse.direct.request import Request
from cowroot.fuse.direct.session import Session
from cowroot.union import Node
from cowroot.union.copyup import mark_impure
from cowroot.union.listing import listing
from cowroot.union.portrait import last_of
from cowroot.union.remove import count_links
from cowroot.union.syscalls import RENAME_EXCHANGE
from cowroot.union.watch import Watch

XATTR_CREATE = 1
_MOVES_NAMES = (p.UNLINK, p.RMDIR, p.RENAME, p.RENAME2)


class Replay:
    """Finds out, for one request in hand after the other, how far it had come. `handles`: numbers of the open files."""

    def __init__(self, session: Session, names: Names, handles: Container[int]) -> None:
        self._session = session
        self._names = names
        self._handles = handles
        self._union = session.union
        self._nodes = session.nodes
        self._checks: dict[int, Callable[[Request, Node], Optional[bytes]]] = {
            p.CREATE: self._created, p.MKNOD: self._created, p.MKDIR: self._created, p.SYMLINK: self._created, p.LINK: self._linked,
            p.UNLINK: self._removed, p.RMDIR: self._removed, p.RENAME: self._renamed, p.RENAME2: self._renamed,
            p.FORGET: self._forgotten, p.BATCH_FORGET: self._forgotten, p.SETXATTR: self._xattr_set,
            p.REMOVEXATTR: self._xattr_removed, p.RELEASE: self._released,
        }  # fmt: skip

    def clear_names(self, request: Request, node: Node) -> bytes | None:
        """What has to come first: where names were taken away or moved, say so before anybody is looked for by the old ones.

        Returns the answer to a request that turns out to be done, or None.
        """
        self._put_back_times(request)
        return self.answer(request, node) if request.opcode in _MOVES_NAMES else None

    def answer(self, request: Request, node: Node) -> bytes | None:
        """The answer to a request that turns out to be done; None if it is to be done (again). Empty where no answer is expected."""
        check = self._checks.get(request.opcode)
        return check(request, node) if check is not None else None

    def _inode(self, parent: Node, name: bytes) -> int | None:
        """The inode that the disk has under a name now; None if there is nothing. Nobody learns of it."""
        tree = self._union.tree
        assert parent.children is not None
        if name in parent.children:
            return parent.children[name].ino
        watch, tree.watch = tree.watch, Watch()
        try:
            node = tree.lookup(parent, name)
            if node.refs or node.opens or node.others:
                tree.detach(node, parent, name)
            else:
                tree.evict(node)
            return node.ino
        except FileNotFoundError:
            return None
        finally:
            tree.watch = watch
            self._union.forget_found()

    def _put_back_times(self, request: Request) -> None:
        """Of the directory that got a copy of what is in it below."""
        number, *times = request.slot.disturbed
        directory = self._nodes.get(number) if number else None
        if directory is not None and directory.upper:
            dir_fd, path = self._union.tree.place(directory)
            os.utime(path, ns=(times[0], times[1]), dir_fd=dir_fd, follow_symlinks=False)
            self._session.tell_stale(directory)

    # -- names that came

    def _created(self, request: Request, parent: Node) -> None:
        """Take away what the predecessor has made of it, which may lack its owner or mode, so that it can be made anew."""
        if request.opcode == p.SYMLINK:
            name, target = request.name_and_text(0)
        else:
            start = {p.CREATE: p.CREATE_IN.size, p.MKNOD: p.MKNOD_IN.size, p.MKDIR: p.MKDIR_IN.size}[request.opcode]
            name, target = request.name(start), b""
        self._nodes.disown(parent, name)
        try:
            node = self._union.lookup(parent, name)
        except FileNotFoundError:
            return
        if node.kind == stat.S_IFDIR:
            if request.opcode == p.MKDIR and not listing(self._union.tree, node):
                self._union.rmdir(parent, name)
        elif node.kind == stat.S_IFLNK:
            if request.opcode == p.SYMLINK and self._union.readlink(node) == target:
                self._union.unlink(parent, name)
        elif request.opcode in (p.CREATE, p.MKNOD):
            attr = self._union.getattr(node)
            if attr.size == 0 and attr.nlink == 1:
                self._union.unlink(parent, name)

    def _linked(self, request: Request, parent: Node) -> bytes | None:
        session = self._session
        node = self._nodes.get(p.U64.unpack_from(request.view, p.BODY)[0])
        name = request.name(p.U64.size)
        if node is None or self._inode(parent, name) != node.ino:
            return None
        noted, links, _, _ = request.slot.moving
        self._union.lookup(parent, name)
        if noted and node.origin is not None:
            node.links = links
            self._union.tree.store_links(node)
        return session.entry(request, node)

    # -- names that went

    def _removed(self, request: Request, parent: Node) -> bytes | None:
        name = request.name(0)
        if self._inode(parent, name) is not None:
            return None
        self._depart(request, parent, name)
        self._session.tell_stale(parent)
        return replies.ok(request.unique)

    def _depart(self, request: Request, parent: Node, name: bytes) -> None:
        """Finish what the predecessor had begun with a node that lost a name (Departure in cowroot/union/remove.py)."""
        if request.slot.leaving:
            number, vanishes, description = marshal.loads(request.slot.leaving)
            self._nodes.take_name(number, parent, name)
            node = self._nodes.bereave(number, description) if vanishes else self._nodes.get(number)
            if node is not None:
                count_links(self._union.tree, node, last_of(description))

    def _renamed(self, request: Request, parent: Node) -> bytes | None:
        session = self._session
        layout = p.RENAME2_IN if request.opcode == p.RENAME2 else p.U64
        new_parent_id, *rest = layout.unpack_from(request.view, p.BODY)
        name, new_name = request.two_names(layout.size)
        new_parent = self._nodes.get(new_parent_id)
        source, source_ino, target, target_ino = request.slot.moving
        if new_parent is None or not source_ino:
            return None
        exchange = bool(rest and rest[0] & RENAME_EXCHANGE)
        there, here = self._inode(new_parent, new_name), self._inode(parent, name)
        if there != source_ino or here == source_ino or (exchange and here != target_ino):
            return None
        if exchange:
            self._nodes.move(target, parent, name)
        elif target:
            self._depart(request, new_parent, new_name)
        self._nodes.move(source, new_parent, new_name)
        for directory in (parent, new_parent):
            mark_impure(self._union.tree, directory)
            session.tell_stale(directory)
        for number in (source, target):
            node = self._nodes.get(number) if number else None
            if node is not None:
                session.tell_stale(node)
                session.tell_moved(node)
        return replies.ok(request.unique)

    def _forgotten(self, request: Request, node: Node) -> bytes | None:
        number, left, index, _ = request.slot.moving
        if not number:
            return None
        done = self._nodes.held(number) == left
        if request.opcode == p.BATCH_FORGET:
            self._names.forget_from(request, index + done)
            return b""
        return b"" if done else None

    # -- the rest

    def _xattr_set(self, request: Request, node: Node) -> bytes | None:
        name, value, flags, _ = self._session.attribute_to_set(request)
        if not flags & XATTR_CREATE:
            return None
        try:
            return replies.ok(request.unique) if self._union.getxattr(node, name) == value else None
        except OSError:
            return None

    def _xattr_removed(self, request: Request, node: Node) -> bytes | None:
        """Done if it is gone that was there before."""
        noted, _, _, _ = request.slot.moving
        try:
            self._union.getxattr(node, request.text(0))
        except OSError as e:
            if e.errno == errno.ENODATA and noted:
                return replies.ok(request.unique)
        return None

    def _released(self, request: Request, node: Node) -> bytes | None:
        (handle,) = p.U64.unpack_from(request.view, p.BODY)
        return None if handle in self._handles else replies.ok(request.unique)
