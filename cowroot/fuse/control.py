"""The control socket of a mounted union: one JSON object on a line asks, one answers.

It is called `MAJOR:MINOR.sock` after the mount's device number, so that whoever knows a path in the union can find it by stat(2), and only
the daemon's user may connect. The one question so far is {"ask": "status"}.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any, Callable, Optional

from cowroot.errors import MountError

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_DIRECTORY = "/run/cowroot/control"
_UNMOUNTED = "is the union still mounted? see findmnt -t fuse.cowroot"
_LIMIT = 65536  # bytes of a question
_PATIENCE = 2.0  # seconds that a connection may keep the thread


def default_directory() -> Optional[str]:
    """Where the sockets of hand-made mounts are: below /run for root, below XDG_RUNTIME_DIR for others, else nowhere."""
    if os.geteuid() == 0:
        return DEFAULT_DIRECTORY
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(runtime, "cowroot", "control") if runtime else None


def socket_of(path: str, directory: Optional[str] = None) -> Path:
    """The control socket of the union that `path` is in."""
    from pathlib import Path  # costs the daemon more time to start than all of this module

    device = os.stat(path).st_dev
    return Path(directory or default_directory() or DEFAULT_DIRECTORY) / f"{os.major(device)}:{os.minor(device)}.sock"


def ask(path: os.PathLike[str] | str, question: str = "status", timeout: float = 10.0) -> dict[str, Any]:
    """Ask the daemon behind the socket `path`; waits up to `timeout` seconds. Raises MountError if there is no answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps({"ask": question}).encode() + b"\n")
            line = _read_line(connection)
        answer: dict[str, Any] = json.loads(line)
    except (OSError, ValueError) as e:
        raise MountError(f"{os.fspath(path)}: no answer from the daemon: {e}", hint=_UNMOUNTED) from None
    if "error" in answer:
        raise MountError(f"{os.fspath(path)}: {answer['error']}")
    return answer


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(_LIMIT)
        if not part:
            break
        line += part
        if len(line) > _LIMIT * 16:
            raise ValueError("line too long")
    return line


class ControlServer:
    """Answers in a thread of its own, beside the one that serves the file system.

    Arguments: `questions`: a function for each question that may be asked; `on_signal()`: called, in the thread, when the process got a
    signal that Python handles.
    """

    def __init__(self, questions: dict[str, Callable[[], dict[str, Any]]], on_signal: Callable[[], None]) -> None:
        self._questions = questions
        self._on_signal = on_signal
        self._listener: Optional[socket.socket] = None
        self._directory = -1
        self._name = ""
        self._signals, self.signal_fd = os.pipe()
        os.set_blocking(self.signal_fd, False)

    def listen(self, directory: str, name: str) -> None:
        """Make the socket `directory`/`name`. Raises MountError.

        The directory is held by descriptor: its path may lead elsewhere by the time the socket is removed, and it may be too long for one.
        """
        old_mask = os.umask(0o022)  # the daemon's own is 0: directories on the way must not be open to all
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._name = name
            self.remove_socket()  # of a daemon that was killed
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            os.umask(0o177)
            self._listener.bind(f"/proc/self/fd/{self._directory}/{name}")
            self._listener.listen(64)
        except OSError as e:
            what = f"control socket {directory}/{name}: {e.strerror or e}"
            raise MountError(what, hint="give another directory with control=DIR") from None
        finally:
            os.umask(old_mask)

    def remove_socket(self) -> None:
        if self._directory >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)

    def start(self) -> None:
        threading.Thread(target=self._serve, name="control", daemon=True).start()

    def _serve(self) -> None:
        waiting: list[Any] = [self._signals]
        if self._listener is not None:
            waiting.append(self._listener)
        while True:
            ready, _, _ = select.select(waiting, [], [])
            if self._signals in ready:
                os.read(self._signals, 64)
                self._on_signal()
            if self._listener in ready and self._listener is not None:
                # whatever one asker does (hangs up, sends nonsense, falls asleep), the next gets an answer
                with contextlib.suppress(OSError):
                    connection, _ = self._listener.accept()
                    with connection:
                        connection.settimeout(_PATIENCE)
                        connection.sendall(json.dumps(self._answer(_read_line(connection))).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            question = json.loads(line).get("ask")
            return self._questions[question]()
        except KeyError:
            return {"error": f"unknown question {question!r}; known: {', '.join(self._questions)}"}
        except Exception as e:
            return {"error": f"not understood: {type(e).__name__}: {e}"}
