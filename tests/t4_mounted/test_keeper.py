"""A daemon that can die: what has been begun goes on when the serving process is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, process_exists, run, wait_until
from tests.t4_mounted.storm import storm

POISONED = Path(__file__).with_name("poisoned.py")


def kill(stage: Stage) -> None:
    """Kill the server, and wait for the next."""
    before = stage.status()
    os.kill(before["server"], signal.SIGKILL)
    wait_until(lambda: stage.status()["generation"] > before["generation"], "another server goes on")


@pytest.mark.parametrize("protocol", ["protocol=7.99", "protocol=7.39", "protocol=7.31"])
def test_what_is_open_stays_open(stage: Stage, protocol: str) -> None:
    (stage.lower / "below").write_bytes(b"below")
    point = stage.mount("engine=direct", protocol)
    path = point / "new"
    with open(path, "w+b", buffering=0) as new, open(point / "below", "r+b", buffering=0) as below:
        new.write(b"before")
        with mmap.mmap(new.fileno(), 6) as memory:
            kill(stage)
            memory[:3] = b"MAP"
            memory.flush()
        new.write(b" and after")
        assert path.read_bytes() == b"MAPore and after"
        below.write(b"above")
        kill(stage)
        assert (point / "below").read_bytes() == b"above"
        assert (stage.lower / "below").read_bytes() == b"below"


def test_what_has_no_name_is_kept(stage: Stage) -> None:
    (stage.lower / "below").write_bytes(b"below")
    point = stage.mount("engine=direct")
    nameless = os.open(point, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(nameless, b"never had one")
    with open(point / "removed", "w+b") as removed, open(point / "below", "rb") as below:
        removed.write(b"has lost it")
        removed.flush()
        (point / "removed").unlink()
        (point / "below").unlink()
        kill(stage)
        assert os.pread(removed.fileno(), 100, 0) == b"has lost it"
        assert below.read() == b"below"
        assert [os.fstat(fd).st_nlink for fd in (removed.fileno(), below.fileno())] == [0, 0]
        os.fchmod(below.fileno(), 0o640)
        kill(stage)
        assert os.fstat(below.fileno()).st_mode & 0o777 == 0o640
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)  # with a directory given, os.link follows links
    os.link(str(nameless), point / "named", src_dir_fd=descriptors)
    os.close(descriptors)
    kill(stage)
    assert (point / "named").read_bytes() == b"never had one"
    os.close(nameless)
    assert os.listdir(point) == ["named"]
    stage.unmount()
    assert not os.listdir(stage.work / "cowroot" / "orphans")


def opened_again(reference: int) -> int:
    """What a descriptor with O_PATH leads to, opened properly."""
    return os.open(f"/proc/self/fd/{reference}", os.O_RDWR)


@pytest.mark.parametrize("protocol", ["protocol=7.99", "protocol=7.39"])
def test_what_was_removed_first_and_opened_then_is_kept(stage: Stage, protocol: str) -> None:
    point = stage.mount("engine=direct", protocol)
    (point / "file").write_bytes(b"content")
    reference = os.open(point / "file", os.O_PATH)
    (point / "file").unlink()
    opened = opened_again(reference)
    for number in b"12":
        kill(stage)
        assert os.pread(opened, 7, 0) == b"content"
        assert os.fstat(opened).st_nlink == 0
        os.pwrite(opened, bytes([number]), 7)
        again = opened_again(reference)
        assert os.pread(again, 100, 0) == b"content" + bytes([number])
        os.close(again)
    os.close(opened)
    kill(stage)
    opened = opened_again(reference)
    assert os.pread(opened, 100, 0) == b"content2"
    os.close(opened)
    assert kept(stage, "upper/file")
    os.close(reference)
    Path("/proc/sys/vm/drop_caches").write_text("2")
    wait_until(lambda: not kept(stage, "upper/file"), "the keeper has let go of it")


def kept(stage: Stage, path: str) -> bool:
    """True if the keeper has a descriptor of what was at this path."""
    directory = Path(f"/proc/{stage.status()['pid']}/fd")
    return any(os.readlink(link).endswith(f"{path} (deleted)") for link in directory.iterdir())


def test_locks_are_kept(stage: Stage) -> None:
    point = stage.mount("engine=direct")
    with open(point / "file", "w") as ours:
        fcntl.lockf(ours, fcntl.LOCK_EX)
        kill(stage)
        script = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        theirs = subprocess.run([sys.executable, "-c", script, point / "file"], stderr=subprocess.PIPE, text=True, check=False)
        assert "BlockingIOError" in theirs.stderr


def test_identity_is_kept(stage: Stage) -> None:
    """Of a renamed directory, of hard links of the lower, of what was only listed."""
    (stage.lower / "directory").mkdir()
    for number in range(50):
        (stage.lower / "directory" / f"file{number}").write_text(str(number))
    (stage.lower / "one").write_text("linked")
    os.link(stage.lower / "one", stage.lower / "two")
    point = stage.mount("engine=direct")
    inside = os.open(point / "directory", os.O_RDONLY)
    with os.scandir(point / "directory") as entries:
        numbers = {entry.name: entry.inode() for entry in entries}
    (point / "directory").rename(point / "renamed")
    with open(point / "one", "a") as linked:
        kill(stage)
        linked.write(" twice")
    assert (point / "two").read_text() == "linked twice"
    assert {name: os.stat(name, dir_fd=inside).st_ino for name in os.listdir(inside)} == numbers
    assert os.stat("../renamed", dir_fd=inside).st_ino == os.fstat(inside).st_ino
    os.close(inside)


def test_the_keeper_goes_with_the_mount(stage: Stage) -> None:
    stage.mount("engine=direct")
    kill(stage)
    status = stage.status()
    assert status["pid"] != status["server"]
    assert status["generation"] == 1
    stage.unmount()
    assert not process_exists(status["pid"])
    assert not process_exists(status["server"])


def test_what_kills_every_server_is_refused(stage: Stage) -> None:
    """One request fails; it does not take the mount with it."""
    reading, writing = os.pipe()
    daemon = subprocess.Popen(
        [sys.executable, POISONED, "--report", str(writing), stage.options("engine=direct"), stage.point],
        pass_fds=[writing], start_new_session=True,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        assert report.read().startswith(b"mounted")
    try:
        (stage.point / "sound").write_text("sound")
        with pytest.raises(OSError) as refused:
            os.lstat(stage.point / "poison")
        assert refused.value.errno == errno.EIO
        assert (stage.point / "sound").read_text() == "sound"
        assert stage.status()["generation"] == 5
    finally:
        run("umount", stage.point)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(20)


@pytest.mark.parametrize("options", ["", "protocol=7.39"])
def test_programs_do_not_notice(stage: Stage, options: str) -> None:
    figures = storm(stage, 25, options)
    assert not figures["failures"]
    assert figures["survived"] == figures["kills"] == 25
    assert figures["rounds"] > 0


def test_open_files_are_counted_before_anybody_asks_for_them(stage: Stage) -> None:
    point = stage.mount("engine=direct")
    opened = [os.open(point / f"file{number}", os.O_RDWR | os.O_CREAT) for number in range(3)]
    kill(stage)
    assert stage.status()["open_files"] == 3
    os.close(opened.pop())
    wait_until(lambda: stage.status()["open_files"] == 2, "what is closed is not counted any more")
    kill(stage)
    assert stage.status()["open_files"] == 2
    for fd in opened:
        os.close(fd)
    wait_until(lambda: stage.status()["open_files"] == 0, "all are closed")


def test_numbers_of_file_systems_inside_layers_are_known(stage: Stage, tmp_path: Path) -> None:
    """Those that a server has given away, the next one does not give away again."""
    for name in ("inner", "memory"):
        (tmp_path / name).mkdir()
    inner = Stage(tmp_path / "inner")
    run("mount", "-t", "tmpfs", "memory", tmp_path / "memory")
    try:
        inner.upper, inner.work = tmp_path / "memory" / "upper", tmp_path / "memory" / "work"
        for directory in (inner.upper, inner.work):
            directory.mkdir()
        for number in range(2):
            (inner.upper / f"file{number}").touch()
        stage.lower = inner.mount("engine=direct")
        point = stage.mount("engine=direct")
        numbers = [os.stat(point / "file0").st_ino]
        kill(stage)
        numbers += [os.stat(point / f"file{number}").st_ino for number in (1, 0)]
        assert numbers[0] == numbers[2]
        assert numbers[0] >> 56 == numbers[1] >> 56 == 64
        stage.unmount()
    finally:
        stage.clean_up()
        inner.clean_up()
        run("umount", tmp_path / "memory")


def test_a_request_is_handed_over_whole_or_not_at_all(stage: Stage) -> None:
    """Large ones, to servers that have only just begun and are killed: some of these kills come while the kernel hands one over."""
    point = stage.mount("engine=direct", "protocol=7.39")
    keeper = stage.status()["pid"]
    content, ended = os.urandom(1 << 20), threading.Event()
    failures: list[str] = []

    def write(path: Path) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            while not ended.is_set():
                os.pwrite(file, content, 0)
        except OSError as e:
            failures.append(str(e))
        finally:
            os.close(file)

    writers = [threading.Thread(target=write, args=(point / f"file{number}",)) for number in range(4)]
    for writer in writers:
        writer.start()
    chance = random.Random(1)
    for _ in range(60):
        time.sleep(chance.uniform(0.001, 0.015))
        for child in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
    ended.set()
    for writer in writers:
        writer.join()
    assert not failures
    assert (point / "file3").read_bytes() == content


def test_a_copy_between_two_that_were_open_before(stage: Stage) -> None:
    """The request names two files, of which the kernel tells a server only one."""
    point = stage.mount("engine=direct")
    (point / "source").write_bytes(b"content")
    with open(point / "source", "rb") as source, open(point / "target", "w+b") as target:
        kill(stage)
        assert os.copy_file_range(source.fileno(), target.fileno(), 7) == 7
    assert (point / "target").read_bytes() == b"content"


def test_a_directory_from_the_far_future(stage: Stage) -> None:
    """Its times, put back after a copy-up, are more nanoseconds than 63 bits hold. Any user can have such a directory."""
    (stage.lower / "directory").mkdir()
    (stage.lower / "directory" / "file").write_bytes(b"x" * 100_000)
    point = stage.mount("engine=direct")
    for seconds in (9_300_000_000, -2_000_000_000):
        os.utime(point / "directory", (seconds, seconds))
        (point / "directory" / "file").chmod(0o600)
        assert (point / "directory").stat().st_mtime == seconds
        assert stage.status()["generation"] == 0
        stage.unmount()
        (stage.upper / "directory" / "file").unlink()
        stage.mount("engine=direct")
