"""A union mounted by the real command, with its directories and its daemon."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

from cowroot.errors import CowrootError
from cowroot.fuse import control

COWROOT = (sys.executable, "-c", "import sys; from cowroot.cli.main import main; sys.exit(main())")
BOOKS = ("trusted.cowroot.", "trusted.overlay.")
SECONDS = 30  # no test waits longer for anything; all are done in a fraction of that


def run(*command: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command with its output captured; a failure shows it."""
    words = [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS, **options)
    assert not check or done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def cowroot(*arguments: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    return run(*COWROOT, *arguments, check=check, **options)


def wait_until(what: Callable[[], bool], meaning: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {meaning}"
        time.sleep(0.01)


def process_exists(pid: int) -> bool:
    """False also for one that has ended, and is not buried yet: some machines' process 1 takes its time."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1  # threads may outlive the first
    except (FileNotFoundError, ProcessLookupError):
        return False


class Stage:
    """Directories for a union below `base`: `lower`, `upper`, `work`, and `point` to mount at. `staged` leaves nothing mounted."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.lower, self.upper, self.work, self.point = (base / name for name in ("lower", "upper", "work", "union"))
        for directory in (self.lower, self.upper, self.work, self.point):
            directory.mkdir()
        self.pid = 0
        self.socket: Optional[Path] = None

    def options(self, *more: str) -> str:
        return ",".join([f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}", *more])

    def mount(self, *more: str) -> Path:
        """Mount with the command; returns the mount point."""
        cowroot("mount", "-o", self.options("engine=fusepy", *more), self.point)
        self.socket = None
        if not any(option.startswith("control=") for option in more):
            self.pid = self.status()["pid"]
        return self.point

    def status(self) -> dict[str, Any]:
        if self.socket is None:
            self.socket = control.socket_of(os.fspath(self.point))
        return control.ask(self.socket)

    def requests(self, action: Callable[[], object]) -> dict[str, int]:
        """What the kernel sent because of `action`, by operation; `action` closes what it opens.

        Closing is told later, and by nobody who waits for it: RELEASE is asynchronous.
        """
        os.statvfs(self.point)  # asked after what was closed before, and so answered after that is told
        at_first = self.status()
        before = at_first["requests"]
        action()
        wait_until(lambda: self.status()["open_files"] <= at_first["open_files"], "what was opened is closed")
        after = self.status()["requests"]
        return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}

    def unmount(self) -> None:
        """Unmount and wait for the daemon to end."""
        run("umount", self.point)
        self.wait_for_end()

    def wait_for_end(self) -> None:
        if self.pid:
            pid, self.pid = self.pid, 0
            wait_until(lambda: not process_exists(pid), "the daemon has ended")

    def clean_up(self) -> None:
        if not self.pid and os.path.ismount(self.point):  # mounted by another way than `mount`; what it has in `work` it takes away
            with contextlib.suppress(CowrootError, OSError):
                self.socket = None
                self.pid = self.status()["pid"]
        while os.path.ismount(self.point) or self._is_dead():
            subprocess.run(["umount", "-l", self.point], check=False, stderr=subprocess.DEVNULL, timeout=SECONDS)
        with contextlib.suppress(AssertionError):
            self.wait_for_end()

    def _is_dead(self) -> bool:
        """A mount whose daemon is gone answers nothing but ENOTCONN."""
        try:
            os.listdir(self.point)
        except OSError:
            return True
        return False


@contextlib.contextmanager
def staged(purpose: str = "") -> Iterator[Stage]:
    """A stage in a directory of its own, which others may look into. Nothing is left of it."""
    with tempfile.TemporaryDirectory(prefix=f"cowroot-{purpose}") as directory:
        os.chmod(directory, 0o755)
        stage = Stage(Path(directory))
        try:
            yield stage
        finally:
            stage.clean_up()


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """What a walk below `root` shows: type and permissions, owner, size, device, time, content or target, attributes, by path.

    The attributes in which a union keeps its own books are left out: overlayfs shows ours.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            st = path.lstat()
            content: Any = None
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = path.read_bytes()
            keys = [key for key in os.listxattr(path, follow_symlinks=False) if not key.startswith(BOOKS)]
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in keys}
            size = 0 if path.is_dir() and not path.is_symlink() else st.st_size
            place = os.fspath(path.relative_to(root))
            found[place] = (oct(st.st_mode), st.st_uid, st.st_gid, size, st.st_rdev, st.st_mtime_ns, content, attributes)
    return found
