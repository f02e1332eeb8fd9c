"""`cowroot daemon restart`: a newer version goes on with all that is open; one that cannot leaves the older one serving."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cowroot as package
from tests.t4_mounted.mounted import Stage, cowroot, process_exists, run, wait_until
from tests.t4_mounted.storm import restart, storm

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from cowroot.cli.main import main; sys.exit(main())"


class Version:
    """A copy of the package, to be changed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        shutil.copytree(Path(package.__file__).parent, place / "cowroot", ignore=shutil.ignore_patterns("__pycache__"))

    def change(self, file: str, old: str, new: str) -> None:
        path = self.place / "cowroot" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def restart(self, stage: Stage) -> subprocess.CompletedProcess[str]:
        return run(sys.executable, "-I", "-c", START, self.place, "daemon", "restart", stage.point, check=False)


@pytest.fixture
def newer(tmp_path: Path) -> Version:
    version = Version(tmp_path / "newer")
    version.change("__init__.py", f'"{package.__version__}"', '"99.0"')
    return version


def test_both_processes_run_the_newer_version(stage: Stage, newer: Version) -> None:
    stage.mount("engine=direct")
    before = stage.status()
    command = Path(f"/proc/{before['pid']}/cmdline").read_bytes()
    done = newer.restart(stage)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cowroot 99.0 serves it now" in done.stdout
    after = stage.status()
    assert (after["version"], after["pid"]) == ("99.0", before["pid"])
    assert after["server"] != before["server"]
    assert not process_exists(before["server"])
    assert command.startswith(b"@")
    assert Path(f"/proc/{after['pid']}/cmdline").read_bytes() == command
    assert f"cowroot {package.__version__} is installed, `cowroot daemon restart`" in cowroot("status", stage.point).stdout
    os.kill(after["server"], signal.SIGKILL)
    wait_until(lambda: stage.status()["server"] != after["server"], "the keeper starts another server")
    assert stage.status()["version"] == "99.0"
    cowroot("daemon", "restart", stage.point)  # and back
    assert stage.status()["version"] == package.__version__
    stage.unmount()
    assert not process_exists(after["pid"])


