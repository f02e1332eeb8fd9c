"""The keeper: a process that starts another server when one has died, and gives its place to a newer version of this program.

It holds the descriptor of /dev/fuse, and with it the mount: the kernel takes a FUSE file system for dead when that is closed everywhere,
not when a process ends. Requests wait meanwhile; to programs it is a pause. Everything that serving needs was imported and opened before
the first server was forked, so a successor reads nothing from any file system, least of all from the one that stands still.

A newer version comes as the text of a program (see renewal.py), which a child tries first. Only when that has gone well does the keeper run
it, too, and have the server stop; should the new version's first server not come up, what was there before goes on.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import select
import signal
import time
from typing import Any, Callable, NamedTuple, Optional

from cowroot.fuse.messages import Received, as_line, peer_of, receive
from cowroot.fuse.reports import complain, say

HASTY_SECONDS = 0.5  # a server that lives no longer than that
HASTY_DEATHS = 10  # so many in succession, and it is better to take it slowly
PAUSE_SECONDS = 0.25
PROGRAM = b"program"  # what comes with the descriptor of a newer version
TRIAL_SECONDS = 60.0  # for a newer version to be loaded, and to begin to serve; for a server to stop
STOPPED = 75  # the exit code of a server that was asked to stop
# What is said between a server and the keeper. The last two are followed by a number, which says what the descriptor is for
RESTART, STOP, SERVING, KEEP, GIVE_BACK = b"restart", b"stop", b"serving", b"keep", b"give-back"

# A newer version: how its first server is started (with a generation, and descriptors that are kept; returns why that does not serve, or
# nothing), how to keep that, and how to have the older version's modules back
Heir = tuple[Callable[[int, dict[int, int]], str], Callable[[], Any], Callable[[], None]]


class Turn(NamedTuple):
    """What a server is told when it begins.

    Arguments: `generation`: how many there were before; `blamed`: the last of them has died of itself; `keeper`: the connection with us;
    `kept`: descriptors that we hold for servers, by what they are for.
    """

    generation: int
    blamed: bool
    keeper: Optional[_socket.socket]
    kept: dict[int, int]


class _Trial:
    """A child that loads a newer version, whose program comes through the connection with who asked for it.

    Not through the server, who might put another in its place: it has given up rights that we have (confinement.py).
    """

    def __init__(self, connection: _socket.socket, load: Callable[[str], object]) -> None:
        self._connection = connection
        self.deadline = time.monotonic() + TRIAL_SECONDS
        self.reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                connection.settimeout(TRIAL_SECONDS)
                connection.sendall(as_line({"send": "program"}))
                load(self.program(_socket.MSG_PEEK))
                os.write(writing, b"\0")
            except BaseException as e:
                os.write(writing, f"{type(e).__name__}: {e}".encode(errors="replace"))
            finally:
                os._exit(0)
        os.close(writing)

    def program(self, flags: int = 0) -> str:
        """The text of the program. Raises OSError, or ValueError if there is none."""
        received = receive(self._connection, flags)
        if not received.fds:
            raise ValueError("no program came")
        with os.fdopen(received.fds.pop(), "rb") as file:
            file.seek(0)
            return file.read().decode()

    def outcome(self) -> str:
        """What went wrong, or nothing. To be called when there is something to read, or the time is over."""
        said = b""
        if time.monotonic() < self.deadline:
            said = os.read(self.reading, 4096) or b"it ended without a word"
        else:
            os.kill(self._pid, signal.SIGKILL)
        os.close(self.reading)
        os.waitpid(self._pid, 0)
        return said.rstrip(b"\0").decode(errors="replace") if said else f"it was not loaded within {TRIAL_SECONDS:.0f} s"

    def answer(self, answer: dict[str, Any]) -> None:
        _answer(self._connection, answer)


class Keeper:
    """Keeps one mount served.

    Arguments: `serve(turn)` is what a server does; `hand_over()`: what a newer version has to know.
    """

    def __init__(self, serve: Callable[[Turn], None], hand_over: Callable[[], dict[str, Any]]) -> None:
        self._serve = serve
        self._hand_over = hand_over
        self._generation = 0
        self._blamed = False
        self._kept: dict[int, int] = {}
        self._pid = 0
        self._channel: _socket.socket
        self._trial: Optional[_Trial] = None
        self._heir: Optional[Heir] = None
        self._stop_by = 0.0  # when the server has to have stopped

    def begin(self, generation: int, kept: dict[int, int]) -> str:
        """Start a server after `generation` others, and see that it serves. Returns why it does not, or nothing."""
        self._generation, self._kept = generation, kept
        self._start()
        while select.select([self._channel], [], [], TRIAL_SECONDS)[0]:
            received = receive(self._channel)
            if received.text == SERVING:
                return ""
            if not received.text:
                break
            self._attend(received)
        else:
            os.kill(self._pid, signal.SIGKILL)
        return f"its server {_cause(self._bury())}"

    def keep(self) -> Optional[Heir]:
        """Have a process serve until one returns; each that dies before is followed by another. Returns the newer version, if one came."""
        hasty = 0
        while True:
            born = time.monotonic()
            if not self._pid:
                self._start()
            self._watch()
            pid, status = self._pid, self._bury()
            if status == 0:
                if self._trial is not None:
                    self._trial.answer({"error": "it was unmounted"})
                return None
            self._generation += 1
            self._blamed = False
            if self._heir is not None and self._is_succeeded(self._heir):
                return self._heir
            self._heir = None
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == STOPPED:
                continue
            # Who is killed from outside is not to blame; who dies of itself again and again should not take all the processor for it.
            self._blamed = not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
            hasty = hasty + 1 if time.monotonic() - born < HASTY_SECONDS and self._blamed else 0
            say(f"server {pid} {_cause(status)}; another one goes on")
            if hasty >= HASTY_DEATHS:
                time.sleep(PAUSE_SECONDS)

    def _start(self) -> None:
        self._channel, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                self._channel.close()
                self._serve(Turn(self._generation, self._blamed, theirs, self._kept))
                code = 0
            finally:
                # not the interpreter's tidying up: a thread may be in the middle of something, and nothing is left to save
                os._exit(code)
        theirs.close()

    def _bury(self) -> int:
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        self._channel.close()
        return status

    def _watch(self) -> None:
        """Until the server has ended, and with it its end of the channel: listen to what it says, and to a trial."""
        while True:
            waiting: list[Any] = [self._channel]
            deadline = None
            if self._heir is not None:
                deadline = self._stop_by
            elif self._trial is not None:
                waiting.append(self._trial.reading)
                deadline = self._trial.deadline
            ready, _, _ = select.select(waiting, [], [], None if deadline is None else max(deadline - time.monotonic(), 0))
            if self._channel in ready:
                received = receive(self._channel)
                if not received.text:
                    return
                if received.text == RESTART:
                    self._try(received)
                else:
                    self._attend(received)
            elif self._heir is not None:
                os.kill(self._pid, signal.SIGKILL)  # which it is prepared for, too
            elif self._trial is not None:
                self._judge(self._trial)

    def _attend(self, received: Received) -> None:
        """A server has a descriptor for us to keep, or has no use for it any more."""
        word, _, number = received.text.partition(b" ")
        if word in (KEEP, GIVE_BACK):
            before = self._kept.pop(int(number), -1)
            if before >= 0:
                os.close(before)
        if word == KEEP and received.fds:
            self._kept[int(number)] = received.fds.pop()
        received.close()

    # -- a newer version

    def _try(self, received: Received) -> None:
        if not received.fds:
            return
        connection = _socket.socket(fileno=received.fds.pop())
        pid, uid = peer_of(connection)
        if pid == self._pid or uid not in (0, os.geteuid()):
            connection.close()
        elif self._trial is not None:
            _answer(connection, {"error": "it is being restarted already"})
        else:
            self._trial = _Trial(connection, self._load)

    def _load(self, text: str) -> Heir:
        scope: dict[str, Any] = {"__name__": "cowroot-renewal"}
        exec(compile(text, "cowroot-renewal", "exec", dont_inherit=True), scope)
        heir: Heir = scope["take_over"](self._hand_over())
        return heir

    def _judge(self, trial: _Trial) -> None:
        """The trial is over: if it went well, have the new version here, and the server stop."""
        error = trial.outcome()
        if not error:
            try:
                self._heir = self._load(trial.program(_socket.MSG_DONTWAIT))
            except BaseException as e:
                error = f"{type(e).__name__}: {e}"
        if error:
            self._trial = None
            trial.answer({"error": f"the new version does not come up, so the old one goes on: {error}"})
            return
        self._stop_by = time.monotonic() + TRIAL_SECONDS
        with contextlib.suppress(OSError):  # it has just died, which is as good
            self._channel.send(STOP)

    def _is_succeeded(self, heir: Heir) -> bool:
        """True if the new version serves now; then nothing is left to do here."""
        begin, _, undo = heir
        try:
            error = begin(self._generation, self._kept)
        except Exception as e:
            complain("restart", e)
            error = f"{type(e).__name__}: {e}"
        trial, self._trial = self._trial, None
        assert trial is not None
        if not error:
            trial.answer({"generation": self._generation})
            return True
        undo()
        self._generation += 1
        say(f"the new version does not serve, so the old one goes on: {error}")
        trial.answer({"error": f"the new version does not serve, so the old one goes on: {error}"})
        return False


def _answer(connection: _socket.socket, answer: dict[str, Any]) -> None:
    """Answer who asked through `connection`, and close it. Who has gone away, or reads nothing, goes without."""
    with contextlib.suppress(OSError):
        connection.settimeout(1)
        connection.sendall(as_line(answer))
    connection.close()


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with code {os.WEXITSTATUS(status)}"
