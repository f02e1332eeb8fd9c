"""A whole session of the direct engine with a socket in the kernel's place: what happens when, without a mount and without waiting."""

from __future__ import annotations

import _thread
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowroot.fuse import protocol as p
from cowroot.fuse.direct import threads
from cowroot.fuse.direct.engine import DirectEngine
from cowroot.fuse.latency import Latency
from cowroot.union import LayerSpec, Union

SECONDS = 20  # no answer takes longer; all but a failure's come at once
SIZE = 100_000


class Kernel:
    """Sends requests, and takes the replies as they come."""

    def __init__(self, engine: DirectEngine) -> None:
        self._engine = engine
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(SECONDS)
        engine._session.fd = theirs.detach()
        self._last = 0
        self.gates: list[Gate] = []
        self.replies: dict[int, tuple[int, bytes]] = {}
        self.told: list[int] = []  # nodes that there were notifications about
        self._serving = threading.Thread(target=engine.serve, args=(lambda: None,))
        self._serving.start()

    def send(self, opcode: int, nodeid: int, body: bytes = b"", thread: int = 1) -> int:
        """Returns the number by which the reply is told."""
        self._last += 2
        self._ours.send(p.IN_HEADER.pack(p.BODY + len(body), opcode, self._last, nodeid, 0, 0, thread, 0) + body)
        return self._last

    def take(self, unique: int) -> tuple[int, bytes]:
        """Wait for a reply: (errno, body). Others that come before it are kept."""
        while unique not in self.replies:
            reply = self._ours.recv(1 << 20)
            _, error, number = p.OUT_HEADER.unpack_from(reply)
            if number:
                self.replies[number] = -error, reply[p.OUT_HEADER.size :]
            else:
                self.told.append(p.U64.unpack_from(reply, p.OUT_HEADER.size)[0])
        return self.replies.pop(unique)

    def ask(self, opcode: int, nodeid: int, body: bytes = b"", thread: int = 1) -> bytes:
        error, answer = self.take(self.send(opcode, nodeid, body, thread))
        if error:
            raise OSError(error, os.strerror(error))
        return answer

    def look_up(self, name: bytes, parent: int = p.ROOT_ID) -> int:
        return int(p.U64.unpack_from(self.ask(p.LOOKUP, parent, name + b"\0"))[0])

    def open(self, nodeid: int, flags: int) -> int:
        return int(p.U64.unpack_from(self.ask(p.OPEN, nodeid, p.OPEN_IN.pack(flags, 0)))[0])

    def say_on_disk(self, here: bool) -> None:
        """The lower is on a disk of this machine, or not, wherever it really is."""
        session = self._engine._session
        session.on_disks = set(session.union.layers.lower) if here else set()

    def fsync(self, nodeid: int, handle: int) -> int:
        return self.send(p.FSYNC, nodeid, struct.pack("=QII", handle, 0, 0))

    def chmod(self, nodeid: int, mode: int) -> int:
        return self.send(p.SETATTR, nodeid, p.SETATTR_IN.pack(p.FATTR_MODE, *(0,) * 10, mode, 0, 0, 0, 0))

    def gate(self, call: Any) -> Gate:
        self.gates.append(Gate(call))
        return self.gates[-1]

    def end(self) -> None:
        for gate in self.gates:
            gate.open()
        self._engine._ended = True
        self.send(p.DESTROY, 0)
        self._serving.join(SECONDS)
        self._ours.close()
        with self._engine._threads.lock:
            os.close(self._engine._session.fd)
            self._engine._session.fd = -1


