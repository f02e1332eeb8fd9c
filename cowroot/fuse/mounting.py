"""What `cowroot mount` does: start a daemon and wait for it, or change a mount's flags."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import NoReturn, Optional

from cowroot.errors import MountError
from cowroot.fuse import kernel
from cowroot.fuse.fresh import create_layers
from cowroot.fuse.options import FLAGS, MS_BIND, MS_REMOUNT, MountOptions
from cowroot.fuse.overlayfs import mount_overlayfs
from cowroot.mountinfo import mounted_at

NO_DEVICE_HINT = "load the kernel's fuse module: modprobe fuse; in a container, make /dev/fuse available"
UMOUNT_HELPER = "/sbin/umount.fuse.cowroot"
DAEMON_NAME = "@cowroot"  # systemd spares what begins with @ at switch-root and shutdown (ROOT_STORAGE_DAEMONS)
_SHOWN_FLAGS = ("ro", "nosuid", "nodev", "noexec", "sync", "dirsync", "noatime", "nodiratime", "relatime", "nosymfollow", "lazytime")


def mount(options: MountOptions, mountpoint: str, foreground: bool = False) -> None:
    """Mount the union that `options` describe at the directory `mountpoint`; returns once it is there.

    In the foreground it does not return: the process becomes the daemon. Raises MountError or ConfigError.
    """
    point = _check_mountpoint(mountpoint)
    if options.remount:
        remount(options, point)
        return
    if options.create and options.upper and options.work:
        create_layers(options.lower[0], options.upper, options.work)
    if options.engine == "overlayfs":
        mount_overlayfs(options, point)
    else:
        _check_fuse()
        if foreground:
            _become_daemon(options, point, None)
        _start_daemon(options, point)
        extra = options.flags_after_mount()
        if extra:
            kernel.mount("none", point, "none", MS_REMOUNT | MS_BIND | options.flags, None)
        _name_umount_helper(options, point)


def _name_umount_helper(options: MountOptions, point: str) -> None:
    """Have umount(8) run our helper also for root: then it goes by statfs(2), to which all of FUSE is `fuse`, and not by the type.

    It looks first into a table of libmount's, where a mount that is only pretended leaves the line; umount takes it out again.
    """
    if os.geteuid() == 0 and os.path.exists(UMOUNT_HELPER) and os.path.islink("/etc/mtab"):  # else it would be mtab that gets a line
        source = options.fsname or "cowroot"
        command = ["mount", "-i", "-f", "--no-canonicalize", "-t", "fuse.cowroot", "-o", "uhelper=fuse.cowroot", source, point]
        with contextlib.suppress(OSError):
            subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


def _check_mountpoint(mountpoint: str) -> str:
    try:
        point = os.path.realpath(mountpoint)
        kind = os.stat(point).st_mode
        if stat.S_ISDIR(kind):
            os.close(os.open(point, os.O_RDONLY | os.O_DIRECTORY))  # attributes may come from a cache; this asks whoever serves it
    except OSError as e:
        hint = f"create it: mkdir -p {mountpoint}" if isinstance(e, FileNotFoundError) else ""
        if e.errno == 107:  # ENOTCONN
            hint = f"a file system whose daemon has died is mounted there: umount {mountpoint}"
        raise MountError(f"mount point {mountpoint}: {e.strerror}", hint=hint) from None
    if not stat.S_ISDIR(kind):
        raise MountError(f"mount point {mountpoint} is not a directory", hint="a union is mounted on a directory")
    return point


def _check_fuse() -> None:
    if not os.path.exists("/dev/fuse"):
        raise MountError("/dev/fuse is missing", hint=NO_DEVICE_HINT)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise MountError("/dev/fuse cannot be opened", hint="run as root, or join the group that /dev/fuse belongs to")


def _daemon_command(options: MountOptions, point: str, report: Optional[int]) -> tuple[str, list[str]]:
    interpreter = sys.executable or os.readlink("/proc/self/exe")
    package = Path(__file__).resolve().parent.parent.parent
    command = [DAEMON_NAME, "-I", "-S", "-B", str(package / "cowroot" / "fuse" / "entry.py")]
    for name in ("fuse", "fusepy"):
        # find, not import: this process need not load libfuse
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).parent != package:
            command += ["--modules", str(Path(spec.origin).parent)]
            break
    if report is not None:
        command += ["--report", str(report)]
    return interpreter, [*command, options.text, point]


def _become_daemon(options: MountOptions, point: str, report: Optional[int]) -> NoReturn:
    interpreter, command = _daemon_command(options, point, report)
    # argv[0] as systemd wants it; nothing less than exec changes it for others to see
    os.execve(interpreter, command, _daemon_environment())


def _daemon_environment() -> dict[str, str]:
    """What could make libc or Python look into files later: a time zone, a locale."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "XDG_RUNTIME_DIR", "FUSE_LIBRARY_PATH")}
    return {**kept, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _start_daemon(options: MountOptions, point: str) -> None:
    """Start the daemon as nobody's child, in a session of its own, and wait for its word."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork():
                os._exit(0)  # the daemon's parent is init from the start: it leaves no zombie
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.set_inheritable(writing, True)
            _become_daemon(options, point, writing)
        except BaseException as e:
            os.write(writing, f"error\0{MountError.exit_code}\0\0cannot start the daemon: {e}".encode(errors="surrogateescape"))
            os._exit(1)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as report:
        said = report.read()
    _judge(said)


def _judge(said: bytes) -> None:
    """Understand what the daemon reports (see daemon.tell). Raises MountError if that is an error, or nothing."""
    kind, *fields = said.decode(errors="surrogateescape").split("\0")
    if kind == "error":
        code, hint, message = fields
        error = MountError(message, hint=hint)
        error.exit_code = int(code)
        raise error
    if kind != "mounted":
        raise MountError("the daemon ended before it had mounted", hint="run it with -f to see why")


def remount(options: MountOptions, point: str) -> None:
    """Change the flags of a mounted union (ro, rw, nosuid, …) by mount(2). Its layers stay; options about them are not looked at."""
    current = mounted_at(point)
    if current is None:
        raise MountError(f"{point} is not a mount point", hint="mount it first, without remount")
    shown = [*current.options.split(","), *(word for word in current.super_options.split(",") if word == "ro")]
    flags = 0
    for word in _SHOWN_FLAGS:
        if word in shown:
            flags |= FLAGS[word][0]
    flags = flags & ~options.mentioned | options.flags & options.mentioned
    try:
        kernel.mount(current.source, point, current.kind, MS_REMOUNT | flags, None)
    except OSError as e:
        hint = "files are open for writing; see fuser -vm" if e.errno == 16 else "only root may remount"
        raise MountError(f"{point}: cannot remount: {e.strerror}", hint=hint) from None
