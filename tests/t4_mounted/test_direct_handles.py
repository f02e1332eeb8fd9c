"""File handles, as an NFS server makes them: good as long as the file is known, and never another file's."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from cowroot.fuse.direct.files import Caution
from tests.t4_mounted.mounted import Stage

libc = ctypes.CDLL(None, use_errno=True)
HANDLE_BYTES = 128


class FileHandle(ctypes.Structure):
    """struct file_handle (fcntl.h)."""

    _fields_ = [("handle_bytes", ctypes.c_uint), ("handle_type", ctypes.c_int), ("handle", ctypes.c_byte * HANDLE_BYTES)]


def handle_of(path: Path) -> FileHandle:
    handle, mount = FileHandle(HANDLE_BYTES), ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


def open_handle(point: Path, handle: FileHandle) -> int:
    mount = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd: int = libc.open_by_handle_at(mount, ctypes.byref(handle), os.O_RDONLY)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "open_by_handle_at")
        return fd
    finally:
        os.close(mount)


@pytest.fixture
def point(stage: Stage) -> Path:
    (stage.lower / "a" / "b").mkdir(parents=True)
    (stage.lower / "a" / "b" / "file").write_text("below\n")
    return stage.mount("engine=direct")


def test_a_known_file_is_opened(point: Path) -> None:
    for name, kept in (("a/b/file", True), ("a/b", False)):
        path = point / name
        handle = handle_of(path)
        holder = os.open(path, os.O_RDONLY)
        fd = open_handle(point, handle)
        assert os.path.samestat(os.fstat(fd), os.stat(path))
        assert not kept or os.read(fd, 10) == b"below\n"
        os.close(fd)
        os.close(holder)


def test_a_directory_is_connected_with_what_is_above(point: Path) -> None:
    """The kernel has only the number, and asks for `.` and `..` until it is at a place that it knows."""
    handle = handle_of(point / "a" / "b")
    held = os.open(point / "a" / "b" / "file", os.O_RDONLY)  # keeps all of them known
    fd = open_handle(point, handle)
    assert os.listdir(fd) == ["file"]
    assert os.readlink(f"/proc/self/fd/{fd}") == str(point / "a" / "b")
    os.close(fd)
    os.close(held)


def test_what_was_forgotten_is_stale(point: Path) -> None:
    handle = handle_of(point / "a" / "b" / "file")
    os.unlink(point / "a" / "b" / "file")
    (point / "a" / "b" / "file").write_text("another\n")
    with pytest.raises(OSError) as refused:
        os.close(open_handle(point, handle))
    assert refused.value.errno == errno.ESTALE


def test_the_relative_names_are_no_entries(stage: Stage, point: Path) -> None:
    os.mkdir(point / "new")
    handle = handle_of(point / "new")
    os.close(open_handle(point, handle))
    assert os.stat(point / "new" / ".").st_ino == os.stat(point / "new").st_ino
    assert sorted(os.listdir(point / "new")) == []
    os.rmdir(point / "new")


def test_one_slow_read_calls_for_a_moment_of_caution_and_many_for_seconds() -> None:
    caution, now = Caution(), 1.0  # just after the kernel has started
    assert not caution.is_called_for(now)
    caution.learn(now, now + 0.001)
    assert not caution.is_called_for(now + 0.001)
    for seconds in (0.3, 0.6, 1.2, 2.4, 4.8, 5, 5):
        caution.learn(now, now + 0.01)
        assert caution.is_called_for(now + seconds)
        now += seconds + 0.02
        assert not caution.is_called_for(now)
    now += 10  # it has been quick since
    caution.learn(now, now + 0.01)
    assert caution.is_called_for(now + 0.2)
    assert not caution.is_called_for(now + 0.4)