class Gate:
    """In the place of a system call: holds up who comes until it is opened."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._open = threading.Event()
        self._came = threading.Semaphore(0)

    def __call__(self, *arguments: Any) -> Any:
        self._came.release()
        assert self._open.wait(SECONDS)
        return self._call(*arguments)

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self._came.acquire(timeout=SECONDS)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    for number in range(3):
        (tmp_path / "lower" / f"file{number}").write_bytes(bytes([65 + number]) * SIZE)
    lower, upper, work = (os.fspath(tmp_path / name) for name in ("lower", "upper", "work"))
    union = Union.open(LayerSpec([lower], upper, work, userxattr=os.geteuid() != 0, metacopy=False))
    engine = DirectEngine(union, unexpected, Latency(False))
    engine._session.volatile = False  # whatever the file system here
    engine._patience = union.tree.patience = 0
    started = Kernel(engine)
    try:
        yield started
    finally:
        started.end()
        union.close()
        os.umask(0o022)


def unexpected(operation: str, error: BaseException) -> None:
    raise AssertionError(operation) from error


def test_more_to_sync_than_threads(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have to wait for a thread get one, and others are answered meanwhile."""
    file, other = kernel.look_up(b"file0"), kernel.look_up(b"file1")
    kernel.take(kernel.chmod(file, 0o600))
    handle = kernel.open(file, os.O_RDWR)
    gate = kernel.gate(os.fsync)
    monkeypatch.setattr(os, "fsync", gate)
    most = threads.MOST[threads.WRITING]
    waiting = [kernel.fsync(file, handle) for _ in range(most + 5)]
    gate.wait_for(most)
    for _ in range(3):
        kernel.ask(p.GETATTR, other, struct.pack("=IIQ", 0, 0, 0))
    assert not kernel.replies
    interrupted = waiting.pop()
    kernel.send(p.INTERRUPT, 0, p.U64.pack(interrupted))
    assert kernel.take(interrupted) == (errno.EINTR, b"")
    gate.open()
    assert [kernel.take(unique) for unique in waiting] == [(0, b"")] * len(waiting)


