"""The control socket of a mounted union: one JSON object on a line asks, one answers.

It is called `MAJOR:MINOR.sock` after the mount's device number, so that whoever knows a path in the union can find it by stat(2), and only
the daemon's user may connect. The questions are {"ask": "status"}, {"ask": "writers"}, and {"ask": "restart"}, which the keeper answers.

The server's half does without Python's json, socket and threading: they would be a good part of what the daemon imports, and a boot waits
for that.
"""

from __future__ import annotations

import _socket
import _thread
import contextlib
import os
import select
from typing import TYPE_CHECKING, Any, Callable, Optional

from cowroot.errors import MountError
from cowroot.fuse.keeper import PROGRAM, RESTART, STOP
from cowroot.fuse.messages import as_line, peer_of, send

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
    device = os.stat(path).st_dev
    return socket_for(f"{os.major(device)}:{os.minor(device)}", directory)


def socket_for(device: str, directory: Optional[str] = None) -> Path:
    """The control socket of the mount with the device number `device`, as MAJOR:MINOR."""
    from pathlib import Path  # costs the daemon more time to start than all of this module

    return Path(directory or default_directory() or DEFAULT_DIRECTORY) / f"{device}.sock"


def ask(path: os.PathLike[str] | str, question: str = "status", timeout: float = 10.0, program: int = -1) -> dict[str, Any]:
    """Ask the daemon behind the socket `path`; waits up to `timeout` seconds. Raises MountError if there is no answer.

    Argument: `program`: a descriptor to send should the daemon want it.
    """
    import json
    import socket

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps({"ask": question}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(_read_line(connection))
            if "send" in answer:
                send(connection, PROGRAM, program)
                answer = json.loads(_read_line(connection))
    except (OSError, ValueError) as e:
        raise MountError(f"{os.fspath(path)}: no answer from the daemon: {e}", hint=_UNMOUNTED) from None
    if "error" in answer:
        raise MountError(f"{os.fspath(path)}: {answer['error']}")
    return answer


def process_behind(path: os.PathLike[str] | str) -> int:
    """The process that ends with the mount: the one that made the socket `path`. It need not answer. Raises OSError."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(os.fspath(path))
        return peer_of(connection)[0]


def _read_line(connection: _socket.socket) -> bytes:
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
    signal that Python handles; `inherited`: what another version says in `hand_over`, to go on with its socket.
    """

    def __init__(
        self, questions: dict[str, Callable[[], dict[str, Any]]], on_signal: Callable[[], None], inherited: Optional[dict[str, Any]] = None
    ) -> None:
        self._questions = questions
        self._keeper: Optional[_socket.socket] = None
        self._stop: Callable[[], None] = lambda: None
        self._on_signal = on_signal
        self._listener: Optional[_socket.socket] = None
        self._directory = -1
        self._name = ""
        self._inode = 0  # of the socket
        if inherited is None:
            self._signals, self.signal_fd = os.pipe()
            os.set_blocking(self.signal_fd, False)
            return
        self._signals, self.signal_fd = inherited["signals"]
        self._directory, self._name, self._inode = inherited["place"]
        if inherited["listener"] is not None:
            self._listener = _socket.socket(fileno=inherited["listener"])

    def hand_over(self) -> dict[str, Any]:
        """What another version has to know to go on with this socket, in plain values."""
        listener = os.dup(self._listener.fileno()) if self._listener is not None else None
        place = self._directory, self._name, self._inode
        return {"listener": listener, "place": place, "signals": (self._signals, self.signal_fd)}

    def listen(self, directory: str, name: str) -> None:
        """Make the socket `directory`/`name`. Raises MountError.

        The directory is held by descriptor: its path may lead elsewhere by the time the socket is removed, and it may be too long for one.
        """
        old_mask = os.umask(0o022)  # the daemon's own is 0: directories on the way must not be open to all
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._name = name
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._directory)  # of a daemon that was killed, or that has not come to it yet
            self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            os.umask(0o177)
            self._listener.bind(f"/proc/self/fd/{self._directory}/{name}")
            self._listener.listen(64)
            self._inode = self._inode_there()
        except OSError as e:
            what = f"control socket {directory}/{name}: {e.strerror or e}"
            raise MountError(what, hint="give another directory with control=DIR") from None
        finally:
            os.umask(old_mask)

    def remove_socket(self) -> None:
        """Remove the socket, unless it is that of a later mount: the kernel gives a device number away again at once."""
        if self._inode:
            with contextlib.suppress(OSError):
                if self._inode_there() == self._inode:
                    os.unlink(self._name, dir_fd=self._directory)

    def _inode_there(self) -> int:
        return os.stat(self._name, dir_fd=self._directory, follow_symlinks=False).st_ino

    def start(self, keeper: Optional[_socket.socket], stop: Callable[[], None]) -> None:
        """Begin to answer; `keeper`: the connection with it, if there is one, who may say that it is time to `stop()`."""
        self._keeper, self._stop = keeper, stop
        _thread.start_new_thread(self._serve, ())

    def _serve(self) -> None:
        waiting: list[Any] = [self._signals]
        waiting += [each for each in (self._listener, self._keeper) if each is not None]
        while True:
            ready, _, _ = select.select(waiting, [], [])
            if self._keeper in ready and self._keeper is not None:
                if self._keeper.recv(16) == STOP:
                    self._stop()
                waiting.remove(self._keeper)  # it is no more, and nobody keeps us
            if self._signals in ready:
                os.read(self._signals, 64)
                self._on_signal()
            if self._listener in ready and self._listener is not None:
                # whatever one asker does (hangs up, sends nonsense, falls asleep), the next gets an answer
                with contextlib.suppress(OSError):
                    self._attend(_socket.socket(fileno=self._listener._accept()[0]))  # type: ignore[attr-defined]

    def _attend(self, connection: _socket.socket) -> None:
        try:
            connection.settimeout(_PATIENCE)
            answer = self._answer(_read_line(connection), connection)
            if answer is not None:
                connection.sendall(as_line(answer))
        finally:
            connection.close()

    def _answer(self, line: bytes, connection: _socket.socket) -> Optional[dict[str, Any]]:
        """The answer; None if the keeper gives it."""
        try:
            question = _asked(line)
            if question == RESTART.decode() and self._keeper is not None:
                send(self._keeper, RESTART, connection.fileno())
                return None
            if question not in self._questions:
                return {"error": f"unknown question {question!r}; known: {', '.join(self._questions)}"}
            return self._questions[question]()
        except Exception as e:
            return {"error": f"not understood: {type(e).__name__}: {e}"}


def _asked(line: bytes) -> str:
    """The question in {"ask": "…"}, which is all that is understood. Raises ValueError."""
    opening, key, colon, question, closing = line.decode().split('"')
    if (opening.strip(), key, colon.strip(), closing.strip()) != ("{", "ask", ":", "}"):
        raise ValueError('a question is {"ask": "…"}')
    return question
