"""A virtual machine at the end of a pseudo-terminal: its console goes to a file, what it says can be waited for, a hang ends.

The two kinds of machine (``uml``, ``qemu``) differ in how their command lines come about; this is what they have in common.
"""
from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pexpect

PATIENCE = float(os.environ.get("COWROOT_PATIENCE", "1"))
"""What the limits for a machine's answers are multiplied by: a slow computer can raise them all."""
STATE = r"COWROOT-STATE: (\S+) ([\d.]+)"
VERDICT = r"COWROOT-VERDICT: (pass|fail) (\S+) ?([^\r\n]*)\r"
ENDING = r"COWROOT-ENDING: (poweroff|reboot)"
# What a shutdown says when something in it had to be waited for, or was left behind. Images and encrypted devices that the union has as
# layers stay in use to the very end.
_UNCLEAN = (
    r"[Tt]imed out|stop job is running|Waiting for process|Fail\w* (to )?unmount|Could not (?!detach (loopback|DM))|blocked for more than"
    r"|Oops:|Kernel panic"
)
_TAIL_LINES = 40
_PR_SET_PDEATHSIG = 1
# Escape sequences of firmware and GRUB, which clear the screen of whoever reads the file.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[c()][A-Z0-9]?)")


class BootError(Exception):
    """A guest did not do what was waited for; the message has the end of its console and the file that has all of it."""


@dataclass
class Console:
    """The console's text, written to a file as it arrives."""

    path: Path
    listener: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self.file = self.path.open("w", encoding="utf-8", errors="replace", newline="")

    def write(self, text: str) -> None:
        """Take what the guest has said (called by pexpect)."""
        self.file.write(text)
        if self.listener:
            self.listener(text)

    def flush(self) -> None:
        """Let others see it (called by pexpect)."""
        self.file.flush()

    def lines(self) -> list[str]:
        """Return all lines so far, without terminal control."""
        if not self.file.closed:
            self.file.flush()
        return _ESCAPES.sub("", self.path.read_text(encoding="utf-8", errors="replace")).replace("\r", "").split("\n")

    def tail(self) -> str:
        """Return the last lines that say something, as the end of a message."""
        last = [line for line in self.lines() if line.strip()][-_TAIL_LINES:]
        return "\n".join([f"  the end of the console, all of which is in {self.path}:", *(f"    {line}" for line in last)])