def test_who_needs_the_same_copy_waits_for_it(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = kernel.look_up(b"file0"), kernel.look_up(b"file1")
    gate = kernel.gate(os.fdatasync)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", gate)
        first = kernel.chmod(file, 0o600)
        gate.wait_for(1)
        second, third = kernel.chmod(file, 0o640), kernel.chmod(file, 0o644)
        assert kernel.look_up(b"file2")
        kernel.send(p.INTERRUPT, 0, p.U64.pack(second))
        assert kernel.take(second) == (errno.EINTR, b"")
        another = kernel.chmod(other, 0o600)
        gate.wait_for(1)
        gate.open()
        for unique in (another, first, third):
            assert kernel.take(unique)[0] == 0
    (mode,) = struct.unpack_from("=I", kernel.ask(p.GETATTR, file, struct.pack("=IIQ", 0, 0, 0)), 16 + 60)
    assert mode & 0o777 == 0o644, "in the order in which they came, without the one that was taken back"


def test_a_copy_that_fails_is_told_to_all_who_wait(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_space(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    file = kernel.look_up(b"file0")
    gate = kernel.gate(no_space)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", gate)
        uniques = [kernel.chmod(file, 0o600)]
        gate.wait_for(1)
        uniques += [kernel.chmod(file, 0o640), kernel.chmod(file, 0o644)]
        kernel.look_up(b"file1")  # so the others have been read
        gate.open()
        assert [kernel.take(unique) for unique in uniques] == [(errno.ENOSPC, b"")] * 3
    assert os.listdir(tmp_path / "work" / "cowroot" / "tmp") == []
    assert kernel.take(kernel.chmod(file, 0o600))[0] == 0


def test_writing_to_a_slow_disk_holds_up_nobody_else(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first write that is held up tells; the clock is the test's."""
    clock = [100.0]
    monkeypatch.setattr("cowroot.fuse.direct.files.time.monotonic", lambda: clock[0])
    plain = os.pwrite
    file = kernel.look_up(b"file0")
    kernel.take(kernel.chmod(file, 0o600))
    handle = kernel.open(file, os.O_RDWR)

    def write(place: int, data: bytes) -> int:
        return kernel.send(p.WRITE, file, p.WRITE_IN.pack(handle, place, len(data), 0, 0, 0, 0) + data)

    def held_up(fd: int, data: bytes, offset: int) -> int:
        clock[0] += 0.1
        return plain(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", held_up)
        assert kernel.take(write(0, b"first"))[0] == 0
    gate = kernel.gate(plain)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", gate)
        second = write(5, b"second")
        gate.wait_for(1)
        assert kernel.look_up(b"file1")
        assert not kernel.replies
        gate.open()
        assert kernel.take(second)[0] == 0
    clock[0] += 10
    monkeypatch.setattr(threads.Threads, "step_aside", None)
    assert kernel.take(write(11, b"third"))[0] == 0
    data = kernel.ask(p.READ, file, struct.pack("=QQIIQII", handle, 0, 17, 0, 0, 0, 0))
    assert data == b"firstsecondthirdA"


def test_without_another_thread_it_is_done_at_once(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    file = kernel.look_up(b"file0")
    assert kernel.take(kernel.chmod(file, 0o600))[0] == 0
    handle = kernel.open(file, os.O_RDWR)
    assert kernel.take(kernel.fsync(file, handle)) == (0, b"")
    data = kernel.ask(p.READ, file, struct.pack("=QQIIQII", handle, SIZE - 10, 4096, 0, 0, 0, 0))
    assert data == b"A" * 10


def not_in_memory(read: Any) -> Any:
    """In the place of preadv(2): all has to come from the disk, by `read`."""

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError(errno.EAGAIN, "on the disk")
        return int(read(fd, buffers, offset))

    return preadv


def read_request(handle: int, place: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", handle, place, size, 0, 0, 0, 0)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_is_not_in_memory_is_read_aside(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """Much always, and anything from a file system that is not on a disk of this machine."""
    size = 50 if elsewhere else 1 << 20
    kernel.say_on_disk(not elsewhere)
    file = kernel.look_up(b"file1")
    handle = kernel.open(file, os.O_RDONLY)
    gate = kernel.gate(os.preadv)
    monkeypatch.setattr(os, "preadv", not_in_memory(gate))
    reading = [kernel.send(p.READ, file, read_request(handle, place, size)) for place in (0, SIZE - 20, SIZE)]
    gate.wait_for(3)
    assert kernel.look_up(b"file2")
    assert not kernel.replies
    gate.open()
    assert [kernel.take(unique)[1] for unique in reading] == [b"B" * min(size, SIZE), b"B" * 20, b""]


def test_a_little_is_read_at_once_from_a_disk_that_is_quick(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first read that is slow tells, for some time; the clock is the test's."""
    kernel.say_on_disk(True)
    clock = [100.0]
    monkeypatch.setattr("cowroot.fuse.direct.files.time.monotonic", lambda: clock[0])
    file = kernel.look_up(b"file1")
    handle = kernel.open(file, os.O_RDONLY)
    plain = os.preadv

    def slow(fd: int, buffers: list[memoryview], offset: int) -> int:
        clock[0] += 0.1
        return plain(fd, buffers, offset)

    with monkeypatch.context() as patched:
        patched.setattr(threads.Threads, "step_aside", None)
        for read in (plain, plain, slow):
            patched.setattr(os, "preadv", not_in_memory(read))
            assert kernel.ask(p.READ, file, read_request(handle, 0, 50)) == b"B" * 50
    gate = kernel.gate(plain)
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", not_in_memory(gate))
        reading = kernel.send(p.READ, file, read_request(handle, 0, 50))
        gate.wait_for(1)
        assert kernel.look_up(b"file2")
        gate.open()
        assert kernel.take(reading)[1] == b"B" * 50
    clock[0] += 10
    monkeypatch.setattr(threads.Threads, "step_aside", None)
    monkeypatch.setattr(os, "preadv", not_in_memory(plain))
    assert kernel.ask(p.READ, file, read_request(handle, 0, 50)) == b"B" * 50


def test_a_directory_that_changes_is_told_of_where_another_thread_may_not_have_put_its_attributes_away(kernel: Kernel) -> None:
    directory = struct.unpack_from("=Q", kernel.ask(p.MKDIR, p.ROOT_ID, p.MKDIR_IN.pack(0o755, 0) + b"new\0"))[0]

    def change(name: bytes, *askers: int) -> list[int]:
        """What the kernel is told after thread 1 has made something in the directory, whose attributes these threads have asked for."""
        kernel.told.clear()
        for thread in askers:
            kernel.ask(p.GETATTR, directory, struct.pack("=IIQ", 0, 0, 0), thread)
        kernel.ask(p.MKDIR, directory, p.MKDIR_IN.pack(0o755, 0) + name + b"\0")
        kernel.ask(p.STATFS, p.ROOT_ID)
        return kernel.told

    change(b"first", 1)
    assert change(b"nobody") == []
    assert change(b"itself", 1, 1) == []
    assert change(b"another", 2) == [directory]
    assert change(b"several", 2, 1) == [directory]
    assert change(b"unknown", 0) == [directory]
