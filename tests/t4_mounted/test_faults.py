"""Layers on a disk that fails or is slow: who asked is told or waits, and nobody else.

What each kind of operation leaves behind when one of its requests to the disk fails is tried at length by tests/t4_mounted/faults.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.behaviour.backends import mount_image
from tests.t4_mounted.faults import ENGINES, KINDS, Trial
from tests.t4_mounted.faulty import ALL, CHANGING, FaultyDisk
from tests.t4_mounted.mounted import COWROOT, Stage, cowroot, run, wait_until
from tests.t4_mounted.recording import unmount

MEBIBYTE = 1 << 20
# of each kind of failure: operations, and at how many requests of each
TRIED = {
    "error": {"rename of a directory": range(2, 60, 19), "write to large": range(3, 60, 25)},
    "full": {"unlink of linked": range(2)},
    "read-only": {"chmod of linked": range(2, 3)},
}


@pytest.mark.parametrize("engine", ["direct", "fusepy"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_to_the_disk_fails(tmp_path: Path, engine: str, kind: str) -> None:
    with FaultyDisk(tmp_path / "disk", tmp_path / "shown") as disk:
        for operation, numbers in TRIED[kind].items():
            trial = Trial(disk, engine, operation, kind)
            found = [trial.fails(number) for number in numbers]
            assert [wrong for _, wrong in found if wrong] == []
            assert found[0][0], "there was no such request"


class Doing:
    """Something done in a thread, which may take its time."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._do, daemon=True)
        self._thread.start()

    def _do(self) -> None:
        try:
            self._action()
        except BaseException as e:
            self.error = e

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def finish(self) -> None:
        self._thread.join(30)
        assert not self.waits
        if self.error is not None:
            raise self.error