def lock_of_another(path: Path, how: str) -> str:
    """What another process is told that wants a lock on the file."""
    script = (
        "import fcntl, struct, sys; file = open(sys.argv[1], 'r+');"
        "flock = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0);"
        + {"flock": "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "ofd": "fcntl.fcntl(file, 37, flock)"}[how]
    )
    return subprocess.run([sys.executable, "-c", script, path], stderr=subprocess.PIPE, text=True, check=False).stderr


@pytest.mark.parametrize("protocol", ["protocol=7.99", "protocol=7.39"])
def test_what_is_open_stays_open(stage: Stage, newer: Version, protocol: str) -> None:
    for name in ("below", "flock", "ofd"):
        (stage.lower / name).write_bytes(name.encode())
    point = stage.mount("engine=direct", protocol)
    nameless = os.open(point, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(nameless, b"never had a name")
    path = point / "new"
    (point / "reference").write_bytes(b"reached by O_PATH")
    reference = os.open(point / "reference", os.O_PATH)
    (point / "reference").unlink()
    with (
        open(path, "w+b", buffering=0) as new, open(point / "below", "r+b", buffering=0) as below, open(point / "flock", "r+b") as flock,
        open(point / "ofd", "r+b") as ofd, open(point / "removed", "w+b", buffering=0) as removed,
    ):  # fmt: skip
        new.write(b"before")
        removed.write(b"has lost its name")
        (point / "removed").unlink()
        fcntl.flock(flock, fcntl.LOCK_EX)
        fcntl.fcntl(ofd, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
        with mmap.mmap(new.fileno(), 6) as memory:
            assert newer.restart(stage).returncode == 0
            memory[:3] = b"MAP"
            memory.flush()
        with open(f"/proc/self/fd/{reference}", "rb") as again:
            assert again.read() == b"reached by O_PATH"
        os.close(reference)
        new.write(b" and after")
        below.write(b"above")
        assert path.read_bytes() == b"MAPore and after"
        assert os.pread(removed.fileno(), 100, 0) == b"has lost its name"
        assert os.pread(nameless, 100, 0) == b"never had a name"
        assert [os.fstat(fd).st_nlink for fd in (removed.fileno(), nameless)] == [0, 0]
        for name in ("flock", "ofd"):
            assert "BlockingIOError" in lock_of_another(point / name, name)
    for name in ("flock", "ofd"):
        assert not lock_of_another(point / name, name)
    os.close(nameless)
    assert (point / "below").read_bytes() == b"above"
    assert (stage.lower / "below").read_bytes() == b"below"
    stage.unmount()
    assert not os.listdir(stage.work / "cowroot" / "orphans")


BROKEN = (
    ("fuse/direct/names.py", "import errno\n", "import nothing_of_that_name\n", "ModuleNotFoundError"),
    ("fuse/direct/nodes.py", "class Nodes(Watch):", "class Nodes(Watch:", "SyntaxError"),
    ("fuse/direct/ledger.py", "LAYOUT = (1,", "LAYOUT = (0,", "it keeps its records in another form"),
    ("fuse/daemon.py", "FORM = 1", "FORM = 0", "what is running is of another kind"),
    ("fuse/direct/engine.py", "self._inherit(inherited)", "os._exit(0)", "it ended without a word"),
    ("fuse/direct/succession.py", "session.union.resume(generation)", "raise ValueError('no')", "its server ended with code 1"),
    ("fuse/direct/succession.py", "session.union.resume(generation)", "os.abort()", "its server was killed by SIGABRT"),
)


def test_a_version_that_does_not_come_up_leaves_the_older_one(stage: Stage, newer: Version) -> None:
    point = stage.mount("engine=direct")
    with open(point / "file", "w+b", buffering=0) as opened:
        opened.write(b"content")
        for file, old, new, reason in BROKEN:
            newer.change(file, old, new)
            done = newer.restart(stage)
            newer.change(file, new, old)
            assert done.returncode == 6
            assert "so the old one goes on" in done.stderr
            assert reason in done.stderr
            assert os.pread(opened.fileno(), 100, 0) == b"content"
            assert stage.status()["version"] == package.__version__
    assert newer.restart(stage).returncode == 0
    assert (point / "file").read_bytes() == b"content"


def test_a_server_that_dies_while_a_version_is_tried(stage: Stage, newer: Version) -> None:
    newer.change("fuse/daemon.py", "import gc\n", "import gc\ntime = __import__('time'); time.sleep(0.7)\n")
    point = stage.mount("engine=direct")
    server = stage.status()["server"]
    restarting = threading.Thread(target=newer.restart, args=(stage,))
    restarting.start()
    try:
        os.kill(server, signal.SIGKILL)
        (point / "made meanwhile").touch()
    finally:
        restarting.join()
    assert stage.status()["version"] == "99.0"
    assert os.listdir(point) == ["made meanwhile"]


def test_programs_do_not_notice(stage: Stage) -> None:
    figures = storm(stage, 20, strike=restart)
    assert not figures["failures"]
    assert figures["survived"] == figures["kills"] == 20
    assert figures["rounds"] > 0


def test_what_cannot_be_restarted(stage: Stage, tmp_path: Path) -> None:
    stage.mount("engine=fusepy")
    refused = cowroot("daemon", "restart", stage.point, check=False)
    assert refused.returncode == 6
    assert "the daemon of the engine fusepy cannot be restarted while it is mounted" in refused.stderr
    assert "hint: reboot, or unmount" in refused.stderr
    nothing = cowroot("daemon", "restart", tmp_path, check=False)
    assert nothing.returncode == 6
    assert errno.errorcode[errno.ENOENT] not in nothing.stderr
    assert "no union of cowroot's daemons is mounted there" in nothing.stderr
