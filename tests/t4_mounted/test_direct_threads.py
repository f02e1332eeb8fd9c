"""What is slow holds up only who asked for it.

The slow thing is a lower layer that answers nothing: another union, whose daemon is stopped by a signal.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import COWROOT, Stage, run, wait_until

MEGABYTE = 1 << 20
SIZE = 8 * MEGABYTE
MANY = 6  # files, more than are copied up at once


class Slow:
    """A union `point` with a lower that can be stopped, and beside it one that cannot."""

    def __init__(self, base: Path, stage: Stage) -> None:
        below = Stage(base)
        for name in ("read", *(f"copied{number}" for number in range(MANY))):
            (below.lower / name).write_bytes(os.urandom(MEGABYTE) * (SIZE // MEGABYTE))
        self.source, self.inner, self.stage = below.lower, below.point, stage
        options = f"lowerdir={below.lower},engine=fusepy,control={base}/control"
        self._daemon = subprocess.Popen([*COWROOT, "mount", "--foreground", "-o", options, below.point])
        wait_until(lambda: os.path.ismount(below.point), "the slow layer is mounted")
        for number in range(20):
            directory = stage.lower / "quick" / f"d{number % 2}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"f{number}").write_text(f"{number}\n")
        self.connections = base / "connections"
        self.connections.mkdir()
        run("mount", "-t", "fusectl", "none", self.connections)
        # so that nothing in it is looked up in the slow layer too, also after the kernel has forgotten what is not there
        os.setxattr(stage.lower / "quick", "trusted.overlay.opaque", b"y")
        self.children: list[subprocess.Popen[bytes]] = []
        self.point = stage.point

    def mount(self, *more: str) -> None:
        lower = self.stage.lower
        self.stage.lower = Path(f"{lower}:{self.inner}")
        self.stage.mount("engine=direct", *more)
        self.stage.lower = lower
        # held, they stay known to the kernels above and below
        self.held = {name: os.open(self.point / name, os.O_RDONLY) for name in os.listdir(self.inner)}
        for fd in self.held.values():
            os.pread(fd, 1, 0)  # so it is open in the daemon too
        self.device = os.stat(self.point / "quick" / "d0").st_dev

    def stop(self) -> None:
        self._daemon.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._daemon.send_signal(signal.SIGCONT)

    def start(self, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        """Run a program that is going to wait."""
        words = [sys.executable, "-c", f"import os, sys\n{program}", *map(str, arguments)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=self.point, pass_fds=list(self.held.values()))
        self.children.append(child)
        return child

    def end(self) -> None:
        self.go_on()
        for fd in self.held.values():
            os.close(fd)
        for child in self.children:
            child.kill()
            child.communicate()
        self.stage.clean_up()
        run("umount", self.connections)
        run("umount", self.inner)
        self._daemon.kill()  # it would go on for as long as some other process has a copy of the mount
        self._daemon.wait()


READ = "os.write(1, os.pread(int(sys.argv[1]), 65536, int(sys.argv[2])))"
CHANGE = "os.chmod(sys.argv[1], 0o600)"  # which copies all of the file up, and asks nothing of the layer before
OTHERS = """
assert os.stat("quick/d0/f2").st_size == 2
assert sorted(os.listdir("quick/d1")) == sorted(f"f{number}" for number in range(1, 20, 2))
assert open("quick/d1/f7").read() == "7\\n"
open("quick/d0/new", "w").write("new")
os.rename("quick/d0/new", "quick/d0/newer")
assert open("quick/d0/newer").read() == "new"
os.chmod("quick/d1/f9", 0o600)
os.unlink("quick/d0/newer")
"""


@pytest.fixture
def slow(stage: Stage) -> Iterator[Slow]:
    with tempfile.TemporaryDirectory(prefix="cowroot-") as directory:
        os.chmod(directory, 0o755)
        prepared = Slow(Path(directory), stage)
        try:
            yield prepared
        finally:
            prepared.end()


def others_go_on(slow: Slow) -> None:
    """All kinds of things are done in the rest of the union, by a process that can be given up."""
    child = slow.start(OTHERS)
    try:
        assert child.wait(20) == 0
    finally:
        if child.poll() is None:
            slow.go_on()  # who waits for a file system cannot even be killed


def wait_for(slow: Slow, requests: int) -> None:
    """Wait until so many requests are in the daemon's hands. (It would not tell: it looks at the layers for that.)"""
    file = slow.connections / str(os.minor(slow.device)) / "waiting"
    wait_until(lambda: int(file.read_text()) >= requests, "the daemon has been asked")


