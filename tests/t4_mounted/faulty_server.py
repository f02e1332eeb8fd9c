"""A directory on a disk that fails: a FUSE file system that passes everything through, and on command refuses, or holds, what it is asked.

    python -m tests.t4_mounted.faulty_server DIRECTORY POINT FD       serve, commanded through the socket FD

The kernel keeps attributes and open files' pages, as of a disk, but no names: so look-ups can fail, too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from cowroot.fuse import kernel
from cowroot.fuse import protocol as p
from cowroot.union import syscalls

_NEVER = frozenset((p.FORGET, p.BATCH_FORGET, p.INTERRUPT, p.INIT, p.DESTROY, p.RELEASE, p.RELEASEDIR))  # what has no answer, or no caller
_MAX_WRITE = 128 << 10
_DIRENT = struct.Struct("=QQII")
_STATFS = struct.Struct("=5Q4I24x")
_ENTRY_VALID = 0  # seconds: each name is looked up anew
_ATTR_VALID = 1 << 20


class _Faults:
    """What is in force: which requests fail, and which are held. Each command is answered when it is."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._errno = 0
        self._sparing = self._times = 0
        self._held: frozenset[str] = frozenset()
        self._changed = threading.Condition()
        self.waiting = 0
        self.failed = 0

    def command(self, words: dict[str, Any]) -> dict[str, int]:
        with self._changed:
            said = {"failed": self.failed, "waiting": self.waiting}
            if "fail" in words:
                self._names, self._errno = frozenset(words["fail"]), words["errno"]
                self._sparing, self._times, self.failed = words["sparing"], words["times"], 0
            if "hold" in words:
                self._held = frozenset(words["hold"])
                self._changed.notify_all()
            return said

    def error_of(self, name: str) -> int:
        """With what a request fails; 0: it does not."""
        with self._changed:
            if name not in self._names:
                return 0
            if self._sparing:
                self._sparing -= 1
                return 0
            if self._times == 0:
                return 0
            self._times -= 1
            self.failed += 1
            return self._errno

    def is_held(self, name: str) -> bool:
        return name in self._held

    def wait(self, name: str) -> None:
        with self._changed:
            self.waiting += 1
            self._changed.wait_for(lambda: name not in self._held)
            self.waiting -= 1


