"""Who takes part: each knows how to mount the layers of a turn and how to take the mount away, and what can be read off its daemon."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from benchmarks.stage import Layers, run
from cowroot.errors import CowrootError
from cowroot.fuse import control
from cowroot.fuse.latency import DEVICE
from cowroot.fuse.rank import PRECEDENCE

_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h
_PATIENCE = 60.0  # seconds for a mount to appear, or a daemon to end


@dataclass(frozen=True)
class Meter:
    """What a daemon has used up to now: processor time in seconds, memory in bytes, requests by operation where it counts them."""

    cpu: Optional[float] = None
    memory: Optional[int] = None
    requests: Optional[dict[str, int]] = None


class Contender:
    """`id`: on the command line and in JSON; `label`: in tables; `ours`: a failure is a fault, and not a limit of somebody else's."""

    ours = False

    def __init__(self, id: str, label: str) -> None:
        self.id = id
        self.label = label

    def missing(self) -> str:
        """Why it cannot take part here; empty if it can."""
        return ""

    def version(self) -> str:
        return ""

    def up(self, layers: Layers) -> None:
        """Mount. Raises OSError."""
        raise NotImplementedError

    def down(self, layers: Layers) -> None:
        """Unmount, and wait until nothing holds on to the layers."""
        _unmount(layers.point)

    def meter(self, layers: Layers) -> Meter:
        return Meter()


class Plain(Contender):
    """A copy of the layers in memory; for what changes nothing the lower itself, if it is one."""

    def up(self, layers: Layers) -> None:
        if not layers.changes and len(layers.lowers) == 1:
            run("mount", "--bind", layers.lowers[0], layers.point)
            return
        _copy(layers, layers.point)

    def down(self, layers: Layers) -> None:
        if os.path.ismount(layers.point):
            super().down(layers)


class Overlayfs(Contender):
    """The kernel's own union: what all others are compared with."""

    def version(self) -> str:
        return "Linux " + os.uname().release.partition("-")[0]

    def up(self, layers: Layers) -> None:
        words = f"lowerdir={layers.lowerdir()},upperdir={layers.upper},workdir={layers.work}"
        run("mount", "-t", "overlay", "-o", words, "overlay", layers.point)


class _Served(Contender):
    """A union with a daemon, which is found by the mount point on its command line."""

    def down(self, layers: Layers) -> None:
        with contextlib.ExitStack() as stack:
            daemons = [os.pidfd_open(pid) for pid in _serving(layers.point)]
            for daemon in daemons:
                stack.callback(os.close, daemon)
            super().down(layers)
            _wait(lambda: len(select.select(daemons, [], [], 0)[0]) == len(daemons), f"{self.label} has ended")

    def meter(self, layers: Layers) -> Meter:
        daemons = _serving(layers.point)
        return Meter(cpu=sum(map(_cpu_seconds, daemons)), memory=sum(map(_memory, daemons)))


class Peer(_Served):
    """Another program: `command` with {lower}, {upper}, {work} and {point} filled in; stays in the foreground.

    `joined`: what stands between two lower layers.
    """

    def __init__(self, id: str, command: tuple[str, ...], joined: str = ":") -> None:
        super().__init__(id, id)
        self.command = command
        self._joined = joined
        self._process: Optional[subprocess.Popen[bytes]] = None

    def missing(self) -> str:
        return "" if shutil.which(self.command[0]) else f"{self.command[0]} is not installed"

    def version(self) -> str:
        said = subprocess.run([self.command[0], "--version"], capture_output=True, text=True, timeout=_PATIENCE, check=False)
        lines = [line for line in (said.stdout + said.stderr).splitlines() if self.id in line]
        return lines[0].split()[-1] if lines else "?"

    def words(self, layers: Layers) -> list[str]:
        lower = self._joined.join(map(str, layers.lowers))
        return [word.format(lower=lower, upper=layers.upper, work=layers.work, point=layers.point) for word in self.command]

    def up(self, layers: Layers) -> None:
        words = self.words(layers)
        # in a session of its own, as daemons are, ours too: the scheduler shares processors out between sessions (sched(7), autogroup)
        nowhere = subprocess.DEVNULL
        process = self._process = subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
        _wait(lambda: os.path.ismount(layers.point) or process.poll() is not None, f"{self.label} has mounted")
        _take_precedence(process.pid)
        if process.poll() is not None:
            raise OSError(f"{self.label} ended with exit code {process.returncode} instead of mounting")

    def down(self, layers: Layers) -> None:
        _unmount(layers.point)
        if self._process is not None:
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class NoUnion(Peer):
    """Not a union: the example of libfuse 3 that shows one directory elsewhere, in C, with everything cached that it can have cached.

    What it takes no FUSE server can do without. It is given what `Plain` is: a copy in memory, or the lower where nothing is changed. And
    processors are kept awake for it, as ours do for themselves.
    """

    _SOURCE = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
    _COMPILE = ("-O2", "-D_FILE_OFFSET_BITS=64", "-DHAVE_COPY_FILE_RANGE", "-I/usr/include/fuse3", "-x", "c")
    _OPTIONS = "source={source},xattr,cache=always,timeout=86400,default_permissions,allow_other"

    def __init__(self) -> None:
        super().__init__(NO_UNION, ("{program}", "-f", "-s", "-o", self._OPTIONS, "{point}"))
        self.label = "no union, C"
        self._awake = -1

    def up(self, layers: Layers) -> None:
        self._awake = os.open(DEVICE, os.O_WRONLY)
        try:
            os.write(self._awake, bytes(4))
            super().up(layers)
        except BaseException:
            os.close(self._awake)
            raise

    def down(self, layers: Layers) -> None:
        super().down(layers)
        os.close(self._awake)

    def missing(self) -> str:
        if not self._SOURCE.exists():
            return f"{self._SOURCE} is not there: install libfuse3-dev"
        return "" if shutil.which("cc") else "cc is not installed"

    def version(self) -> str:
        return "libfuse " + run("dpkg-query", "--show", "--showformat", "${Version}", "libfuse3-dev").partition("-")[0]

    def words(self, layers: Layers) -> list[str]:
        program = layers.base / "passthrough_ll"
        run("cc", *self._COMPILE, self._SOURCE, "-lfuse3", "-lpthread", "-o", program)
        source = layers.lowers[0]
        if layers.changes or len(layers.lowers) > 1:
            source = layers.upper
            _copy(layers, source)
        return [word.format(program=program, source=source, point=layers.point) for word in self.command]


