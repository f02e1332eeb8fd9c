"""`cowroot chroot`: a command on the real root, below the running union.

It runs as in a chroot(8): the real root is its /, with the running system's devices, /run and /tmp, and a /proc of its own. All that it has
started ends with it, since what goes on writing there would keep the file system from being protected again. systemctl takes it for a
chroot, so that services of packages are not started: that is for the next boot.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings  # noqa: F401  (os.execvpe imports it, too late)
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cowroot.boot.bls import PLACES
from cowroot.errors import MountError
from cowroot.install import namespace
from cowroot.install.target import LOWER, disk_at, fstab
from cowroot.install.tree import Tree
from cowroot.mountinfo import Mount
from cowroot.servicing.real_root import LOCK, Opened, Protected, end_with, protected, writable

NOT_FOUND, NOT_EXECUTABLE, KILLED = 127, 126, 128  # as shells have it; to the last the signal is added
_SHARED = ("/dev", "/sys", "/run", "/tmp")
# What an upgrade of a kernel or boot loader writes to, and what may be a file system of its own.
_BOOT = sorted(PLACES)
_RESOLVER = "/etc/resolv.conf"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP)
_NOT_OURS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)  # which a terminal sends to the command as well


def chroot(command: Sequence[str]) -> int:
    """Run `command` (a shell if it is empty) on the real root and return its exit code.

    Raises CowrootError as `writable` does, and where the real root cannot be furnished. It is protected again then, too.
    """
    here = {point: mount for point in _BOOT if (mount := disk_at(point))}
    read_only = [protected(mount) for mount in here.values() if not mount.writable]
    return run(command, here, read_only)


def run(command: Sequence[str], here: dict[str, Mount], others: Sequence[Protected], lower: str = LOWER, lock: str = LOCK) -> int:
    """As `chroot`; `here` are the boot's file systems that are mounted, `others` those that are to be opened, the rest as of `writable`."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (*_PASSED_ON, *_NOT_OURS)}
    try:
        with writable(lower, lock, others) as real:
            _furnish(real.path, here)
            return _run(real, command)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _furnish(root: Path, here: dict[str, Mount]) -> None:
    with Tree(root) as tree:
        for place in _SHARED:
            if tree.is_dir(place):
                where = f"{root}{tree.canonical(place, follow=True)}"
                namespace.bind(place, where)
                # With /tmp comes the place where the real root is writable. Nobody who clears /tmp may find that there.
                with suppress(ValueError):
                    inside = Path(os.path.realpath(root.parent)).relative_to(os.path.realpath(place))
                    namespace.unmount(f"{where}/{inside}")
        lines = {point: (spec, kind, rest) for spec, point, kind, *rest in fstab(tree)}
        for point in _BOOT:
            if not tree.is_dir(point):
                continue
            place = f"{root}{tree.canonical(point, follow=True)}"
            if point in here:
                namespace.bind(here[point].point, place)
            elif point in lines:
                _mount(point, place, *lines[point])
        # What it has may be a link into /run, which is there, or a file of the day when the image was made.
        if tree.exists(_RESOLVER) and tree.is_file(_RESOLVER) and os.path.isfile(_RESOLVER):
            namespace.bind(os.path.realpath(_RESOLVER), f"{root}{tree.canonical(_RESOLVER, follow=True)}")


def _mount(point: str, place: str, spec: str, kind: str, rest: Sequence[str]) -> None:
    options = rest[0] if rest else "defaults"
    done = subprocess.run(["mount", "-n", "-t", kind, "-o", options, spec, place], capture_output=True, text=True, check=False)
    if done.returncode != 0 and not {"noauto", "nofail"} & set(options.split(",")):
        reason = " ".join(done.stderr.split())
        raise MountError(f"{point} ({spec}) cannot be mounted: {reason}", hint="see its line in the disk's /etc/fstab")


def _run(real: Opened, command: Sequence[str]) -> int:
    first = namespace.fork_first_process()
    if first == 0:
        end_with(lambda: _be_first_process(real, command))

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(first, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    _, how = os.waitpid(first, 0)
    return _code(how)


def _code(how: int) -> int:
    return KILLED + os.WTERMSIG(how) if os.WIFSIGNALED(how) else os.WEXITSTATUS(how)


def _be_first_process(real: Opened, command: Sequence[str]) -> int:
    """Start the command, wait for it, and for whatever else ends meanwhile; what is left then, the kernel ends with this process."""
    if not real.follow():
        return 1
    # Not this one: programs look at the root of process 1 to find out whether they run in a chroot.
    if os.path.isdir(real.path / "proc"):
        namespace.mount("proc", real.path / "proc", "proc", namespace.MS_NOSUID | namespace.MS_NODEV)
    child = os.fork()
    if child == 0:
        end_with(lambda: _become(real.path, command))

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    while True:
        pid, how = os.wait()
        if pid == child:
            return _code(how)


def _become(root: Path, command: Sequence[str]) -> int:
    for number in (*_PASSED_ON, *_NOT_OURS):
        signal.signal(number, signal.SIG_DFL)
    os.chroot(root)
    os.chdir("/")
    # What Debian's and Ubuntu's prompts show.
    environment = {"PATH": _PATH, "debian_chroot": "real root", **os.environ}
    words = list(command) or [_shell(), "-i"]
    try:
        os.execvpe(words[0], words, environment)
    except OSError as error:
        sys.stderr.write(f"cowroot: {words[0]}: {error.strerror}\n")
        return NOT_FOUND if isinstance(error, (FileNotFoundError, NotADirectoryError)) else NOT_EXECUTABLE


def _shell() -> str:
    wanted = os.environ.get("SHELL", "")
    return wanted if wanted and os.access(wanted, os.X_OK) else "/bin/sh"
