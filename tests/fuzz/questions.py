"""What is sent to the control socket."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Any

from cowroot.fuse import control
from tests.fuzz.bytes import mutated

WORDS = [
    b"\x00", b"\xff", b"\n", b"\r", b'"', b"\\", b"{", b"}", b"[" * 5000, b'{"ask": ' * 100, b"null", b"ask", b"status", b"%s%n",
    b"\xed\xa0\x80",
    b"x" * 70_000,
]  # fmt: skip


def questions(chance: random.Random) -> None:
    """Nonsense, then hang up or wait: each line gets an object for an answer, and the next who asks gets theirs."""
    with tempfile.TemporaryDirectory(prefix="cowroot-fuzz-") as directory:
        server = control.ControlServer({"status": lambda: {"pid": os.getpid(), "path": "\udc80"}}, lambda: None)
        server.listen(directory, "socket")
        server.start(None, lambda: None)
        try:
            for _ in range(20):
                _send(Path(directory, "socket"), mutated(chance, b'{"ask": "status"}\n', WORDS), wait=chance.random() < 0.8)
            assert control.ask(Path(directory, "socket")) == {"pid": os.getpid(), "path": "\udc80"}
        finally:
            server.remove_socket()


def _send(path: Path, text: bytes, wait: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(os.fspath(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has heard enough
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
        if not wait:
            return
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                said += part
            answer: dict[str, Any] = json.loads(said)
            assert isinstance(answer, dict), said