class Cowroot(_Served):
    """One of our engines, mounted by the command."""

    ours = True

    def __init__(self, id: str, label: str, options: str) -> None:
        super().__init__(id, label)
        self.options = options

    def up(self, layers: Layers) -> None:
        words = f"lowerdir={layers.lowerdir()},upperdir={layers.upper},workdir={layers.work},{self.options}"
        if "overlayfs" not in self.options:
            words += f",control={layers.base}/control"
        run(sys.executable, "-m", "cowroot", "mount", "-o", words, layers.point)

    def meter(self, layers: Layers) -> Meter:
        if "overlayfs" in self.options:
            return Meter()
        meter = super().meter(layers)
        try:
            status = control.ask(control.socket_of(os.fspath(layers.point), f"{layers.base}/control"))
        except CowrootError as e:
            raise OSError(e.message) from None
        return Meter(meter.cpu, meter.memory, status["requests"])


OVERLAYFS, NO_UNION = "overlayfs", "no-union"
_UNIONFS = ("unionfs-fuse", "-f", "-o", "cow,allow_other,suid,dev", "{upper}=RW:{lower}=RO", "{point}")
_MERGERFS = ("mergerfs", "-f", "-o", "allow_other,suid,dev,category.create=ff", "{upper}=RW:{lower}=NC", "{point}")
CONTENDERS: tuple[Contender, ...] = (
    Overlayfs(OVERLAYFS, "kernel overlayfs"),
    Cowroot("direct", "direct", "engine=direct"),
    # 7.40 brought passthrough
    Cowroot("direct-no-passthrough", "direct, no passthrough", "engine=direct,protocol=7.39"),
    Cowroot("fusepy", "fusepy", "engine=fusepy"),
    Cowroot("cowroot-overlayfs", "engine overlayfs", "engine=overlayfs"),
    Peer("fuse-overlayfs", ("fuse-overlayfs", "-f", "-o", "lowerdir={lower},upperdir={upper},workdir={work}", "{point}")),
    Peer("unionfs-fuse", _UNIONFS, "=RO:"),
    Peer("mergerfs", _MERGERFS, "=NC:"),
    NoUnion(),
    Plain("plain", "plain copy"),
)


def _copy(layers: Layers, target: Path) -> None:
    """Make a plain directory of what a union of the lower layers would show."""
    for lower in reversed(layers.lowers):
        run("cp", "-aT", lower, target)


def _serving(point: Path) -> list[int]:
    """The processes that were started with this mount point."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
                if os.fsencode(point) in file.read().split(b"\0"):
                    found.append(int(entry))
    return found


def _take_precedence(pid: int) -> None:
    """Give somebody else's daemon the precedence that ours take: what is compared is not how the scheduler treats them."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, PRECEDENCE)
        with open(f"/proc/{pid}/autogroup", "w") as autogroup:
            autogroup.write(f"{PRECEDENCE}")


def _cpu_seconds(pid: int) -> float:
    """Processor time of all threads, of those that have ended too, to the nanosecond."""
    try:
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)  # what clock_getcpuclockid(3) makes of a process's number
    except OSError:  # ended meanwhile
        return 0.0


def _memory(pid: int) -> int:
    """Proportional set size: what several processes share, such as a server and the keeper it was forked from, is counted once in all."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):  # ended meanwhile
        return 0


def _unmount(point: Path) -> None:
    deadline = time.monotonic() + _PATIENCE / 6
    while os.path.ismount(point):
        try:
            run("umount", point)
        except OSError:
            if time.monotonic() > deadline:
                run("umount", "-l", point)
            time.sleep(0.05)


def _wait(what: Callable[[], bool], meaning: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not what():
        if time.monotonic() > deadline:
            raise OSError(f"not within {_PATIENCE:.0f} s: {meaning}")
        time.sleep(0.005)
