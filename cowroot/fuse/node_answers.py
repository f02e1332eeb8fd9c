"""Requests about a node, answered without libfuse: attributes, extended attributes, links, sizes of the file system.

libfuse would look for a path of the file, which it may have lost (unlinked while open, never named), take the request apart, and call
for the parts; and what it does not know of the request is lost. Each method here returns the reply's body.
"""

from __future__ import annotations

import errno
import stat
import struct
from typing import Callable, Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.privileges import without_privileges
from cowroot.fuse.request import Request
from cowroot.fuse.times import times_to_set
from cowroot.union import Attr, Node, Union

YEAR = 365 * 24 * 3600  # seconds the kernel may keep what it was told: every change goes through it
CAPABILITIES = b"security.capability"
_ATTR_OUT, _ENTRY_OUT = (struct.Struct(first.format + p.ATTR.format[1:]) for first in (p.ATTR_OUT, p.ENTRY_OUT))
NO_ENTRY = p.ENTRY_OUT.pack(0, 0, YEAR, 0, 0, 0) + bytes(p.ATTR.size)  # node 0: there is no such name, and the kernel may remember it


class NodeAnswers:
    """The answers, by opcode: `table`. `extended`: SETXATTR_EXT is agreed on."""

    def __init__(self, union: Union, request: Request) -> None:
        self._union = union
        self._request = request
        self.extended = False
        self._uncapped: Optional[tuple[Node, int]] = None  # whose capabilities were removed last, and by which process

    def table(self) -> dict[int, Callable[[], bytes]]:
        """Each answer by the opcode of its request."""
        return {
            p.GETATTR: self._getattr, p.SETATTR: self._setattr, p.READLINK: self._readlink, p.STATFS: self._statfs,
            p.SETXATTR: self._setxattr, p.GETXATTR: self._getxattr, p.LISTXATTR: self._listxattr, p.REMOVEXATTR: self._removexattr,
        }  # fmt: skip

    # -- attributes

    def _getattr(self) -> bytes:
        return _attr_out(self._union.getattr(self._request.inode.node))

    def _setattr(self) -> bytes:
        request, node = self._request, self._request.inode.node
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = p.SETATTR_IN.unpack_from(
            request.buffer, p.BODY
        )
        if not valid & p.FATTR_CHANGES:
            if self._only_capabilities(node):
                return _attr_out(self._union.getattr(node))
            self.drop_privileges(node)
        new_mode: Optional[int] = mode & 0o7777 if valid & p.FATTR_MODE else None
        if valid & p.FATTR_KILL_SUIDGID and valid & p.FATTR_SIZE and new_mode is None:
            self.drop_privileges(node)
        new_atime, new_mtime = times_to_set(valid, (atime, atime_ns), (mtime, mtime_ns))
        settled = self._union.setattr(
            node,
            mode=new_mode,
            uid=uid if valid & p.FATTR_UID else None,
            gid=gid if valid & p.FATTR_GID else None,
            size=size if valid & p.FATTR_SIZE else None,
            atime_ns=new_atime,
            mtime_ns=new_mtime,
        )
        return _attr_out(settled)

    def _only_capabilities(self, node: Node) -> bool:
        """What a SETATTR that sets nothing means: chown(-1, -1), or privileges to be dropped by somebody who is about to write.

        In the latter case (__remove_privs in fs/inode.c) the kernel does not say which. File capabilities it has removed itself, just
        before; where that is so and root writes, who may leave the set-user-ID bit alone, it was for them, and nothing else is to change.
        """
        before, self._uncapped = self._uncapped, None
        return before == (node, self._request.pid) and self._request.uid == 0

    def drop_privileges(self, node: Node) -> None:
        """Clear suid and sgid, as the kernel asks us to with HANDLE_KILLPRIV_V2."""
        attr, request = self._union.getattr(node), self._request
        kept = without_privileges(attr.mode, attr.gid, (request.uid, request.gid, request.pid))
        if kept != stat.S_IMODE(attr.mode) and stat.S_ISREG(attr.mode):
            self._union.setattr(node, mode=kept)

    def _readlink(self) -> bytes:
        return self._union.readlink(self._request.inode.node)

    def _statfs(self) -> bytes:
        s = self._union.statfs()
        return p.KSTATFS.pack(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax, s.f_frsize, 0)

    # -- extended attributes

    def _setxattr(self) -> bytes:
        request, node = self._request, self._request.inode.node
        form = p.SETXATTR_IN_EXT if self.extended else p.SETXATTR_IN
        fields = form.unpack_from(request.buffer, p.BODY)
        size, flags = fields[:2]
        start = p.BODY + form.size
        end = request.buffer.index(0, start)
        key, text = bytes(request.buffer[start:end]), bytes(request.buffer[end + 1 : end + 1 + size])
        self._union.setxattr(node, key, text, flags)
        if self.extended and fields[2] & p.SETXATTR_ACL_KILL_SGID:  # an ACL was set by somebody who is not in the file's group
            mode = self._union.getattr(node).mode
            if mode & stat.S_ISGID:
                self._union.setattr(node, mode=mode & 0o7777 & ~stat.S_ISGID)
        return b""

    def _getxattr(self) -> bytes:
        return self._sized(self._union.getxattr(self._request.inode.node, self._request.name(p.GETXATTR_IN.size)))

    def _listxattr(self) -> bytes:
        """The names that the caller may see, each with a zero: only the privileged see that there are `trusted.` ones (xattr(7))."""
        names = self._union.listxattr(self._request.inode.node)
        if self._request.uid != 0:
            names = [name for name in names if not name.startswith(b"trusted.")]
        return self._sized(b"".join(name + b"\0" for name in names))

    def _removexattr(self) -> bytes:
        node, name = self._request.inode.node, self._request.name(0)
        if name == CAPABILITIES:
            self._uncapped = node, self._request.pid
        self._union.removexattr(node, name)
        return b""

    def _sized(self, value: bytes) -> bytes:
        size, _ = p.GETXATTR_IN.unpack_from(self._request.buffer, p.BODY)
        if not size:
            return p.GETXATTR_IN.pack(len(value), 0)  # fuse_getxattr_out has the same form
        if len(value) > size:
            raise OSError(errno.ERANGE, "value is longer than the buffer")
        return value


def _attr_out(attr: Attr) -> bytes:
    ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime = attr
    second = 1000000000
    return _ATTR_OUT.pack(
        YEAR, 0, 0, ino, size, blocks, atime // second, mtime // second, ctime // second, atime % second, mtime % second, ctime % second,
        mode, nlink, uid, gid, rdev & 0xFFFFFFFF, blksize, 0,
    )  # fmt: skip


def entry_out(number: int, attr: Attr) -> bytes:
    """What a reply says of a name: the node's number, and its attributes."""
    ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime = attr
    second = 1000000000
    return _ENTRY_OUT.pack(
        number, 0, YEAR, YEAR, 0, 0, ino, size, blocks, atime // second, mtime // second, ctime // second, atime % second, mtime % second,
        ctime % second, mode, nlink, uid, gid, rdev & 0xFFFFFFFF, blksize, 0,
    )  # fmt: skip
