"""Requests about names: look-up, creation, removal, renaming, and forgetting."""

from __future__ import annotations

import errno
from typing import Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.direct import replies
from cowroot.fuse.direct.request import Request, checked_name
from cowroot.fuse.direct.session import Handler, Session
from cowroot.union import Caller, Node
from cowroot.union.tree import fail

_RELATIVE = (b".", b"..")


class Names:
    """Handlers, over one session.

    After each change the kernel itself drops what it knows of the directory, and the ctime of what was renamed or lost a name
    (fuse_dir_changed, fuse_update_ctime in fs/fuse/dir.c).
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._union = session.union
        self._nodes = session.nodes

    def handlers(self) -> dict[int, Handler]:
        return {
            p.LOOKUP: self.lookup, p.FORGET: self.forget, p.BATCH_FORGET: self.batch_forget, p.MKNOD: self._changing(self.mknod),
            p.MKDIR: self._changing(self.mkdir), p.SYMLINK: self._changing(self.symlink), p.LINK: self._changing(self.link),
            p.UNLINK: self._changing(self.unlink), p.RMDIR: self._changing(self.rmdir), p.RENAME: self._changing(self.rename),
            p.RENAME2: self._changing(self.rename2),
        }  # fmt: skip

    def _changing(self, handler: Handler) -> Handler:
        """The same for what changes the directory that it is about."""
        changed = self._session.changed

        def answer(request: Request, parent: Node) -> Optional[bytes]:
            reply = handler(request, parent)
            changed(parent)
            return reply

        return answer

    def lookup(self, request: Request, parent: Node) -> bytes:
        session = self._session
        name = bytes(request.view[p.BODY : request.size - 1])
        node = self._union.find(parent, checked_name(name)) if name not in _RELATIVE else self._relative(parent, name)
        if node is None:
            return replies.no_entry(request.unique)
        reply = request.slot.answer = session.entry(request, node)
        return reply

    @staticmethod
    def _relative(node: Node, name: bytes) -> Node:
        """What the kernel asks for to turn a file handle (NFS, open_by_handle_at) back into a place in the tree."""
        found = node if name == b"." else node.parent
        if found is None:
            fail(errno.ESTALE)
        return found

    def forget(self, request: Request, node: Node) -> None:
        (count,) = p.U64.unpack_from(request.view, p.BODY)
        self._forget(request, request.nodeid, count, 0)

    def batch_forget(self, request: Request, node: Node) -> None:
        self.forget_from(request, 0)

    def forget_from(self, request: Request, first: int) -> None:
        """Do a BATCH_FORGET, from its entry number `first` on."""
        (count,) = p.U32.unpack_from(request.view, p.BODY)
        start, end = (p.BODY + 8 + number * p.FORGET_ONE.size for number in (first, count))
        for index, (nodeid, lookups) in enumerate(p.FORGET_ONE.iter_unpack(request.view[start:end]), first):
            self._forget(request, nodeid, lookups, index)

    def _forget(self, request: Request, nodeid: int, lookups: int, index: int) -> None:
        left = max(self._nodes.held(nodeid) - lookups, 0)
        request.slot.moving = nodeid, left, index, 0  # counting down twice would lose what the kernel still has
        self._nodes.forget(nodeid, lookups)

    # -- creation: modes come unmasked (DONT_MASK), since only the upper knows whether a default ACL takes the mask's place

    def mknod(self, request: Request, parent: Node) -> bytes:
        session = self._session
        mode, rdev, umask, _ = p.MKNOD_IN.unpack_from(request.view, p.BODY)
        name = request.name(p.MKNOD_IN.size)
        return session.entry(request, self._union.mknod(parent, name, mode, rdev, Caller(request.uid, request.gid, umask)))

    def mkdir(self, request: Request, parent: Node) -> bytes:
        session = self._session
        mode, umask = p.MKDIR_IN.unpack_from(request.view, p.BODY)
        name = request.name(p.MKDIR_IN.size)
        return session.entry(request, self._union.mkdir(parent, name, mode, Caller(request.uid, request.gid, umask)))

    def symlink(self, request: Request, parent: Node) -> bytes:
        session = self._session
        name, target = request.name_and_text(0)
        return session.entry(request, self._union.symlink(parent, name, target, Caller(request.uid, request.gid)))

    def link(self, request: Request, parent: Node) -> bytes:
        session = self._session
        node = self._nodes.get(p.U64.unpack_from(request.view, p.BODY)[0])
        if node is None:
            fail(errno.ESTALE)
        if node.links is not None:
            request.slot.moving = 1, node.links + 1, 0, 0  # kept apart from the names, where the lower has some of them
        return session.entry(request, self._union.link(node, parent, request.name(p.U64.size)))

    # -- removal and renaming

    def unlink(self, request: Request, parent: Node) -> bytes:
        self._union.unlink(parent, request.name(0))
        return replies.ok(request.unique)

    def rmdir(self, request: Request, parent: Node) -> bytes:
        self._union.rmdir(parent, request.name(0))
        return replies.ok(request.unique)

    def rename(self, request: Request, parent: Node) -> bytes:
        (new_parent,) = p.U64.unpack_from(request.view, p.BODY)
        return self._rename(request, parent, new_parent, request.two_names(p.U64.size), 0)

    def rename2(self, request: Request, parent: Node) -> bytes:
        new_parent, flags, _ = p.RENAME2_IN.unpack_from(request.view, p.BODY)
        return self._rename(request, parent, new_parent, request.two_names(p.RENAME2_IN.size), flags)

    def _rename(self, request: Request, parent: Node, new_parent_id: int, names: tuple[bytes, bytes], flags: int) -> bytes:
        new_parent = self._nodes.get(new_parent_id)
        if new_parent is None:
            fail(errno.ESTALE)
        self._union.rename(parent, names[0], new_parent, names[1], flags)
        if parent is not new_parent:
            self._session.changed(new_parent)
            for directory, name in ((new_parent, names[1]), (parent, names[0])):
                moved = directory.children.get(name) if directory.children else None
                if moved is not None and moved.children is not None:
                    self._session.tell_moved(moved)
        return replies.ok(request.unique)