class Ground:
    """A stage whose lower, and whose upper and work directory, lie on two disks that can fail."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.lower = FaultyDisk(stage.base / "lower-disk", stage.base / "lower-shown")
        self.upper = FaultyDisk(stage.base / "upper-disk", stage.base / "upper-shown")
        stage.lower, stage.upper, stage.work = self.lower.point, self.upper.point / "upper", self.upper.point / "work"

    def build(self) -> None:
        for name in ("upper", "work"):
            (self.upper.directory / name).mkdir()
        for directory in ("d", "d/sub", "other"):
            (self.lower.directory / directory).mkdir()
            for number in range(8):
                (self.lower.directory / directory / f"f{number}").write_text(f"{directory} {number}\n")
        (self.lower.directory / "large").write_bytes(os.urandom(4 * MEBIBYTE))


@pytest.fixture
def ground(stage: Stage) -> Iterator[Ground]:
    made = Ground(stage)
    with made.lower, made.upper:
        made.build()
        try:
            yield made
        finally:
            made.lower.heal()
            made.upper.heal()
            stage.clean_up()


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(OSError) as caught:
        action()
    return errno.errorcode[caught.value.errno or 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lower_that_goes_away(ground: Ground, engine: str) -> None:
    point = ground.stage.mount(f"engine={engine}")
    assert (point / "d/f0").read_text() == "d 0\n"
    (point / "d/f1").write_text("changed")
    (point / "d/f2").read_text()
    (point / "d/f3").stat()
    with (point / "large").open("r+b") as file:
        file.write(b"changed")
    (point / "new").mkdir()
    with (point / "d/f2").open() as held, ground.lower.failing():
        assert (point / "d/f1").read_text() == "changed"
        with (point / "d/f1").open("a") as file:
            file.write(" again")
        (point / "d/f1").chmod(0o600)
        (point / "new/file").write_text("made")
        os.rename(point / "new/file", point / "new/other")
        assert os.listdir(point / "new") == ["other"]
        assert (point / "d/f3").stat().st_size == 4
        assert held.read() == "d 2\n"
        assert refused((point / "other/f3").read_text) == "EIO"
        assert refused(lambda: os.listdir(point / "d/sub")) == "EIO"
        assert refused(lambda: (point / "other/f4").write_text("x")) == "EIO"
        with (point / "large").open("rb") as file:
            file.seek(2 * MEBIBYTE)
            assert refused(file.read) == "EIO"
        assert ground.stage.status()["engine"] == engine.partition(",")[0]
    assert (point / "other/f3").read_text() == "other 3\n"
    assert len(os.listdir(point / "d/sub")) == 8
    (point / "other/f4").write_text("x")
    assert (point / "d/f1").read_text() == "changed again"
    content = (ground.lower.directory / "large").read_bytes()
    assert (point / "large").read_bytes() == b"changed" + content[7:]
    ground.stage.unmount()


@pytest.mark.parametrize("engine", ["direct", "fusepy"])
def test_status_and_watch_tell_of_a_failing_disk(ground: Ground, engine: str) -> None:
    point = ground.stage.mount(f"engine={engine}")
    hooks, told = ground.stage.base / "hooks", ground.stage.base / "told"
    hooks.mkdir()
    (hooks / "tell").write_text(f'#!/bin/sh\necho "$1: $COWROOT_FAULTS" >>{told}\n')
    (hooks / "tell").chmod(0o755)
    command = [*COWROOT, "watch", os.fspath(point), "--interval", "0.1", "--hooks", os.fspath(hooks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            assert cowroot("status", point).returncode == 0
            for disk, requests, number, words in (
                (ground.upper, CHANGING, errno.EROFS, "cannot be written any more: Read-only file system"),
                (ground.lower, ALL, errno.EIO, "cannot be read: Input/output error"),
            ):
                with disk.failing(requests, number):
                    line = watch.stdout.readline()
                    assert line.startswith(f"failed: {point}: the ") and words in line
                    said = cowroot("status", point, check=False)
                    assert said.returncode == 12 and words in said.stdout
                assert watch.stdout.readline() == f"the layers of {point} work again\n"
        finally:
            watch.kill()
    assert [line.partition(":")[0] for line in told.read_text().splitlines()][:3] == ["failed", "mended", "failed"]
    ground.stage.unmount()


def test_an_upper_that_the_kernel_has_made_read_only(stage: Stage) -> None:
    """ext4 with errors=remount-ro, after its journal could not be written. From Linux 6.12 on it does not look read-only."""
    with FaultyDisk(stage.base / "disk", stage.base / "shown") as disk:
        image, mounted = disk.directory / "image", stage.base / "mounted"
        mounted.mkdir()
        image.touch()
        os.truncate(image, 64 * MEBIBYTE)
        run("mkfs.ext4", "-q", "-F", image)
        mount_image(os.fsencode(disk.point / "image"), os.fsencode(mounted), "rw,errors=remount-ro")
        try:
            stage.upper, stage.work = mounted / "upper", mounted / "work"
            stage.upper.mkdir()
            stage.work.mkdir()
            (stage.lower / "below").write_text("below")
            point = stage.mount("engine=direct")
            (point / "made").write_text("made")
            os.sync()
            disk.fail(("write", "fsync"))
            (point / "lost").mkdir()
            fd = os.open(point, os.O_RDONLY)
            with contextlib.suppress(OSError):
                os.fsync(fd)
            os.close(fd)
            assert refused((point / "new").mkdir) == "EROFS"
            assert refused((point / "made").unlink) == "EROFS"
            assert refused(lambda: (point / "below").chmod(0o600)) == "EROFS"
            assert (point / "made").read_text() == "made"
            assert (point / "below").read_text() == "below"
            said = cowroot("status", point, check=False)
            assert said.returncode == 12 and "cannot be written any more" in said.stdout
        finally:
            stage.clean_up()
            disk.heal()
            unmount(mounted)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_upper_that_cannot_be_written_any_more(ground: Ground, engine: str, number: int) -> None:
    point = ground.stage.mount(f"engine={engine}")
    (point / "made").write_text("made")
    before = sorted(os.listdir(point / "d"))
    name = errno.errorcode[number]
    with ground.upper.failing(CHANGING, number):
        assert refused(lambda: (point / "d/f0").write_text("x")) == name
        assert refused(lambda: (point / "d/new").write_text("x")) == name
        assert refused((point / "d/f1").unlink) == name
        assert refused((point / "made").unlink) == name
        assert refused(lambda: (point / "d/f2").chmod(0o600)) == name
        assert refused(lambda: os.rename(point / "d/sub", point / "d/moved")) == name
        assert refused(lambda: os.setxattr(point / "made", "user.a", b"b")) == name
        assert sorted(os.listdir(point / "d")) == before
        assert [(point / f"d/f{number}").read_text() for number in range(8)] == [f"d {number}\n" for number in range(8)]
        assert (point / "made").read_text() == "made"
    (point / "d/f0").write_text("x")
    (point / "d/f1").unlink()
    os.rename(point / "d/sub", point / "d/moved")
    assert (point / "d/moved/f1").read_text() == "d/sub 1\n"
    ground.stage.unmount()


def others_go_on(point: Path) -> None:
    """All kinds of things that need the disks, but move no data."""
    assert (point / "other/f1").stat().st_size == 8
    assert len(os.listdir(point / "d/sub")) == 8
    (point / "small").chmod(0o600)
    (point / "other/new").mkdir()
    os.rename(point / "other/new", point / "other/newer")
    (point / "other/newer").rmdir()
    (point / "d/f5").unlink()
    (point / "d/made").touch()


def write_large(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(MEBIBYTE)
        assert file.write(bytes(MEBIBYTE)) == MEBIBYTE


def sync(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(b"synced")
        os.fsync(file.fileno())


def read_large(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        os.pread(file.fileno(), MEBIBYTE // 2, 2 * MEBIBYTE)


def copy_up(path: Path) -> None:
    path.chmod(0o600)


SLOW: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    "read": ("lower", "read", read_large, "large"),
    "write": ("upper", "write", write_large, "made"),
    "sync": ("upper", "fsync", sync, "made"),
    "copy-up": ("upper", "write", copy_up, "large"),
}
"""By name: which disk holds which requests; what is done with which file."""


@pytest.mark.parametrize("options", ["engine=direct", "engine=direct,protocol=7.39"])
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_disk_holds_up_who_needs_it(ground: Ground, options: str, name: str) -> None:
    which, request, action, file = SLOW[name]
    point = ground.stage.mount(options, "metacopy=off")
    (point / "made").write_bytes(bytes(4 * MEBIBYTE))
    (point / "small").touch()
    disk = ground.lower if which == "lower" else ground.upper
    disk.hold(request)
    doing = Doing(lambda: action(point / file))
    wait_until(lambda: disk.waiting > 0, "the disk has been asked")
    others = Doing(lambda: others_go_on(point))
    try:
        others.finish()
        assert doing.waits
    finally:
        disk.heal()
    doing.finish()
    ground.stage.unmount()


def test_all_wait_with_fusepy_and_go_on(ground: Ground) -> None:
    point = ground.stage.mount("engine=fusepy")
    (point / "small").touch()
    ground.lower.hold("read")
    doing = Doing(lambda: read_large(point / "large"))
    wait_until(lambda: ground.lower.waiting > 0, "the disk has been asked")
    others = Doing(lambda: others_go_on(point))
    ground.lower.heal()
    doing.finish()
    others.finish()
    ground.stage.unmount()
