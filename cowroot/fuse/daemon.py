"""The process that serves a union.

What it has to survive is in each function's words: switch-root and the shutdown's kill spree (by its name, `@cowroot`), being stopped by
systemd-shutdown, the out-of-memory killer, and the move of everything it was started from. Once serving it opens nothing by absolute path,
imports nothing and asks nobody: its own file system might be what it would wait for.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
import typing
from types import FrameType
from typing import TYPE_CHECKING, Any, Callable, Optional
from typing import Union as EitherOf

import cowroot
from cowroot.errors import CowrootError, MountError
from cowroot.fuse import confinement, control, kernel, rank
from cowroot.fuse import protocol as p
from cowroot.fuse.keeper import SERVING, STOPPED, Keeper, Turn
from cowroot.fuse.latency import Latency
from cowroot.fuse.options import MountOptions
from cowroot.fuse.reports import complain, complain_unraisable, detach_output, tell
from cowroot.mountinfo import mounted_at, mounts
from cowroot.union import Union
from cowroot.union.handover import hand_over, take_over
from cowroot.union.layers import Layer
from cowroot.union.syscalls import enter_fd_directory

if TYPE_CHECKING:
    from cowroot.fuse.direct.engine import DirectEngine
    from cowroot.fuse.fusepy_engine import FusepyEngine

# Periods of the timers that wake the daemon when it is stopped; normally it stays so for no longer than the first. One timer is not
# enough: a stop discards a SIGCONT that is pending (kernel/signal.c, prepare_signal), and a timer whose signal was never delivered does
# not run again. On a busy machine that happens: 2 of 300 shutdowns hung so. All of these are pending at once only in a process that has
# not run since the last of them was due.
REVIVE_SECONDS = (0.2, 0.7, 1.9, 5.3, 11.0)
OMIT_DIRECTORIES = ("/run/sendsigs.omit.d", "/lib/init/rw/sendsigs.omit.d")  # pids that sysvinit's and Upstart's kill spree leaves alone
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# KiB. More makes reading in order no faster, but faults in a mapping, of which each reads as much around it, slower.
READ_AHEAD = 512
FORM = 1  # of what one version of this program tells another

GoOn = Callable[[], Any]
"""What a newer version does: keep the mount served, and return what is to be called then, or None."""


class Daemon:
    """One union from open layers to unmounted.

    Arguments: `options`: of the mount; `mountpoint`: absolute; `report`: where to say that it is mounted, or why not: a pipe's
    descriptor, or None in the foreground; `inherited`: see `inherit`.
    """

    def __init__(
        self, options: MountOptions, mountpoint: str, report: Optional[int], inherited: Optional[dict[str, Any]] = None
    ) -> None:
        self._options = options
        self._mountpoint = mountpoint
        self._report = report
        self._foreground = report is None
        self._started = time.monotonic()
        self._latency = Latency(options.low_latency, fd=inherited["latency"] if inherited else None)
        self._union: Union
        self._engine: EitherOf[FusepyEngine, DirectEngine]
        self._device = ""
        self._proc = -1
        self._statm = -1
        self._omit: list[int] = []
        self._keeper = 0
        self._generation = 0
        self._locked = False
        self._unfiltered = ""  # why the kernel refuses us no system calls
        self._confined = bool(inherited and inherited.get("confined"))  # the keeper; earlier versions were not
        self._direct: Optional[DirectEngine] = None  # the engine, if it is one that can go on where another process was killed
        self._servers = Keeper(self._serve, self.hand_over)
        questions = {"status": self.status, "writers": self.writers}
        self._control = control.ControlServer(questions, self._unmount, inherited["control"] if inherited else None)

    def run(self) -> Optional[GoOn]:
        """Mount and serve until unmounted, or until a newer version has taken over: then that is returned.

        Raises CowrootError if it does not come to a mount.
        """
        rank.prepare(own_session=self._report is not None)
        self._union = Union.open(self._options.layers()._replace(mountpoint=self._mountpoint))
        try:
            self._engine = self._make_engine()
            self._handle_signals()  # before libfuse does: it takes only those that are at their default
            self._mount()
            try:
                self._listen()
                self._settle()
            except BaseException:
                self._unmount_all()
                raise
        except BaseException:
            self._union.close()
            raise
        return self.keep()

    def keep(self) -> Optional[GoOn]:
        """Have it served, once it is mounted."""
        heir = None
        try:
            if self._direct is not None:
                self._keeper = os.getpid()
                self._ready()
                self._confine_keeper()
                heir = self._servers.keep()
            else:
                self._serve(Turn(0, False, None, {}))
        finally:
            if heir is None:
                self._unmount_all()
                self._union.close()
        return heir[1] if heir is not None else None

    def _unmount_all(self) -> None:
        self._control.remove_socket()
        self._engine.close()

    # -- from one version of this program to the next

    def hand_over(self) -> dict[str, Any]:
        """What another version has to know to go on with the mount, in plain values."""
        assert self._direct is not None
        return {
            "form": FORM, "options": self._options.text, "mountpoint": self._mountpoint, "device": self._device,
            "foreground": self._foreground, "started": self._started, "proc": self._proc, "omit": self._omit,
            "latency": self._latency.fd, "confined": self._confined,
            "control": self._control.hand_over(), "layers": hand_over(self._union.layers), "engine": self._direct.hand_over(),
        }  # fmt: skip

    @classmethod
    def inherit(cls, state: dict[str, Any]) -> Daemon:
        """The daemon that goes on where another version says this in `hand_over`. Raises MountError if it cannot."""
        if state["form"] != FORM:
            raise MountError("what is running is of another kind", hint="reboot, or unmount and mount again")
        enter_fd_directory(state["proc"])
        daemon = cls(MountOptions.parse(state["options"]), state["mountpoint"], None, state)
        daemon._foreground, daemon._started, daemon._device = state["foreground"], state["started"], state["device"]
        daemon._proc, daemon._omit = state["proc"], state["omit"]
        daemon._union = Union(take_over(state["layers"]))
        daemon._engine = daemon._make_direct_engine(state["engine"])
        return daemon

    def begin(self, generation: int, kept: dict[int, int]) -> str:
        """Begin to serve what was inherited, after `generation` servers. Returns why that did not go well, or nothing."""
        self._keeper = os.getpid()
        return self._servers.begin(generation, kept)

    def go_on(self) -> Optional[GoOn]:
        """What `run` does after the mount, for what was inherited and has begun to serve: from here on nobody takes it back."""
        self._handle_signals()
        self._come_to_rest()
        return self.keep()

    def _make_engine(self) -> EitherOf[FusepyEngine, DirectEngine]:
        """Import one engine, not both: what it takes to start is part of every boot."""
        engine = self._options.engine
        if engine == "auto":
            engine = "direct" if kernel.release() >= kernel.FUSE_7_31 else "fusepy"
        if engine == "direct":
            return self._make_direct_engine()
        from cowroot.fuse.fusepy_engine import FusepyEngine

        return FusepyEngine(self._union, complain, self._latency)

    def _make_direct_engine(self, inherited: Optional[dict[str, Any]] = None) -> DirectEngine:
        from cowroot.fuse.direct.engine import DirectEngine

        self._direct = DirectEngine(self._union, complain, self._latency, self._options.protocol, inherited)
        return self._direct

    def _handle_signals(self) -> None:
        """What serves a root is not to be ended by a signal; a mount made by hand ends as if by umount -l."""
        for number in ENDING_SIGNALS:
            if self._options.boot:
                signal.signal(number, signal.SIG_IGN)
            else:
                signal.signal(number, self._note)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _mount(self) -> None:
        before = mounted_at(self._mountpoint)
        self._engine.mount(self._mountpoint, self._options)
        mount = mounted_at(self._mountpoint)
        if mount is None or mount == before:
            raise MountError(f"{self._mountpoint}: mounted, but not in the table of mounts")
        self._device = mount.device

    def _listen(self) -> None:
        directory = self._options.control or control.default_directory()
        if directory:
            self._control.listen(directory, f"{self._device}.sock")

    def _settle(self) -> None:
        """The last things done by path. From here on only descriptors count."""
        if self._options.boot:
            for directory in OMIT_DIRECTORIES:
                with contextlib.suppress(OSError):
                    self._omit.append(os.open(f"{directory}/cowroot", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
        if self._engine.name == "direct":  # which is asked for as much at once; libfuse never for more than 128 KiB
            with contextlib.suppress(OSError):  # not root, or without a /sys
                kernel.set_read_ahead(self._device, READ_AHEAD)
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        enter_fd_directory(self._proc)
        self._come_to_rest()

    def _serve(self, turn: Turn) -> None:
        """Answer requests, in the process that does so."""
        self._generation = turn.generation
        enter_fd_directory(self._proc)  # this process's own
        self._statm = os.open("self/statm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        signal.set_wakeup_fd(self._control.signal_fd, warn_on_full_buffer=False)
        if not self._foreground:
            # systemd-shutdown stops all processes, `@` or not, and then waits for files on the root that we serve
            for seconds in REVIVE_SECONDS:
                kernel.signal_every(signal.SIGCONT, seconds)
        for fd in self._omit:
            os.pwrite(fd, b"%d\n%d\n" % (self._keeper or os.getpid(), os.getpid()), 0)
        self._lock_memory()
        self._confine()
        try:
            if self._direct is not None:
                self._direct.inodes.trustee.begin(turn.keeper, turn.kept)
                if turn.generation:
                    self._direct.take_over(turn.generation, turn.blamed)
            self._control.start(turn.keeper, self._stop)
            self._union.reserve.start()
            if turn.keeper is not None:
                turn.keeper.send(SERVING)
            self._engine.serve(self._ready)
        except Exception as e:
            complain("server", e)
            raise

    def _lock_memory(self) -> None:
        """Where that is asked for. A child does not inherit it: the keeper needs it, and each server."""
        if self._options.lock_memory:
            try:
                kernel.lock_memory()
                self._locked = True
            except OSError as e:
                self._locked = False
                complain("lock_memory", e)

    def _confine(self) -> None:
        """Give up what serving needs not."""
        if os.geteuid() == 0:
            confinement.give_up_capabilities(self._locked)
        elif not self._keeper:
            self._unfiltered = "libfuse has fusermount unmount"  # which would not be what it is with no_new_privs
            return
        self._unfiltered = confinement.refuse_system_calls(frozenset() if self._keeper else confinement.ALONE)

    def _confine_keeper(self) -> None:
        """Give up what neither keeping nor serving needs: no server gets more than its keeper has. Once: each filter costs at each call."""
        if os.geteuid() == 0 and not self._confined:
            confinement.give_up_capabilities(self._options.lock_memory)
            confinement.refuse_system_calls(confinement.KEEPING)
            self._confined = True

    def _stop(self) -> None:
        """Make room for another server."""
        if self._direct is not None:
            self._direct.stop()
            os._exit(STOPPED)

    def _ready(self) -> None:
        if self._report is not None:
            tell(self._report, "mounted", self._device)
            detach_output()
            self._report = None

    def _come_to_rest(self) -> None:
        sys.unraisablehook = complain_unraisable
        gc.freeze()  # what is here is here to stay: no collection need look at it
        gc.enable()
        self._lock_memory()

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        """Of a server, Python tells the control thread of the signal, and there is nothing to do here."""
        if os.getpid() == self._keeper:
            with contextlib.suppress(OSError):
                self._unmount()

    def _unmount(self) -> None:
        """A signal asked for the end: what is open stays served until it is closed. In the keeper, which may unmount, or where none is."""
        if self._keeper not in (0, os.getpid()):
            os.kill(self._keeper, signal.SIGTERM)
            return
        for mount in mounts():
            if mount.device == self._device:
                with contextlib.suppress(OSError):
                    kernel.unmount_lazily(mount.point)

    def status(self) -> dict[str, Any]:
        """What the control socket tells: sizes in bytes, times in seconds, requests by operation."""
        engine, layers = self._engine, self._union.layers
        pages = int(os.pread(self._statm, 200, 0).split()[1])
        named = [("lower", layer) for layer in layers.lower]
        named += [(kind, layer) for kind, layer in (("upper", layers.upper), ("work", layers.work)) if layer is not None]
        return {
            "engine": engine.name,
            "version": cowroot.__version__,
            "pid": self._keeper or os.getpid(),
            "server": os.getpid(),
            "generation": self._generation,
            "uptime": round(time.monotonic() - self._started, 3),
            "mountpoint": self._mountpoint,
            "device": self._device,
            "layers": [_layer(kind, layer, layers.fault_of_upper() if kind == "upper" else "") for kind, layer in named],
            "capabilities": confinement.names(confinement.capabilities()),
            "system_calls": self._unfiltered or "filtered",
            "reserve": {"size": self._union.reserve.size, "held": self._union.reserve.held},
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
            "open_files": engine.open_files,
            "nodes": len(engine.inodes),
            "protocol": "{}.{}".format(*engine.protocol),
            "kernel_protocol": "{}.{}".format(*engine.kernel_protocol),
            "features": engine.features,
            "missing_features": engine.missing,
            "locked": self._locked,
            "low_latency": self._latency.is_possible,
            "requests": {p.OPCODES.get(number, str(number)): count for number, count in enumerate(engine.counts) if count},
        }

    def writers(self) -> dict[str, Any]:
        """Who wrote the files of the upper."""
        upper = self._union.layers.upper
        return self._engine.writers.answer(0 if upper is None else upper.fs)


def _layer(kind: str, layer: Layer, fault: str) -> dict[str, Any]:
    """What is to be known of a layer; `error`: why it cannot be used as it should, as far as that can be seen."""
    said = {"kind": kind, "path": layer.label, "filesystem": "", "error": fault, "size": 0, "free": 0, "inodes": 0, "free_inodes": 0}
    try:
        space = os.fstatvfs(layer.fd)
        said["filesystem"] = kernel.file_system_type(layer.fd)
    except OSError as e:  # its disk is going: the more it is to be known what else there is
        said["error"] = fault or e.strerror or str(e)
        return said
    said["size"], said["free"] = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    said["inodes"], said["free_inodes"] = space.f_files, space.f_ffree
    return said


def main(arguments: list[str]) -> None:
    """Run the daemon: [--modules DIR] [--report FD] OPTIONS MOUNTPOINT. Ends the process."""
    report: Optional[int] = None
    while arguments[0].startswith("--"):
        if arguments[0] == "--modules":
            sys.path.append(arguments[1])
        elif arguments[0] == "--report":
            report = int(arguments[1])
            os.set_inheritable(report, False)
        del arguments[:2]
    code = _run(arguments[0], arguments[1], report)
    # not the interpreter's tidying up: the control thread may be in the middle of something, and nothing is left to save
    os._exit(code)


def _run(text: str, mountpoint: str, report: Optional[int]) -> int:
    try:
        options = MountOptions.parse(text)
        if options.engine == "overlayfs":
            _mount_without_daemon(options, mountpoint, report)
        else:
            go_on = Daemon(options, mountpoint, report).run()
            while go_on is not None:
                _forget_older_version()
                go_on = go_on()
    except CowrootError as e:
        return _fail(report, e.message, e.hint, e.exit_code)
    except BaseException as e:
        complain("daemon", e)
        return _fail(report, f"unexpected {type(e).__name__}: {e}", "", 1)
    return 0


def _forget_older_version() -> None:
    for clear in getattr(typing, "_cleanups", ()):  # the caches behind Optional[…] and the like, which would keep its classes
        clear()
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _mount_without_daemon(options: MountOptions, mountpoint: str, report: Optional[int]) -> None:
    from cowroot.fuse.overlayfs import mount_overlayfs

    mount_overlayfs(options, mountpoint)
    if report is not None:
        tell(report, "mounted", "")


def _fail(report: Optional[int], message: str, hint: str, code: int) -> int:
    if report is None:
        text = f"cowroot: error: {message}\n" + (f"hint: {hint}\n" if hint else "")
        os.write(2, text.encode(errors="replace"))
    else:
        tell(report, "error", str(code), hint, message)
    return code