class _Server:
    """Answers the kernel. A node is a descriptor with O_PATH."""

    def __init__(self, directory: str, point: str, control: socket.socket) -> None:
        self._root = os.open(directory, os.O_PATH)
        self._nodes: dict[int, list[int]] = {p.ROOT_ID: [self._root, 1]}  # descriptor and look-ups, by number
        self._numbers: dict[tuple[int, int], int] = {_identity(os.fstat(self._root)): p.ROOT_ID}
        self._next = p.ROOT_ID
        self._listings: dict[int, list[tuple[bytes, int, int]]] = {}
        self._faults = _Faults()
        self._control = control
        self._handlers: dict[int, Callable[[int, tuple[int, int], bytes], bytes]] = {
            number: getattr(self, name) for number, name in p.OPCODES.items() if name.isalnum() or "_" in name if hasattr(self, name)
        }
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        data = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read={_MAX_WRITE}"
        kernel.mount("faulty", point, "fuse.faulty", 0, data)
        threading.Thread(target=self._obey, daemon=True).start()

    def _obey(self) -> None:
        while words := self._control.recv(1 << 16):
            self._control.send(json.dumps(self._faults.command(json.loads(words))).encode())

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self._fd, _MAX_WRITE + (1 << 16))
            except OSError as e:
                if e.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                return
            name = p.OPCODES.get(p.IN_HEADER.unpack_from(request)[1], "")
            if self._faults.is_held(name):
                threading.Thread(target=self._answer_later, args=(name, request), daemon=True).start()
            else:
                self._answer(name, request)

    def _answer_later(self, name: str, request: bytes) -> None:
        self._faults.wait(name)
        self._answer(name, request)

    def _answer(self, name: str, request: bytes) -> None:
        _, opcode, unique, nodeid, uid, gid, _, _ = p.IN_HEADER.unpack_from(request)
        handler = self._handlers.get(opcode)
        error, reply = 0, b""
        try:
            if opcode not in _NEVER and (number := self._faults.error_of(name)):
                raise OSError(number, "as commanded")
            if handler is None:
                raise OSError(errno.ENOSYS, name)
            reply = handler(nodeid, (uid, gid), request[p.BODY :])
        except OSError as e:
            error = -(e.errno or errno.EIO)
        if opcode in (p.FORGET, p.BATCH_FORGET, p.INTERRUPT):
            return
        with contextlib.suppress(OSError):  # its caller has been killed
            os.write(self._fd, p.OUT_HEADER.pack(p.OUT_HEADER.size + len(reply), error, unique) + reply)

    # -- nodes

    def _path(self, nodeid: int) -> str:
        return f"/proc/self/fd/{self._nodes[nodeid][0]}"

    def _entry(self, parent: int, name: bytes) -> bytes:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._nodes[parent][0])
        st = os.fstat(fd)
        number = self._numbers.get(_identity(st))
        if number is None:
            self._next += 1
            number = self._numbers[_identity(st)] = self._next
            self._nodes[number] = [fd, 0]
        else:
            os.close(fd)
        self._nodes[number][1] += 1
        return p.ENTRY_OUT.pack(number, 0, _ENTRY_VALID, _ATTR_VALID, 0, 0) + _attr(st)

    def _made(self, parent: int, name: bytes, owner: tuple[int, int]) -> bytes:
        if owner != (0, 0):
            os.chown(name, *owner, dir_fd=self._nodes[parent][0], follow_symlinks=False)
        return self._entry(parent, name)

    def forget(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        node = self._nodes.get(nodeid)
        if node is not None and nodeid != p.ROOT_ID:
            node[1] -= p.U64.unpack_from(body)[0]
            if node[1] <= 0:
                self._numbers.pop(_identity(os.fstat(node[0])), None)
                os.close(node[0])
                del self._nodes[nodeid]
        return b""

    def batch_forget(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        (count,) = p.U32.unpack_from(body)
        for number in range(count):
            forgotten, lookups = p.FORGET_ONE.unpack_from(body, 8 + number * p.FORGET_ONE.size)
            self.forget(forgotten, owner, p.U64.pack(lookups))
        return b""

    def interrupt(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        return b""

    # -- operations, each with node, caller and what follows the header

    def init(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        _, minor, readahead, offered = p.INIT_IN.unpack_from(body)
        flags = offered & (1 << 5 | p.PARALLEL_DIROPS)  # BIG_WRITES
        return p.INIT_OUT.pack(7, min(minor, 38), readahead, flags, 16, 12, _MAX_WRITE, 1, 0, 0, 0)

    def destroy(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        return b""

    def lookup(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        return self._entry(nodeid, body.rstrip(b"\0"))

    def getattr(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        return p.ATTR_OUT.pack(_ATTR_VALID, 0, 0) + _attr(os.fstat(self._nodes[nodeid][0]))

    def setattr(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        valid, _, fh, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = p.SETATTR_IN.unpack_from(body)
        path = self._path(nodeid)
        if valid & (p.FATTR_UID | p.FATTR_GID):
            os.chown(path, uid if valid & p.FATTR_UID else -1, gid if valid & p.FATTR_GID else -1)
        if valid & p.FATTR_MODE:
            os.chmod(path, stat.S_IMODE(mode))
        if valid & p.FATTR_SIZE:
            os.truncate(fh if valid & p.FATTR_FH else path, size)
        if valid & (p.FATTR_ATIME | p.FATTR_MTIME):
            st, now = os.stat(path), time.time_ns()
            times = [
                now if valid & is_now else seconds * 10**9 + ns if valid & is_set else kept
                for is_set, is_now, seconds, ns, kept in (
                    (p.FATTR_ATIME, p.FATTR_ATIME_NOW, atime, atime_ns, st.st_atime_ns),
                    (p.FATTR_MTIME, p.FATTR_MTIME_NOW, mtime, mtime_ns, st.st_mtime_ns),
                )
            ]
            os.utime(path, ns=(times[0], times[1]))
        return self.getattr(nodeid, owner, body)

    def readlink(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        return os.fsencode(os.readlink("", dir_fd=self._nodes[nodeid][0]))

    def symlink(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        name, target = body.split(b"\0")[:2]
        os.symlink(target, name, dir_fd=self._nodes[nodeid][0])
        return self._made(nodeid, name, owner)

    def mknod(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        mode, rdev, _, _ = p.MKNOD_IN.unpack_from(body)
        name = body[p.MKNOD_IN.size :].rstrip(b"\0")
        os.mknod(name, mode, rdev, dir_fd=self._nodes[nodeid][0])
        return self._made(nodeid, name, owner)

    def mkdir(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        mode, _ = p.MKDIR_IN.unpack_from(body)
        name = body[p.MKDIR_IN.size :].rstrip(b"\0")
        os.mkdir(name, mode, dir_fd=self._nodes[nodeid][0])
        return self._made(nodeid, name, owner)

    def unlink(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        os.unlink(body.rstrip(b"\0"), dir_fd=self._nodes[nodeid][0])
        return b""

    def rmdir(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        os.rmdir(body.rstrip(b"\0"), dir_fd=self._nodes[nodeid][0])
        return b""

    def rename(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        return self._rename(nodeid, p.U64.unpack_from(body)[0], body[p.U64.size :], 0)

    def rename2(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        target, flags, _ = p.RENAME2_IN.unpack_from(body)
        return self._rename(nodeid, target, body[p.RENAME2_IN.size :], flags)

    def _rename(self, source: int, target: int, names: bytes, flags: int) -> bytes:
        old, new = names.split(b"\0")[:2]
        syscalls.renameat2(self._nodes[source][0], old, self._nodes[target][0], new, flags)
        return b""

    def link(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        (source,) = p.U64.unpack_from(body)
        name = body[p.U64.size :].rstrip(b"\0")
        os.link(self._path(source), name, dst_dir_fd=self._nodes[nodeid][0], follow_symlinks=True)
        return self._entry(nodeid, name)

    def open(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        flags, _ = p.OPEN_IN.unpack_from(body)
        return p.OPEN_OUT.pack(os.open(self._path(nodeid), flags & ~os.O_NOFOLLOW & ~os.O_CREAT & ~os.O_EXCL), 0, 0)

    def create(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        flags, mode, _, _ = p.CREATE_IN.unpack_from(body)
        name = body[p.CREATE_IN.size :].rstrip(b"\0")
        fd = os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW, mode, dir_fd=self._nodes[nodeid][0])
        return self._made(nodeid, name, owner) + p.OPEN_OUT.pack(fd, 0, 0)

    def read(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        fh, offset, size = p.READ_IN.unpack_from(body)
        return os.pread(fh, size, offset)

    def write(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        fh, offset, size, *_ = p.WRITE_IN.unpack_from(body)
        return p.WRITE_OUT.pack(os.pwrite(fh, body[p.WRITE_IN.size : p.WRITE_IN.size + size], offset), 0)

    def release(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        os.close(p.U64.unpack_from(body)[0])
        return b""

    def fsync(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        os.fsync(p.FSYNC_IN.unpack_from(body)[0])
        return b""

    fsyncdir = fsync

    def fallocate(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        fh, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(body)
        syscalls.fallocate(fh, mode, offset, length)
        return b""

    def lseek(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        fh, offset, whence, _ = p.LSEEK_IN.unpack_from(body)
        return p.U64.pack(os.lseek(fh, offset, whence))

    def copy_file_range(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        source, source_at, _, target, target_at, length, _ = p.COPY_IN.unpack_from(body)
        return p.WRITE_OUT.pack(os.copy_file_range(source, target, min(length, 1 << 30), source_at, target_at), 0)

    def statfs(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        s = os.statvfs(self._path(p.ROOT_ID))
        return _STATFS.pack(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax, s.f_frsize, 0)

    def setxattr(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        size, flags = p.SETXATTR_IN.unpack_from(body)
        name, _, value = body[p.SETXATTR_IN.size :].partition(b"\0")
        os.setxattr(self._path(nodeid), name, value[:size], flags)
        return b""

    def getxattr(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        size, _ = p.GETXATTR_IN.unpack_from(body)
        return _sized(os.getxattr(self._path(nodeid), body[p.GETXATTR_IN.size :].rstrip(b"\0")), size)

    def listxattr(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        size, _ = p.GETXATTR_IN.unpack_from(body)
        return _sized(b"".join(os.fsencode(name) + b"\0" for name in os.listxattr(self._path(nodeid))), size)

    def removexattr(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        os.removexattr(self._path(nodeid), body.rstrip(b"\0"))
        return b""

    def opendir(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        fd = os.open(self._path(nodeid), os.O_RDONLY | os.O_DIRECTORY)
        with os.scandir(fd) as entries:
            self._listings[fd] = [(b".", 1, stat.S_IFDIR >> 12), (b"..", 1, stat.S_IFDIR >> 12)]
            self._listings[fd] += [(os.fsencode(e.name), e.inode(), e.stat(follow_symlinks=False).st_mode >> 12) for e in entries]
        return p.OPEN_OUT.pack(fd, 0, 0)

    def readdir(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        fh, offset, size = p.READ_IN.unpack_from(body)
        reply = b""
        for place, (name, ino, kind) in enumerate(self._listings[fh][offset:], offset + 1):
            record = _DIRENT.pack(ino, place, len(name), kind) + name
            record += bytes(-len(record) % 8)
            if len(reply) + len(record) > size:
                break
            reply += record
        return reply

    def releasedir(self, nodeid: int, owner: tuple[int, int], body: bytes) -> bytes:
        del self._listings[p.U64.unpack_from(body)[0]]
        return self.release(nodeid, owner, body)


def _identity(st: os.stat_result) -> tuple[int, int]:
    return st.st_dev, st.st_ino


def _attr(st: os.stat_result) -> bytes:
    times = [ns // 10**9 for ns in (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)]
    parts = [ns % 10**9 for ns in (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)]
    return p.ATTR.pack(
        st.st_ino, st.st_size, st.st_blocks, *times, *parts, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, 4096, 0
    )


def _sized(value: bytes, size: int) -> bytes:
    if size == 0:
        return p.GETXATTR_IN.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "too long")
    return value


def main(directory: str, point: str, fd: str) -> None:
    os.umask(0)
    control = socket.socket(fileno=int(fd))
    server = _Server(directory, point, control)
    control.send(b"mounted")
    server.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
