"""What libfuse calls: each operation of its table, answered by the union.

libfuse finds a path for each request and hands it over; the path is not used. The request itself is at hand (`request`), and with it the
node, the raw name and everything that libfuse 2 leaves out on the way: the caller's umask, the open flags that came after its time, which
attributes are set together.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from typing import Any, Callable, Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.inodes import Inodes
from cowroot.fuse.libfuse import FILLER, stat_packer, writable_view
from cowroot.fuse.privileges import without_privileges
from cowroot.fuse.request import OpenFiles, Request
from cowroot.fuse.times import times_to_set
from cowroot.union import NOW, Attr, Caller, Handle, Node, Union

CAPABILITIES = b"security.capability"


class Operations:
    """The operations. Each returns 0 or a size, and raises OSError for an error."""

    def __init__(self, fusepy: Any, union: Union, inodes: Inodes, files: OpenFiles, request: Request) -> None:
        self._union = union
        self._inodes = inodes
        self._files = files
        self._request = request
        self._file_info: Callable[[int], Any] = fusepy.fuse_file_info.from_address
        self._statvfs = fusepy.c_statvfs
        self._stat = fusepy.c_stat
        self._pack_stat = stat_packer(fusepy.c_stat)
        self._stat_size = ctypes.sizeof(fusepy.c_stat)
        self._filler: Any = None
        self._uncapped: Optional[tuple[Node, int]] = None  # whose capabilities were removed last, and by which process

    # -- what a name stands for, attributes

    def getattr(self, path: int, buffer: int) -> int:
        """Also the second half of every request that is answered with an entry."""
        request = self._request
        if request.opcode == p.GETATTR:
            attr = self._union.getattr(request.inode.node)
        elif request.opcode == p.SETATTR:
            attr = self.set_attributes()
        else:
            if request.opcode == p.LOOKUP:
                name = request.name(0)
                request.place = (request.inode.number, name)
                request.entry = self._union.lookup(request.inode.node, name)
            attr = self._union.getattr(request.entry)
        ctypes.memmove(buffer, self._pack_stat(attr, attr.nlink), self._stat_size)
        return 0

    def fgetattr(self, path: int, buffer: int, info: int) -> int:
        return self.getattr(path, buffer)

    def set_attributes(self, *unused: int) -> Attr:
        """libfuse takes one SETATTR apart into chmod, chown, truncate and utimens; here it stays whole."""
        request = self._request
        if request.settled is None:
            body = p.SETATTR_IN.unpack_from(request.buffer, p.BODY)
            valid = request.valid
            _, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = body
            node = request.inode.node
            if not valid & p.FATTR_CHANGES:
                if self._only_capabilities(node):
                    request.settled = self._union.getattr(node)
                    return request.settled
                self.drop_privileges(node)
            new_mode: Optional[int] = mode & 0o7777 if valid & p.FATTR_MODE else None
            if valid & p.FATTR_KILL_SUIDGID and valid & p.FATTR_SIZE and new_mode is None:
                self.drop_privileges(node)
            new_atime, new_mtime = times_to_set(valid, (atime, atime_ns), (mtime, mtime_ns))
            request.settled = self._union.setattr(
                node,
                mode=new_mode,
                uid=uid if valid & p.FATTR_UID else None,
                gid=gid if valid & p.FATTR_GID else None,
                size=size if valid & p.FATTR_SIZE else None,
                atime_ns=new_atime,
                mtime_ns=new_mtime,
            )
        return request.settled

    def _only_capabilities(self, node: Node) -> bool:
        """What a SETATTR that sets nothing means: chown(-1, -1), or privileges to be dropped by somebody who is about to write.

        In the latter case (__remove_privs in fs/inode.c) the kernel does not say which. File capabilities it has removed itself, just
        before; where that is so and root writes, who may leave the set-user-ID bit alone, it was for them, and nothing else is to change.
        """
        before, self._uncapped = self._uncapped, None
        return before == (node, self._request.pid) and self._request.uid == 0

    def setattr_part(self, *unused: int) -> int:
        self.set_attributes()
        return 0

    def drop_privileges(self, node: Node) -> None:
        """Clear suid and sgid, as the kernel asks us to with HANDLE_KILLPRIV_V2."""
        attr, request = self._union.getattr(node), self._request
        kept = without_privileges(attr.mode, attr.gid, (request.uid, request.gid, request.pid))
        if kept != stat.S_IMODE(attr.mode) and stat.S_ISREG(attr.mode):
            self._union.setattr(node, mode=kept)

    def readlink(self, path: int, buffer: int, size: int) -> int:
        target = self._union.readlink(self._request.inode.node)[: size - 1] + b"\0"
        ctypes.memmove(buffer, target, len(target))
        return 0

    def statfs(self, path: int, buffer: int) -> int:
        found = self._union.statfs()
        target = self._statvfs.from_address(buffer)
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax"):
            setattr(target, field, getattr(found, field))
        return 0

    # -- names

    def _caller(self, umask: int) -> Caller:
        return Caller(self._request.uid, self._request.gid, umask)

    def _here(self, name: bytes) -> Node:
        """Note that the entry of this request is `name` in the header's directory; returns that directory."""
        request = self._request
        request.place = (request.inode.number, name)
        return request.inode.node

    def mknod(self, path: int, mode: int, device: int) -> int:
        mode, device, umask, _ = p.MKNOD_IN.unpack_from(self._request.buffer, p.BODY)
        name = self._request.name(p.MKNOD_IN.size)
        self._request.entry = self._union.mknod(self._here(name), name, mode, device, self._caller(umask))
        return 0

    def mkdir(self, path: int, mode: int) -> int:
        mode, umask = p.MKDIR_IN.unpack_from(self._request.buffer, p.BODY)
        name = self._request.name(p.MKDIR_IN.size)
        self._request.entry = self._union.mkdir(self._here(name), name, mode, self._caller(umask))
        return 0

    def symlink(self, target: int, path: int) -> int:
        name, text = self._request.names(0)
        self._request.entry = self._union.symlink(self._here(name), name, text, self._caller(0))
        return 0

    def link(self, old: int, new: int) -> int:
        """`request.entry` is the file already: the header names the directory."""
        name = self._request.name(p.U64.size)
        self._union.link(self._request.entry, self._here(name), name)
        return 0

    def unlink(self, path: int) -> int:
        return self._remove(self._union.unlink)

    def rmdir(self, path: int) -> int:
        return self._remove(self._union.rmdir)

    def _remove(self, remove: Callable[[Node, bytes], None]) -> int:
        name = self._request.name(0)
        parent = self._here(name)
        inode = self._inodes.of(self._union.lookup(parent, name))
        remove(parent, name)
        self._inodes.unname(inode, self._request.place)
        return 0

    def rename(self, old: int, new: int) -> int:
        request = self._request
        if request.opcode == p.RENAME2:
            return 0  # an exchange, which is done: only libfuse's own table follows
        target_directory = self._inodes.by_number[p.U64.unpack_from(request.buffer, p.BODY)[0]]
        old_name, new_name = request.names(p.U64.size)
        old_place, new_place = (request.inode.number, old_name), (target_directory.number, new_name)
        moved = self._inodes.of(self._union.lookup(request.inode.node, old_name))
        try:
            replaced = self._inodes.of(self._union.lookup(target_directory.node, new_name))
        except FileNotFoundError:
            replaced = None
        self._union.rename(request.inode.node, old_name, target_directory.node, new_name, request.rename_flags)
        if replaced is moved and replaced is not None:
            return 0  # two names of one file: rename(2) does nothing. The kernel sees to it where it knows both
        self._inodes.unname(replaced, new_place)
        self._inodes.rename(moved, old_place, new_place)
        return 0

    # -- open files

    def open(self, path: int, info: int) -> int:
        fields = self._file_info(info)
        fields.fh = self.open_file(self._request.inode.living_lid())
        fields.keep_cache = 1
        return 0

    def open_file(self, lid: int) -> int:
        """Answer OPEN: the handle's number. The kernel's page cache may stay, for nothing changes a file behind its back."""
        request = self._request
        flags, open_flags = p.OPEN_IN.unpack_from(request.buffer, p.BODY)
        node = request.inode.node
        # the kernel sees to O_APPEND and O_SYNC itself, and O_DIRECT must not ask libfuse's buffers to be aligned
        handle = self._union.open_file(node, flags & os.O_ACCMODE)
        if flags & os.O_TRUNC:  # also of a file that is opened for reading only: Linux does that, and has checked that it may
            try:
                if open_flags & p.OPEN_KILL_SUIDGID:
                    self.drop_privileges(node)
                self._union.setattr(node, size=0, mtime_ns=NOW)
            except BaseException:
                self._union.release(handle)
                raise
        return self._files.add(handle, lid)

    def create(self, path: int, mode: int, info: int) -> int:
        request = self._request
        if request.opcode != p.CREATE:
            raise OSError(errno.ENOSYS, "mknod of a regular file: libfuse then calls mknod")
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(request.buffer, p.BODY)
        name = request.name(p.CREATE_IN.size)
        parent = self._here(name)
        request.entry, handle = self._union.create(parent, name, mode, flags & (os.O_ACCMODE | os.O_EXCL), self._caller(umask))
        request.opened = self._files.add(handle, 0)  # its lid comes with the reply
        fields = self._file_info(info)
        fields.fh = request.opened
        fields.keep_cache = 1
        return 0

    def release(self, path: int, info: int) -> int:
        self._union.release(self._files.remove(self._file_info(info).fh))
        return 0

    def read(self, path: int, buffer: int, size: int, offset: int, info: int) -> int:
        (number,) = p.U64.unpack_from(self._request.buffer, p.BODY)
        return self._union.read_into(self._files.find(number).handle, writable_view(buffer, size), offset)

    def write(self, path: int, buffer: int, size: int, offset: int, info: int) -> int:
        number, _, _, flags, _, _, _ = p.WRITE_IN.unpack_from(self._request.buffer, p.BODY)
        handle = self._files.find(number).handle
        if flags & p.WRITE_KILL_SUIDGID:
            self.drop_privileges(handle.node)
        start = p.BODY + p.WRITE_IN.size
        data = memoryview(self._request.buffer)[start : start + size]
        if flags & p.WRITE_CACHE:
            return self._write_back(handle, data, offset)
        return self._union.write(handle, data, offset)

    def _write_back(self, handle: Handle, data: memoryview, offset: int) -> int:
        """Stores through a mapping leave file capabilities alone; our write, which stands for them, makes the upper drop them."""
        try:
            capabilities = self._union.getxattr(handle.node, CAPABILITIES)
        except OSError:  # nearly always: there are none
            return self._union.write(handle, data, offset)
        count = self._union.write(handle, data, offset)
        self._union.setxattr(handle.node, CAPABILITIES, capabilities)
        return count

    def fsync(self, path: int, datasync: int, info: int) -> int:
        (number,) = p.U64.unpack_from(self._request.buffer, p.BODY)
        self._union.fsync(self._files.find(number).handle, bool(datasync))
        return 0

    def fallocate(self, path: int, mode: int, offset: int, length: int, info: int) -> int:
        number, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(self._request.buffer, p.BODY)
        self._union.fallocate(self._files.find(number).handle, mode, offset, length)
        return 0

    # -- directories

    def readdir(self, path: int, buffer: int, filler: int, offset: int, info: int) -> int:
        """Hand over the whole directory at once: libfuse keeps it for this opendir, so that a reader loses and repeats nothing."""
        fill = self._filler
        if fill is None:
            fill = self._filler = FILLER(filler)  # libfuse has just one
        pack_stat = self._pack_entry()
        directory = self._union.opendir(self._request.inode.node)
        try:
            for name, ino, mode in self._union.readdir(directory):
                if fill(buffer, name, pack_stat(ino, mode), 0):
                    raise OSError(errno.ENOMEM, "libfuse has no memory for the directory")
        finally:
            self._union.releasedir(directory)
        return 0

    def _pack_entry(self) -> Callable[[int, int], int]:
        """A function that puts inode number and type into one `struct stat` and returns its address."""
        space = bytearray(self._stat_size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(space))
        ino_format = struct.Struct("=Q" if self._stat.st_ino.size == 8 else "=I")
        ino_offset, mode_offset = self._stat.st_ino.offset, self._stat.st_mode.offset

        def pack(ino: int, mode: int) -> int:
            ino_format.pack_into(space, ino_offset, ino)
            p.U32.pack_into(space, mode_offset, mode)
            return address

        return pack

    def fsyncdir(self, path: int, datasync: int, info: int) -> int:
        directory = self._union.opendir(self._request.inode.node)
        try:
            self._union.fsyncdir(directory)
        finally:
            self._union.releasedir(directory)
        return 0

    # -- extended attributes

    def setxattr(self, path: int, name: int, value: int, size: int, flags: int) -> int:
        self.set_attribute(p.SETXATTR_IN)
        return 0

    def set_attribute(self, form: struct.Struct) -> None:
        """Answer SETXATTR, in the `form` that was agreed on."""
        request = self._request
        fields = form.unpack_from(request.buffer, p.BODY)
        size, flags = fields[:2]
        start = p.BODY + form.size
        end = request.buffer.index(0, start)
        key, text = bytes(request.buffer[start:end]), bytes(request.buffer[end + 1 : end + 1 + size])
        node = request.inode.node
        self._union.setxattr(node, key, text, flags)
        if len(fields) > 2 and fields[2] & p.SETXATTR_ACL_KILL_SGID:  # an ACL was set by somebody who is not in the file's group
            mode = self._union.getattr(node).mode
            if mode & stat.S_ISGID:
                self._union.setattr(node, mode=mode & 0o7777 & ~stat.S_ISGID)

    def getxattr(self, path: int, name: int, buffer: int, size: int) -> int:
        key = self._request.name(p.GETXATTR_IN.size)
        return _deliver(self._union.getxattr(self._request.inode.node, key), buffer, size)

    def listxattr(self, path: int, buffer: int, size: int) -> int:
        return _deliver(self.attribute_names(), buffer, size)

    def attribute_names(self) -> bytes:
        """The names that the caller may see, each with a zero: only the privileged see that there are `trusted.` ones (xattr(7))."""
        names = self._union.listxattr(self._request.inode.node)
        if self._request.uid != 0:
            names = [name for name in names if not name.startswith(b"trusted.")]
        return b"".join(name + b"\0" for name in names)

    def removexattr(self, path: int, unused: int) -> int:
        node, name = self._request.inode.node, self._request.name(0)
        if name == CAPABILITIES:
            self._uncapped = node, self._request.pid
        self._union.removexattr(node, name)
        return 0

    def table(self) -> dict[str, Callable[..., int]]:
        """Each operation under libfuse's name for it. What is missing makes libfuse say ENOSYS, and the kernel does without from then
        on: flush, access, bmap, poll. Locks are the kernel's own, which has one inode for each file here.
        """
        parts = dict.fromkeys(("chmod", "chown", "truncate", "ftruncate", "utimens"), self.setattr_part)
        return {
            "getattr": self.getattr, "fgetattr": self.fgetattr, "readlink": self.readlink, "mknod": self.mknod, "mkdir": self.mkdir,
            "unlink": self.unlink, "rmdir": self.rmdir, "symlink": self.symlink, "rename": self.rename, "link": self.link,
            "open": self.open, "create": self.create, "read": self.read, "write": self.write, "statfs": self.statfs,
            "release": self.release, "fsync": self.fsync, "fsyncdir": self.fsyncdir, "setxattr": self.setxattr, "getxattr": self.getxattr,
            "listxattr": self.listxattr, "removexattr": self.removexattr, "readdir": self.readdir, "fallocate": self.fallocate, **parts,
        }  # fmt: skip


def _deliver(value: bytes, buffer: Optional[int], size: int) -> int:
    """Copy an attribute's value, or say how long it is."""
    if not buffer:
        return len(value)
    if len(value) > size:
        raise OSError(errno.ERANGE, "value is longer than the buffer")
    ctypes.memmove(buffer, value, len(value))
    return len(value)
