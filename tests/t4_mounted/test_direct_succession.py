"""What a successor makes of what a predecessor has left in memory, with a socket in the kernel's place."""

from __future__ import annotations

import _thread
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.fuse import protocol as p
from cowroot.fuse.direct import threads
from cowroot.fuse.direct.engine import DirectEngine
from cowroot.fuse.direct.memory import Memory
from cowroot.fuse.direct.request import BUFFER_SIZE, Request
from cowroot.fuse.direct.slots import Slots
from cowroot.fuse.latency import Latency
from cowroot.union import LayerSpec, Union
from cowroot.union.handover import hand_over, take_over
from tests.t4_mounted.test_direct_session import unexpected


class Line:
    """One server after the other, all in this process."""

    def __init__(self, place: Path) -> None:
        for name in ("lower", "upper", "work"):
            (place / name).mkdir()
        lower, upper, work = (os.fspath(place / name) for name in ("lower", "upper", "work"))
        self.upper = place / "upper"
        self.kernel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setblocking(False)
        self.union = Union.open(LayerSpec([lower], upper, work, userxattr=os.geteuid() != 0))
        self.engine = DirectEngine(self.union, unexpected, Latency(False))
        self.engine._session.fd = theirs.detach()
        self.generation = 0

    def go_on(self) -> None:
        """The server that there is does no more, another one takes over."""
        self.generation += 1
        union = Union(take_over(hand_over(self.union.layers)))
        self.engine = DirectEngine(union, unexpected, Latency(False), inherited=self.engine.hand_over())
        self.engine.take_over(self.generation)

    def replies(self) -> dict[int, int]:
        """The error of each, by the request's number."""
        found: dict[int, int] = {}
        while True:
            try:
                _, error, unique = p.OUT_HEADER.unpack_from(self.kernel.recv(1 << 16))
            except BlockingIOError:
                return found
            found[unique] = -error

    def end(self) -> None:
        self.kernel.close()
        os.close(self.engine._session.fd)
        self.union.close()
        os.umask(0o022)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    try:
        yield made
    finally:
        made.end()


def request(opcode: int, unique: int, nodeid: int, body: bytes) -> bytes:
    return p.IN_HEADER.pack(p.BODY + len(body), opcode, unique, nodeid, 0, 0, 1, 0) + body


def test_what_was_taken_back_while_it_waited_is_not_done(line: Line) -> None:
    """Its caller was told EINTR, or was about to be, and the server was killed."""
    (line.upper / "file").touch(mode=0o600)
    name = b"file\0"
    chmod = p.SETATTR_IN.pack(p.FATTR_MODE, *(0,) * 10, 0o644, 0, 0, 0, 0)
    slot = line.engine._slots.all[0]
    lookup = request(p.LOOKUP, 2, p.ROOT_ID, name)
    slot.buffer[: len(lookup)] = lookup
    line.go_on()
    assert line.replies() == {2: 0}
    nodeid = max(line.engine.inodes._by_id)
    line.engine._shelf.put(request(p.SETATTR, 4, nodeid, chmod))
    line.engine._shelf.put(request(p.GETATTR, 6, nodeid, bytes(16)))
    interrupt = request(p.INTERRUPT, 0, 0, p.U64.pack(4))
    slot.buffer[: len(interrupt)] = interrupt
    line.go_on()
    assert line.replies() == {4: errno.EINTR, 6: 0}
    assert stat.S_IMODE((line.upper / "file").stat().st_mode) == 0o600


def test_who_finishes_what_a_predecessor_did_aside_is_not_aside_afterwards(line: Line) -> None:
    (line.upper / "file").touch()
    slot = line.engine._slots.all[0]

    def in_hand(opcode: int, unique: int, nodeid: int, body: bytes) -> None:
        content = request(opcode, unique, nodeid, body)
        slot.buffer[: len(content)] = content
        line.go_on()

    in_hand(p.LOOKUP, 2, p.ROOT_ID, b"file\0")
    nodeid = max(line.engine.inodes._by_id)
    in_hand(p.OPEN, 4, nodeid, p.OPEN_IN.pack(os.O_RDWR, 0))
    (handle,) = (record.number for record in line.engine._session.ledger.take_over()[1])
    line.engine._session.volatile = False
    in_hand(p.FALLOCATE, 6, nodeid, p.FALLOCATE_IN.pack(handle, 0, 4096, 0, 0))
    assert line.replies() == {2: 0, 4: 0, 6: 0}
    assert not any(line.engine._threads._aside)


def test_a_thread_that_has_not_come_so_far_counts_as_waiting() -> None:
    """Or everybody who steps aside meanwhile starts another."""
    memory = Memory({})
    slots = Slots(memory, threads.ALL, BUFFER_SIZE)
    begin = _thread.allocate_lock()
    begin.acquire()

    def serve(request: Request) -> None:
        with begin:
            crew.take_turn(request)
        crew.end_turn(request)

    crew = threads.Threads(serve, lambda: Request(slots.next()))
    first, second = Request(slots.next()), Request(slots.next())
    for request in (first, second):
        crew.take_turn(request)
        crew.lock.acquire()
        crew.step_aside(request, threads.WRITING)
    assert crew._count == 2
    begin.release()
    for request in (first, second):
        crew.come_back(request)
        crew.lock.release()
