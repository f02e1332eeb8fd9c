"""One mounted union, served on the kernel's protocol: read a request, answer it, read the next."""

from __future__ import annotations

import errno
import gc
import os
import signal
import struct
from collections import deque
from typing import Any, Callable, Optional

from cowroot.errors import MountError
from cowroot.fuse import protocol as p
from cowroot.fuse.direct import device, features, ledger, replies, slots
from cowroot.fuse.direct.attributes import Attributes
from cowroot.fuse.direct.directories import Directories
from cowroot.fuse.direct.features import NEWEST
from cowroot.fuse.direct.files import Files
from cowroot.fuse.direct.memory import Memory
from cowroot.fuse.direct.names import Names
from cowroot.fuse.direct.request import BUFFER_SIZE, Request
from cowroot.fuse.direct.session import Handler, Session
from cowroot.fuse.direct.slots import Shelf, Shelved, Slots
from cowroot.fuse.direct.succession import Succession
from cowroot.fuse.direct.threads import ALL, COPYING, WRITING, Threads, TooManyError
from cowroot.fuse.latency import LAP, Latency
from cowroot.fuse.options import MountOptions
from cowroot.fuse.shortage import keep_off, lends
from cowroot.union import Node, Union, Wait
from cowroot.union.waiting import WITHOUT_END

Report = Callable[[str, BaseException], None]

# Requests whose node number is nought, or not what they are about
_NODELESS = frozenset((p.BATCH_FORGET, p.INTERRUPT, p.DESTROY, p.STATFS, p.FORGET))
# Requests whose answer is noted before it is given, since doing them twice would count, or find, something else. (Of a LOOKUP it is only
# if there is something to count.)
_NOT_TWICE = frozenset((
    p.MKNOD, p.MKDIR, p.SYMLINK, p.LINK, p.UNLINK, p.RMDIR, p.RENAME, p.RENAME2, p.OPEN, p.CREATE, p.TMPFILE, p.SETXATTR,
    p.REMOVEXATTR,
))  # fmt: skip
_PATIENCE = 1 << 20  # bytes
_GONE = (errno.ENODEV, errno.ECONNABORTED)  # unmounted; aborted
LAYOUT = (ledger.LAYOUT, slots.LAYOUT, ALL, BUFFER_SIZE)  # of all that a successor finds in memory
_AGAIN = (errno.ENOENT, errno.EINTR, errno.EAGAIN)  # a request that was taken back before it was read