def test_a_slow_read(slow: Slow) -> None:
    slow.mount()
    slow.stop()
    reader = slow.start(READ, slow.held["read"], 5 * MEGABYTE)
    wait_for(slow, 1)
    others_go_on(slow)
    assert reader.poll() is None
    slow.go_on()
    data, _ = reader.communicate(timeout=30)
    assert data == (slow.source / "read").read_bytes()[5 * MEGABYTE :][:65536]


def test_a_slow_read_is_not_blamed_for_servers_that_are_killed(slow: Slow) -> None:
    slow.mount()
    keeper = slow.stage.pid
    children = Path(f"/proc/{keeper}/task/{keeper}/children")
    slow.stop()
    reader = slow.start(READ, slow.held["read"], 5 * MEGABYTE)
    wait_for(slow, 1)
    for _ in range(13):  # five for the readahead, five for the read that follows when that fails
        wait_until(lambda: children.read_text() != "", "a server begins")
        time.sleep(0.1)  # and takes the request up, which nobody can see
        os.kill(int(children.read_text()), signal.SIGKILL)
    slow.go_on()
    assert reader.communicate(timeout=30)[0] == (slow.source / "read").read_bytes()[5 * MEGABYTE :][:65536]


def test_more_slow_reads_than_threads(slow: Slow) -> None:
    slow.mount()
    slow.stop()
    places = [number * MEGABYTE // 4 for number in range(2, 32)]
    readers = [slow.start(READ, slow.held["read"], place) for place in places]
    wait_for(slow, len(places))
    others_go_on(slow)
    assert len(os.listdir(f"/proc/{slow.stage.pid}/task")) < len(places)
    slow.go_on()
    whole = (slow.source / "read").read_bytes()
    for place, reader in zip(places, readers):
        assert reader.communicate(timeout=30)[0] == whole[place : place + 65536]


def is_copied(slow: Slow, name: str) -> bool:
    """The file is changed, and whole."""
    return os.stat(slow.point / name).st_mode & 0o777 == 0o600 and (slow.point / name).read_bytes() == (slow.source / name).read_bytes()


def test_a_slow_copy_up(slow: Slow) -> None:
    slow.mount("metacopy=off")
    slow.stop()
    changer = slow.start(CHANGE, "copied0")
    wait_for(slow, 1)
    others_go_on(slow)
    assert changer.poll() is None
    slow.go_on()
    assert changer.wait(30) == 0
    assert is_copied(slow, "copied0")


def test_more_slow_copies_than_threads(slow: Slow) -> None:
    """Who waits for a thread can be killed."""
    slow.mount("metacopy=off")
    slow.stop()
    changers = []
    for number in range(MANY):
        changers.append(slow.start(CHANGE, f"copied{number}"))
        wait_for(slow, number + 1)
    others_go_on(slow)
    changers[-1].kill()
    assert changers[-1].wait(20) == -signal.SIGKILL
    assert [changer.poll() for changer in changers[:-1]] == [None] * (MANY - 1)
    slow.go_on()
    assert [changer.wait(30) for changer in changers[:-1]] == [0] * (MANY - 1)
    assert all(is_copied(slow, f"copied{number}") for number in range(MANY - 1))
    assert not is_copied(slow, f"copied{MANY - 1}")


def test_nothing_is_left_of_a_copy_for_which_there_is_no_room(slow: Slow, tmp_path: Path) -> None:
    slow.stage.upper, slow.stage.work = tmp_path / "upper", tmp_path / "work"
    run("mount", "-t", "tmpfs", "-o", "size=4m", "small", tmp_path)
    try:
        slow.stage.upper.mkdir()
        slow.stage.work.mkdir()
        slow.mount("metacopy=off")
        slow.stop()
        changer = slow.start(f"try:\n    {CHANGE}\nexcept OSError as e:\n    sys.exit(e.errno)", "copied0")
        wait_for(slow, 1)
        slow.go_on()
        assert changer.wait(30) == errno.ENOSPC
        assert os.listdir(slow.stage.work / "cowroot" / "tmp") == []
        assert os.listdir(slow.stage.upper) == []
    finally:
        run("umount", "-l", tmp_path)  # the union, whose files are still open, goes later