def clean_up_on_sigterm() -> None:
    """Have SIGTERM do as Ctrl-C does: the kernel's help for a machine without parent (below) reaches only UML's first process."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _die_with_parent() -> None:
    """Have the kernel kill the machine when we are killed (prctl(2), PR_SET_PDEATHSIG): no machine outlives its test."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """A running virtual machine. A context manager: leaving it ends the machine, whatever state it is in."""

    def __init__(
        self,
        command: Sequence[str],
        console: Path,
        environment: dict[str, str] | None = None,
        listener: Callable[[str], None] | None = None,
    ) -> None:
        """Start ``command``, whose standard input and output are the guest's console; ``listener`` is called with what that says."""
        self.console = Console(console, listener)
        self.began = time.monotonic()
        self._process = pexpect.spawn(
            command[0], list(command[1:]), env={**os.environ, **(environment or {})}, encoding="utf-8", codec_errors="replace",
            logfile=None, echo=False, timeout=None, preexec_fn=_die_with_parent, dimensions=(50, 200),
        )
        self._process.logfile_read = self.console
        self._process.delaybeforesend = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def kill(self) -> None:
        """End the machine and all its processes at once (UML has one per guest process), and close the console's file."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # pexpect makes it the leader of a session
        self._process.wait()  # pexpect alone waits for some tenths of a second, in which a busy computer does not free a guest's memory
        self._process.close()
        self.console.file.close()

    def wait_for(self, pattern: str, limit: float, what: str = "") -> re.Match[str]:
        """Wait at most ``limit`` seconds (times PATIENCE) for ``pattern`` on the console and return the match.

        Raises BootError if the machine ends before, or the time does.
        """
        limit *= PATIENCE
        try:
            self._process.expect(pattern, timeout=limit)
        except pexpect.TIMEOUT:
            raise self.error(f"no {what or pattern!r} within {limit:.0f} s") from None
        except pexpect.EOF:
            raise self.error(f"the machine ended before {what or repr(pattern)}") from None
        match = self._process.match
        assert isinstance(match, re.Match)
        return match

    def wait_for_end(self, limit: float) -> float:
        """Wait at most ``limit`` seconds (times PATIENCE) for the machine to end by itself; return those waited. Raises BootError."""
        limit *= PATIENCE
        began = time.monotonic()
        try:
            self._process.expect(pexpect.EOF, timeout=limit)
        except pexpect.TIMEOUT:
            raise self.error(f"it had not ended {limit:.0f} s later") from None
        return time.monotonic() - began

    def send(self, text: str) -> None:
        """Type ``text`` and the enter key on the console."""
        self._process.sendline(text)

    @property
    def seconds(self) -> float:
        """Seconds since the machine's start."""
        return time.monotonic() - self.began

    @property
    def cpu_seconds(self) -> float:
        """Seconds of processor time that the machine's own process has taken (proc(5), /proc/PID/stat: utime and stime)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def before(self) -> str:
        """What the console said between the two last matches; of a line that was written over, what came last."""
        text = re.sub(r"\r+\n", "\n", _ESCAPES.sub("", str(self._process.before)))
        return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))

    def error(self, text: str) -> BootError:
        """Return the error that says ``text`` and shows the end of the console."""
        return BootError(f"{text}\n{self.console.tail()}")


@dataclass(frozen=True)
class Ended:
    """How a boot with a check went: the guest's verdict, and how long things took.

    ``running`` is the seconds from the machine's start to the end of the guest's start-up, ``kernel_running`` the same as the guest
    counts it (from its kernel's start), ``ending`` the seconds from the request to power off or reboot to the end of the machine.
    """

    name: str
    passed: bool
    reason: str
    state: str
    running: float
    kernel_running: float
    ending: float
    console: Console

    def complaints(self) -> list[str]:
        """Return what the guest said between its request to end and its end that a clean ending does not say."""
        lines = self.console.lines()
        request = max(number for number, line in enumerate(lines) if re.search(ENDING, line))
        return [line for line in lines[request:] if re.search(_UNCLEAN, line)]

    def lines_with(self, pattern: str) -> list[str]:
        """Return the console's lines that ``pattern`` occurs in."""
        return [line for line in self.console.lines() if re.search(pattern, line)]


def attend(machine: Machine, limit: float, ending_limit: float) -> Ended:
    """Follow a guest with a check to its end: at most ``limit`` seconds for its start-up and twice that for its check.

    Raises BootError if there is no verdict by then, or if the guest has not ended ``ending_limit`` seconds after it wanted to.
    """
    state = machine.wait_for(STATE, limit, "end of the guest's start-up")
    running = machine.seconds
    verdict = machine.wait_for(VERDICT, 2 * limit, "verdict")
    ending = machine.wait_for(ENDING, 30, "request to end").group(1)
    seconds = machine.wait_for_end(ending_limit) if ending == "poweroff" else _wait_for_restart(machine, ending_limit)
    return Ended(
        name=verdict.group(2), passed=verdict.group(1) == "pass", reason=verdict.group(3), state=state.group(1),
        running=running, kernel_running=float(state.group(2)), ending=seconds, console=machine.console,
    )


def _wait_for_restart(machine: Machine, limit: float) -> float:
    """Wait for the kernel to say that it restarts: UML would then boot again by itself, and QEMU's -no-reboot ends it."""
    began = time.monotonic()
    machine.wait_for(r"reboot: Restarting", limit, "restart of the kernel")
    return time.monotonic() - began