class DirectEngine:
    """Serves one union.

    Arguments: `union`: what to serve; `report(operation, exception)` is told of what should not happen; `latency`: to be asked for while
    requests come; `newest`: the minor version of the protocol after which nothing is used; `inherited`: what another version's engine says
    in `hand_over`, to go on with its mount.
    """

    name = "direct"

    def __init__(
        self, union: Union, report: Report, latency: Latency, newest: int = NEWEST, inherited: Optional[dict[str, Any]] = None
    ) -> None:
        if inherited is not None and inherited["layout"] != LAYOUT:
            raise MountError("it keeps its records in another form", hint="reboot, or unmount and mount again")
        self._memory = memory = Memory(inherited["memory"] if inherited is not None else {})
        self._report = report
        self._newest = newest
        self._union = union
        self._slots = Slots(memory, ALL, BUFFER_SIZE)
        self._threads = Threads(self._assist, lambda: Request(self._slots.next()))
        self._request = Request(self._slots.next())  # of the thread that mounts and then serves
        self._session = Session(union, self._threads, memory)
        self._ended = False
        self._latency = latency
        self._shelf = Shelf(memory)
        self._reserve = union.reserve
        self._kept: dict[Node, list[Shelved]] = {}  # requests that wait for something about the node
        self._postponed: deque[Shelved] = deque()  # requests for which there was no thread
        self._refused = 0  # how often that was so
        # Data that goes to a disk is synced when it is copied up; without that, copying a little is done sooner than handed over.
        self._patience = union.tree.patience = _PATIENCE if self._session.volatile else 0
        self.inodes = self._session.nodes
        self.inodes.is_awaited = self._kept.__contains__
        self.writers = self._session.writers
        self._names = Names(self._session)
        self._files = Files(self._session)
        self.counts = [0] * p.OPCODE_LIMIT  # requests, by opcode
        self.protocol = self.kernel_protocol = (0, 0)
        self._missing: dict[str, str] = {}
        self._mountpoint: Optional[str] = None
        self._handlers = self._handler_table()
        if inherited is not None:
            self._inherit(inherited)

    def _handler_table(self) -> list[Handler]:
        session = self._session
        # FLUSH, OPENDIR, ACCESS, POLL, BMAP, STATX and what is yet to come: told once that there is no such thing, the kernel does not
        # ask again, and does without
        table: list[Handler] = [_unknown] * p.OPCODE_LIMIT
        table[p.IOCTL] = _no_ioctl
        table[p.DESTROY] = _nothing
        table[p.INTERRUPT] = self._interrupt
        for part in (self._names, Attributes(session), self._files, Directories(session)):
            for opcode, handler in part.handlers().items():
                table[opcode] = handler
        if session.volatile:
            table[p.FSYNC] = table[p.FSYNCDIR] = _unknown
        return table

    @property
    def open_files(self) -> int:
        return self._files.handles.count

    @property
    def features(self) -> list[str]:
        """What was agreed on and has not turned out to be of no use."""
        return sorted(self._session.features - self.missing.keys())

    @property
    def missing(self) -> dict[str, str]:
        """What is not in force, and why."""
        refused = self._files.passthrough.refused
        return {**self._missing, "passthrough": refused} if refused else self._missing

    # -- coming up and going down

    def mount(self, mountpoint: str, options: MountOptions) -> None:
        """Mount at `mountpoint` and agree with the kernel on what the session can do. Raises MountError."""
        session, request = self._session, self._request
        # For the moment in which passthrough.py holds a lease, whoever else opens the file has this sent to us; it would end the process.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        session.fd = device.mount(mountpoint, options)
        self._mountpoint = mountpoint
        request.parse(os.readv(session.fd, [request.buffer]))
        if request.opcode != p.INIT:
            raise MountError(f"{mountpoint}: the kernel began with request {request.opcode} instead of INIT")
        self.counts[p.INIT] += 1
        try:
            agreed, reply = features.agree(request.view[p.BODY : request.size], request.unique, self._newest)
        except MountError:
            os.write(session.fd, features.refusal(request.unique, errno.EPROTO))
            raise
        session.features = agreed.features
        self.protocol, self.kernel_protocol, self._missing = agreed.protocol, agreed.kernel, agreed.missing
        os.write(session.fd, reply)
        request.slot.free()

    def hand_over(self) -> dict[str, Any]:
        """What another version of this engine has to know to go on with the mount, in plain values."""
        return {
            "layout": LAYOUT, "memory": self._memory.fds, "fd": self._session.fd, "mountpoint": self._mountpoint,
            "features": sorted(self._session.features), "missing": self._missing, "protocol": self.protocol,
            "kernel_protocol": self.kernel_protocol,
        }  # fmt: skip

    def _inherit(self, inherited: dict[str, Any]) -> None:
        self._session.fd = inherited["fd"]
        self._mountpoint = inherited["mountpoint"]
        self._session.features = frozenset(inherited["features"])
        self._missing = inherited["missing"]
        self.protocol, self.kernel_protocol = inherited["protocol"], inherited["kernel_protocol"]

    def stop(self) -> None:
        """See to it that nothing is half done, and that it stays so: what was begun aside, the next server does again."""
        self._threads.lock.acquire()
        self.inodes.entrust_all()

    def close(self) -> None:
        """Give the mount up: unmount if it is still there."""
        if self._mountpoint is not None:
            device.unmount(self._mountpoint)
            self._mountpoint = None
        if self._session.fd >= 0:
            os.close(self._session.fd)
            self._session.fd = -1

    def take_over(self, generation: int, blamed: bool = False) -> None:
        """Go on where a predecessor was killed, or has died of itself (`blamed`); `generation`: how many there were."""
        Succession(self._session, self._names, self._files, self._answer, self._fail).take_over(
            generation, blamed, self._slots, self._shelf, self._request
        )

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer requests until the file system is unmounted. `on_ready()` is called before the first."""
        # Nodes are many, live long, and are in no cycles: looking at all of them again and again takes milliseconds each time.
        gc.set_threshold(10_000, 50, 1_000)
        on_ready()
        self._latency.begin()
        self._serve(self._request)
        self._mountpoint = None

    def _assist(self, request: Request) -> None:
        """What each further thread does. If it fails, it is the whole server that does: nobody can know what was held, and by whom."""
        try:
            self._serve(request)
        except BaseException as e:
            self._report("thread", e)
            os._exit(1)

    def _serve(self, request: Request) -> None:
        """What each thread does."""
        threads = self._threads
        request.slot.fill()
        while not self._ended:
            threads.take_turn(request)
            try:
                self._lead(request)
            finally:
                threads.end_turn(request)
            threads.come_back(request)
            self._take_up(request)
            threads.come_back(request)
            self._session.tell()
            request.locked = False
            threads.lock.release()

    def _lead(self, request: Request) -> None:
        """Read requests and answer them, until the mount is gone or one made this thread step aside."""
        lock, fd, vector, readv = self._threads.lock, self._session.fd, [request.buffer], os.readv
        lap = 0
        while not self._ended:
            try:
                size = readv(fd, vector)
            except OSError as e:
                if e.errno in _AGAIN:
                    request.slot.free()
                    continue
                self._ended = True
                if e.errno not in _GONE:
                    raise
                return
            if size < p.BODY:
                continue
            lap += 1
            if lap == LAP:
                lap = 0
                self._latency.lap()
            lock.acquire()
            request.locked = True
            request.parse(size)
            self.counts[request.opcode] += 1
            self._answer(request)
            if not request.leading:
                return
            request.locked = False
            lock.release()

    def _answer(self, request: Request) -> None:
        """Answer the request in hand, with the lock held; afterwards it may not be held any more."""
        self._union.forget_found()
        try:
            self._session.request = request
            if self._reserve.lacking and request.uid:
                keep_off(self._union, request.opcode, request.buffer, self._files.handles.__getitem__)
            node = self.inodes.find(request.nodeid)
            reply = self._handlers[request.opcode](request, node) if node is not None else self._without_node(request)
            if reply is not None:
                if request.opcode in _NOT_TWICE:
                    request.slot.answer = reply
                os.write(self._session.fd, reply)
            request.slot.free()
        except Wait as wait:
            self._wait(request, wait)
        except TooManyError:
            self._postpone(request)
        except Exception as e:
            self._fail(request, e)

    def _without_node(self, request: Request) -> Optional[bytes]:
        """Answer a request about what is only listed, or only a predecessor knew, or about no node."""
        node = self._union.root if request.opcode in _NODELESS else self.inodes.get(request.nodeid)
        if node is None and request.opcode == p.RELEASE:
            node = self._union.root  # the handle counts
        if node is None:
            return replies.failed(request.unique, errno.ESTALE)  # a file handle from before (NFS, open_by_handle_at)
        return self._handlers[request.opcode](request, node)

    def _fail(self, request: Request, error: Exception) -> None:
        """Answer with an error: the caller's, or, for what should not have happened, EIO. Or try again, where it is given more room."""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and lends(self._union, request.opcode, request.uid, request.buffer):
            self._again(request, None)
            return
        number = errno.EIO
        if isinstance(error, OSError):
            number = error.errno or number
        elif isinstance(error, (struct.error, OverflowError)):
            number = errno.EINVAL  # the request is cut off, or has a number that no file can have
        else:
            self._report(p.OPCODES.get(request.opcode, str(request.opcode)), error)
        if number == errno.ENOSYS:
            number = errno.EOPNOTSUPP  # the kernel would take it for good
        try:
            os.write(self._session.fd, replies.failed(request.unique, number))
        except OSError as e:
            # ENOENT: its caller has been killed, or it was answered and only that failed. Gone: reading the next request will tell
            if e.errno not in (errno.ENOENT, *_GONE):
                self._report(p.OPCODES.get(request.opcode, str(request.opcode)), e)
        request.slot.free()

    def _put_aside(self, request: Request) -> Shelved:
        shelved = self._shelf.put(request.copy())
        request.slot.free()
        return shelved

    def _load(self, request: Request, shelved: Shelved) -> None:
        request.load(shelved)
        self._shelf.take(shelved)

    # -- requests that have to wait

    def _wait(self, request: Request, wait: Wait) -> None:
        """Do aside what the request has to wait for, and then the request again, since nothing of it has been done yet.

        Further ones about the same node are kept until then.
        """
        if wait.node in self._kept:
            self._kept[wait.node].append(self._put_aside(request))
            return
        try:
            wait.prepare()
        except Exception as e:
            self._fail(request, e)
            return
        self._kept[wait.node] = []
        try:
            self._threads.step_aside(request, COPYING if wait.long else WRITING)
        except TooManyError:
            del self._kept[wait.node]
            wait.finish(False)
            self._postpone(request)
            return
        error = self._run(wait)
        self._threads.come_back(request)
        self._session.request = request
        try:
            wait.finish(error is None)
        except Exception as e:  # whatever it is, those who wait are told, and others go on
            error = error or e
        kept = self._kept.pop(wait.node)
        if not wait.settles:
            self._union.tree.patience = WITHOUT_END
        self._again(request, error)
        self._union.tree.patience = self._patience
        for shelved in kept:
            self._load(request, shelved)
            self._again(request, error)

    @staticmethod
    def _run(wait: Wait) -> Optional[Exception]:
        try:
            wait.run()
        except Exception as e:
            return e
        return None

    def _again(self, request: Request, error: Optional[Exception]) -> None:
        """Answer a request that had to wait; `error`: with this error, since what it waited for failed."""
        self._threads.come_back(request)
        if error is None:
            self._answer(request)
        else:
            self._fail(request, error)

    def _take_up(self, request: Request) -> None:
        """Answer the requests for which there was no thread, as far as there is one now.

        They are postponed as long as others do what they want to do, so one of those is the one that comes here last and leaves none.
        """
        in_vain = 0
        while in_vain < len(self._postponed):
            before = self._refused
            self._load(request, self._postponed.popleft())
            self._again(request, None)
            in_vain = in_vain + 1 if self._refused != before else 0

    def _postpone(self, request: Request) -> None:
        self._postponed.append(self._put_aside(request))
        self._refused += 1

    def _interrupt(self, request: Request, node: Node) -> None:
        """A caller is to be killed, or got a signal: a request that is only being kept needs not to be done at all.

        Others run to their end, which is what local file systems do too. No answer is expected to the interrupt itself.
        """
        (unique,) = p.U64.unpack_from(request.view, p.BODY)
        for waiting in (self._postponed, *self._kept.values()):
            for shelved in waiting:
                if p.IN_HEADER.unpack_from(shelved.content)[2] == unique:
                    waiting.remove(shelved)
                    os.write(self._session.fd, replies.failed(unique, errno.EINTR))
                    self._shelf.take(shelved)  # last: a successor that finds it there, and us in hand, does the same
                    return


def _unknown(request: Request, node: Node) -> bytes:
    return replies.failed(request.unique, errno.ENOSYS)


def _no_ioctl(request: Request, node: Node) -> bytes:
    return replies.failed(request.unique, errno.ENOTTY)


def _nothing(request: Request, node: Node) -> None:
    """No answer is expected, and there is nothing to do."""
