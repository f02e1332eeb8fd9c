"""One mounted union, served on the kernel's protocol: a single loop that reads a request, answers it, and reads the next."""

from __future__ import annotations

import errno
import os
import signal
from typing import Callable, Optional

from cowroot.errors import MountError
from cowroot.fuse import protocol as p
from cowroot.fuse.direct import device, features, replies
from cowroot.fuse.direct.attributes import Attributes
from cowroot.fuse.direct.directories import Directories
from cowroot.fuse.direct.features import NEWEST
from cowroot.fuse.direct.files import Files
from cowroot.fuse.direct.names import Names
from cowroot.fuse.direct.session import Handler, Session
from cowroot.fuse.options import MountOptions
from cowroot.union import Node, Union

Report = Callable[[str, BaseException], None]

# Requests whose node number is nought, or not what they are about
_NODELESS = frozenset((p.BATCH_FORGET, p.INTERRUPT, p.DESTROY, p.STATFS, p.RELEASE, p.FORGET))
_GONE = (errno.ENODEV, errno.ECONNABORTED)  # unmounted; aborted
_AGAIN = (errno.ENOENT, errno.EINTR, errno.EAGAIN)  # a request that was taken back before it was read


class DirectEngine:
    """Serves one union.

    Arguments: `union`: what to serve; `report(operation, exception)` is told of what should not happen; `newest`: the minor version of
    the protocol after which nothing is used.
    """

    name = "direct"

    def __init__(self, union: Union, report: Report, newest: int = NEWEST) -> None:
        self._report = report
        self._newest = newest
        self._session = Session(union)
        self.inodes = self._session.nodes
        self._files = Files(self._session)
        self.files = self._files.handles
        self.counts = [0] * p.OPCODE_LIMIT  # requests, by opcode
        self.protocol = (0, 0)
        self._mountpoint: Optional[str] = None
        self._handlers = self._handler_table()

    def _handler_table(self) -> list[Handler]:
        session = self._session
        # FLUSH, OPENDIR, ACCESS, POLL, BMAP, STATX and what is yet to come: told once that there is no such thing, the kernel does not
        # ask again, and does without
        table: list[Handler] = [_unknown] * p.OPCODE_LIMIT
        table[p.IOCTL] = _no_ioctl
        table[p.INTERRUPT] = table[p.DESTROY] = _nothing
        for part in (Names(session), Attributes(session), self._files, Directories(session)):
            for opcode, handler in part.handlers().items():
                table[opcode] = handler
        return table

    @property
    def features(self) -> list[str]:
        """What was agreed on and has not turned out to be of no use."""
        return sorted(self._session.features - ({"passthrough"} if self._files.passthrough.refused else set()))

    # -- coming up and going down

    def mount(self, mountpoint: str, options: MountOptions) -> None:
        """Mount at `mountpoint` and agree with the kernel on what the session can do. Raises MountError."""
        session = self._session
        # For the moment in which passthrough.py holds a lease, whoever else opens the file has this sent to us; it would end the process.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        session.fd = device.mount(mountpoint, options)
        self._mountpoint = mountpoint
        size = os.readv(session.fd, [session.buffer])
        _, opcode, unique, *_ = p.IN_HEADER.unpack_from(session.buffer)
        if opcode != p.INIT:
            raise MountError(f"{mountpoint}: the kernel began with request {opcode} instead of INIT")
        self.counts[p.INIT] += 1
        try:
            agreed, reply = features.agree(session.request[p.BODY : size], unique, self._newest)
        except MountError:
            os.write(session.fd, features.refusal(unique, errno.EPROTO))
            raise
        session.features = agreed.features
        self.protocol = agreed.protocol
        os.write(session.fd, reply)

    def close(self) -> None:
        """Give the mount up: unmount if it is still there."""
        if self._mountpoint is not None:
            device.unmount(self._mountpoint)
            self._mountpoint = None
        if self._session.fd >= 0:
            os.close(self._session.fd)
            self._session.fd = -1

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer requests until the file system is unmounted. `on_ready()` is called before the first."""
        on_ready()
        session, counts, handlers, find = self._session, self.counts, self._handlers, self.inodes.find
        fd, buffer, vector = session.fd, session.buffer, [session.buffer]
        unpack, readv, write = p.IN_HEADER.unpack_from, os.readv, os.write
        while True:
            try:
                size = readv(fd, vector)
            except OSError as e:
                if e.errno in _GONE:
                    break
                if e.errno in _AGAIN:
                    continue
                raise
            _, opcode, unique, nodeid, session.uid, session.gid, session.pid, _ = unpack(buffer)
            node = find(nodeid)
            try:
                counts[opcode] += 1
                if node is None:
                    reply = self._without_node(opcode, unique, size)
                else:
                    reply = handlers[opcode](unique, node, size)
                if reply is not None:
                    write(fd, reply)
            except OSError as e:
                if not self._fail(unique, opcode, e):
                    break
            except Exception as e:
                self._report(p.OPCODES.get(opcode, str(opcode)), e)
                if not self._fail(unique, opcode, OSError(errno.EIO, "")):
                    break
        self._mountpoint = None

    def _without_node(self, opcode: int, unique: int, size: int) -> Optional[bytes]:
        if opcode not in _NODELESS:
            return replies.failed(unique, errno.ESTALE)  # a file handle from before (NFS, open_by_handle_at)
        if opcode == p.FORGET:
            return None
        return self._handlers[opcode](unique, self._session.union.root, size)

    def _fail(self, unique: int, opcode: int, error: OSError) -> bool:
        """Answer with an error. False if there is nobody any more to be answered."""
        number = error.errno or errno.EIO
        if number == errno.ENOSYS:
            number = errno.EOPNOTSUPP  # the kernel would take it for good
        try:
            os.write(self._session.fd, replies.failed(unique, number))
        except OSError as e:
            if e.errno in _GONE:
                return False
            if e.errno != errno.ENOENT:  # else its caller has been killed, or it was answered and only that failed
                self._report(p.OPCODES.get(opcode, str(opcode)), e)
        return True


def _unknown(unique: int, node: Node, size: int) -> bytes:
    return replies.failed(unique, errno.ENOSYS)


def _no_ioctl(unique: int, node: Node, size: int) -> bytes:
    return replies.failed(unique, errno.ENOTTY)


def _nothing(unique: int, node: Node, size: int) -> None:
    """No answer is expected, and there is nothing to do: an interrupted request has been answered by now, since there is only one loop."""
