"""Requests that no kernel sends: cut off, of wrong length, unknown, about wrong nodes and handles, with paths for names, absurd."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import tempfile
import threading
from pathlib import Path

from cowroot.fuse import protocol as p
from cowroot.fuse.direct.engine import DirectEngine
from cowroot.fuse.latency import Latency
from cowroot.union import LayerSpec, Union

SECONDS = 20  # no answer takes longer
LAST_ERRNO = 133  # asm-generic/errno.h
REQUESTS = 300  # of one case
WITHOUT_ANSWER = (p.FORGET, p.BATCH_FORGET, p.INTERRUPT, p.DESTROY)
KNOWN = sorted(p.OPCODES)
NAMES = [
    b"", b".", b"..", b"/", b"a/b", b"../outside", b"/outside", b"directory/../../outside", b"x" * 255, b"x" * 256, b"x" * 5000,
    b"\xff\xfe",
    b"file", b"large", b"link", b"directory", b"deep", b"new", b"new2", b"a\0b", b".cowroot-probe", b".wh.file", b"system.posix_acl_access",
    b"user.a", b"trusted.overlay.opaque", b"security.capability", b"trusted.cowroot.ino",
]  # fmt: skip
NUMBERS = [0, 1, 2, 3, 7, 255, 4095, 4096, 65536, 1 << 20, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 62, 1 << 63, (1 << 64) - 1]
# What the bodies begin with; names come after it.
BODIES = {
    p.FORGET: "Q", p.BATCH_FORGET: "II", p.GETATTR: "IIQ", p.SETATTR: p.SETATTR_IN.format, p.MKNOD: "IIII", p.MKDIR: "II", p.LINK: "Q",
    p.RENAME: "Q", p.RENAME2: "QII", p.OPEN: "II", p.CREATE: "IIII", p.TMPFILE: "IIII", p.READ: "QQIIQII", p.WRITE: "QQIIQII",
    p.RELEASE: "QIIQ", p.FSYNC: "QII", p.FSYNCDIR: "QII", p.FALLOCATE: "QQQII", p.LSEEK: "QQII", p.COPY_FILE_RANGE: "QQQQQQQ",
    p.COPY_FILE_RANGE_64: "QQQQQQQ", p.SETXATTR: "II", p.GETXATTR: "II", p.LISTXATTR: "II", p.READDIR: "QQIIQII",
    p.READDIRPLUS: "QQIIQII", p.INTERRUPT: "Q", p.INIT: "IIII",
}  # fmt: skip
NAMED = (
    p.LOOKUP, p.MKNOD, p.MKDIR, p.LINK, p.RENAME, p.RENAME2, p.CREATE, p.SYMLINK, p.UNLINK, p.RMDIR, p.SETXATTR, p.GETXATTR, p.REMOVEXATTR,
)  # fmt: skip


class Forger:
    """In the kernel's place: sends requests, and remembers the numbers in the answers, so that further ones can be about something."""

    def __init__(self, engine: DirectEngine, chance: random.Random) -> None:
        self._chance = chance
        self._engine = engine
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(SECONDS)
        for end in (self._ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        engine._session.fd = theirs.detach()
        self._unique = 0
        self._nodes, self._handles = [1, 1, 1, 0, 12345, (1 << 64) - 1], [0, 77, (1 << 64) - 1]
        self._serving = threading.Thread(target=engine.serve, args=(lambda: None,))
        self._serving.start()

    def send(self, opcode: int, body: bytes, node: int, length: int | None = None, cut: int | None = None) -> None:
        """Send a request, perhaps with a `length` that is not its own, or `cut` off, and wait for what it is answered."""
        self._unique += 2
        size = p.BODY + len(body) if length is None else length
        message = p.IN_HEADER.pack(size, opcode, self._unique, node, self._chance.choice((0, 0, 1000)), 0, os.getpid(), 0) + body
        self._ours.send(message[:cut])
        if opcode in WITHOUT_ANSWER or (cut is not None and cut < p.BODY):
            return
        while True:
            try:
                reply = self._ours.recv(1 << 21)
            except socket.timeout:
                raise AssertionError(f"no answer to {p.OPCODES.get(opcode, opcode)} {message[:200]!r}") from None
            said, error, unique = p.OUT_HEADER.unpack_from(reply)
            assert said == len(reply)
            if unique == self._unique:
                break
        assert -LAST_ERRNO <= error <= 0
        if not error:
            self._learn(opcode, reply[p.OUT_HEADER.size :])

    def _learn(self, opcode: int, body: bytes) -> None:
        if opcode in (p.LOOKUP, p.MKDIR, p.MKNOD, p.CREATE, p.SYMLINK, p.LINK, p.TMPFILE) and len(body) >= 8:
            self._nodes.append(p.U64.unpack_from(body)[0])
        if opcode == p.OPEN:
            self._handles.append(p.U64.unpack_from(body)[0])
        if opcode in (p.CREATE, p.TMPFILE) and len(body) >= 144:
            self._handles.append(p.U64.unpack_from(body, 128)[0])

    def forge(self) -> None:
        """One random request."""
        chance = self._chance
        opcode = chance.choice(KNOWN) if chance.random() < 0.95 else chance.choice((0, 7, 19, 63, 64, 65, 4096, (1 << 32) - 1))
        layout = struct.Struct("=" + BODIES.get(opcode, "").lstrip("="))
        numbers = [self._number(code, place) for place, code in enumerate(layout.format.lstrip("="))]
        body = layout.pack(*numbers)
        if opcode in NAMED:
            body += chance.choice(NAMES) + b"\0"
            if chance.random() < 0.6:
                body += chance.choice(NAMES) + b"\0"
        if opcode in (p.WRITE, p.SETXATTR, p.BATCH_FORGET):
            body += chance.randbytes(chance.choice((0, 1, 16, 5000)))
        length = chance.choice(NUMBERS) & 0xFFFFFFFF if chance.random() < 0.02 else None
        cut = chance.randrange(p.BODY + len(body) + 1) if chance.random() < 0.1 else None
        self.send(opcode, body, chance.choice(self._nodes), length, cut)

    def _number(self, code: str, place: int) -> int:
        chance = self._chance
        if code == "Q" and place == 0 and chance.random() < 0.8:
            return chance.choice(self._handles if chance.random() < 0.8 else self._nodes)
        number = chance.choice(NUMBERS) if chance.random() < 0.5 else chance.randrange(5000)
        return number & 0xFFFFFFFF if code == "I" else number >> 1 if code == "q" else number

    def end(self) -> None:
        self._engine._ended = True
        with contextlib.suppress(OSError):
            self._ours.send(p.IN_HEADER.pack(p.BODY, p.DESTROY, 2, 0, 0, 0, 0, 0))
        self._ours.close()
        self._serving.join(SECONDS)
        assert not self._serving.is_alive(), "serves on after the end"
        os.close(self._engine._session.fd)


def requests(chance: random.Random) -> None:
    """One session of random requests."""
    faults: list[str] = []
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="cowroot-fuzz-") as directory:
        base = Path(directory)
        (base / "outside").write_text("outside")
        for name in ("lower", "upper", "work"):
            (base / name).mkdir()
        (base / "lower/directory/deep").mkdir(parents=True)
        (base / "lower/file").write_text("file")
        (base / "lower/directory/new").write_text("below")
        (base / "lower/large").write_bytes(b"x" * 200_000)
        (base / "lower/link").symlink_to("/outside")
        union = Union.open(LayerSpec([str(base / "lower")], str(base / "upper"), str(base / "work"), userxattr=os.geteuid() != 0))

        def report(operation: str, error: BaseException) -> None:
            faults.append(f"{operation}: {type(error).__name__}: {error}")

        engine = DirectEngine(union, report, Latency(False))
        forger = Forger(engine, chance)
        try:
            for _ in range(REQUESTS):
                forger.forge()
            forger.send(p.LOOKUP, b"file\0", p.ROOT_ID)  # it still answers
        finally:
            forger.end()
            union.close()
            os.umask(before)
        assert not faults, faults
        assert sorted(os.listdir(base)) == ["lower", "outside", "upper", "work"], "something was made outside the layers"
        assert (base / "outside").read_text() == "outside"
