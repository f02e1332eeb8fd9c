"""Requests about what a file is: stat, chmod, chown, times, size, extended attributes, ACLs, the file system's own figures."""

from __future__ import annotations

import errno
import stat
from typing import Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.direct import replies
from cowroot.fuse.direct.files import CAPABILITIES
from cowroot.fuse.direct.request import Request
from cowroot.fuse.direct.session import Handler, Session
from cowroot.fuse.times import times_to_set
from cowroot.union import Node
from cowroot.union.tree import fail

ACCESS_ACL = b"system.posix_acl_access"
ACLS = (ACCESS_ACL, b"system.posix_acl_default")

_CHANGES = (
    p.FATTR_MODE | p.FATTR_UID | p.FATTR_GID | p.FATTR_SIZE | p.FATTR_ATIME | p.FATTR_MTIME | p.FATTR_ATIME_NOW | p.FATTR_MTIME_NOW
)  # fmt: skip


class Attributes:
    """Handlers, over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._union = session.union
        # whose capabilities were removed last, and by which process
        self._uncapped: Optional[tuple[Node, int]] = None

    def handlers(self) -> dict[int, Handler]:
        return {
            p.GETATTR: self.getattr, p.SETATTR: self.setattr, p.READLINK: self.readlink, p.STATFS: self.statfs, p.GETXATTR: self.getxattr,
            p.SETXATTR: self.setxattr, p.LISTXATTR: self.listxattr, p.REMOVEXATTR: self.removexattr,
        }  # fmt: skip

    def getattr(self, request: Request, node: Node) -> bytes:
        valid = self._session.validity(node)
        return replies.attributes(request.unique, self._union.getattr(node), valid)

    def setattr(self, request: Request, node: Node) -> bytes:
        valid, _, _, length, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = p.SETATTR_IN.unpack_from(
            request.view, p.BODY
        )
        new_mode: Optional[int] = mode if valid & p.FATTR_MODE else None
        new_uid: Optional[int] = uid if valid & p.FATTR_UID else None
        if not valid & _CHANGES:
            attr = self._union.getattr(node)
            if self._only_capabilities(request, node):
                return replies.attributes(request.unique, attr, self._session.validity(node))
            new_uid = attr.uid  # for a new ctime
            valid |= p.FATTR_KILL_SUIDGID
        if valid & p.FATTR_KILL_SUIDGID and new_mode is None and node.kind == stat.S_IFREG:
            new_mode = self._session.reduced_mode(request, node)
        new_atime, new_mtime = times_to_set(valid, (atime, atime_ns), (mtime, mtime_ns))
        attr = self._union.setattr(
            node,
            mode=new_mode,
            uid=new_uid,
            gid=gid if valid & p.FATTR_GID else None,
            size=length if valid & p.FATTR_SIZE else None,
            atime_ns=new_atime,
            mtime_ns=new_mtime,
        )
        return replies.attributes(request.unique, attr, self._session.validity(node))

    def _only_capabilities(self, request: Request, node: Node) -> bool:
        """What a SETATTR that sets nothing means: chown(-1, -1), or that somebody is about to write, allocate or copy into the file.

        In the latter case the kernel wants privileges dropped (__remove_privs in fs/inode.c) without saying which. File capabilities it has
        removed by itself, just before; where that is so, and the caller is root, who may leave the set-user-ID bit alone, it was for them.
        """
        before, self._uncapped = self._uncapped, None
        return before == (node, request.pid) and request.uid == 0

    def readlink(self, request: Request, node: Node) -> bytes:
        return replies.data(request.unique, self._union.readlink(node))

    def statfs(self, request: Request, node: Node) -> bytes:
        self._session.tell()  # so that there is a way to have it told at once
        return replies.statfs(request.unique, self._union.statfs())

    # -- extended attributes

    def getxattr(self, request: Request, node: Node) -> bytes:
        room, _ = p.GETXATTR_IN.unpack_from(request.view, p.BODY)
        name = request.text(p.GETXATTR_IN.size)
        if name == CAPABILITIES and node is self._session.newest:
            return replies.failed(request.unique, errno.ENODATA)  # asked at the first write to each file
        try:
            value = self._union.getxattr(node, name)
        except OSError as e:
            if e.errno == errno.ENODATA or (e.errno == errno.EOPNOTSUPP and name in ACLS):
                # in a layer that has no ACLs there are none, and that is what the kernel, which asks before it grants access, wants to hear
                return replies.failed(request.unique, errno.ENODATA)
            raise
        return self._attribute(request, value, room)

    def listxattr(self, request: Request, node: Node) -> bytes:
        room, _ = p.GETXATTR_IN.unpack_from(request.view, p.BODY)
        names = self._union.listxattr(node)
        if request.uid:
            # shown to CAP_SYS_ADMIN alone by local file systems (xattr(7)); capabilities are not in a request, so root it is
            names = [name for name in names if not name.startswith(b"trusted.")]
        return self._attribute(request, b"".join(name + b"\0" for name in names), room)

    @staticmethod
    def _attribute(request: Request, value: bytes, room: int) -> bytes:
        if not room:
            return replies.attribute_size(request.unique, len(value))
        if len(value) > room:
            fail(errno.ERANGE)
        return replies.data(request.unique, value)

    def setxattr(self, request: Request, node: Node) -> bytes:
        name, value, flags, extra = self._session.attribute_to_set(request)
        self._session.newest = None
        self._union.setxattr(node, name, value, flags)
        if extra & replies.SETXATTR_ACL_KILL_SGID and name == ACCESS_ACL:
            self._drop_setgid(node)
        return replies.ok(request.unique)

    def _drop_setgid(self, node: Node) -> None:
        """Whoever sets an ACL without being in the file's group loses the setgid bit (posix_acl_update_mode): we are asked to do it."""
        mode = stat.S_IMODE(self._union.getattr(node).mode)
        if mode & stat.S_ISGID:
            self._union.setattr(node, mode=mode & ~stat.S_ISGID)

    def removexattr(self, request: Request, node: Node) -> bytes:
        name = request.text(0)
        if name == CAPABILITIES:
            self._uncapped = node, request.pid
        try:
            self._union.getxattr(node, name)
            request.slot.moving = 1, 0, 0, 0  # it is there: who has to do this again finds it gone
            self._union.removexattr(node, name)
        except OSError as e:
            if e.errno in (errno.ENODATA, errno.EOPNOTSUPP) and name in ACLS:
                return replies.ok(request.unique)  # removing an ACL that is not there succeeds, on every local file system
            raise
        return replies.ok(request.unique)
