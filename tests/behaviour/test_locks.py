"""Locks between descriptors and between processes, also when the file is copied up meanwhile."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys

import pytest

from tests.behaviour import calls
from tests.behaviour.filesystem import FileSystem, MountedFileSystem, write_file
from tests.behaviour.trees import File, Hardlink

pytestmark = pytest.mark.mounted


def in_another_process(fs: FileSystem, path: bytes, call: str) -> str:
    """What `call` on a fresh descriptor `fd` gives in another process: "ok" or the error's name."""
    assert isinstance(fs, MountedFileSystem)
    program = f"""
import errno, fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.{call}
    print("ok")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    done = subprocess.run([sys.executable, "-c", program, fs.path(path)], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


@pytest.mark.lower({b"f": File(data=b"x"), b"g": Hardlink(b"f")})
def test_flock(fs: FileSystem) -> None:
    first, second = fs.open(b"f", os.O_RDONLY), fs.open(b"f", os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    write_file(fs, b"f", b"copied up")
    later = fs.open(b"g", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(later, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert in_another_process(fs, b"f", "flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)") == "EAGAIN"
    fs.rename(b"f", b"moved")
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fs.close(first)
    fcntl.flock(later, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fs.close(second)
    fs.close(later)


@pytest.mark.lower({b"f": File(data=b"0123456789"), b"g": Hardlink(b"f")})
def test_record_locks(fs: FileSystem) -> None:
    fd = fs.open(b"f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 5, 0)
    for path in (b"f", b"g"):
        assert in_another_process(fs, path, "lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)") == "EAGAIN"
        assert in_another_process(fs, path, "lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5)") == "ok"
    fs.pwrite(fd, b"x", 0)
    assert in_another_process(fs, b"g", "lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)") == "EAGAIN"
    fcntl.lockf(fd, fcntl.LOCK_UN, 5, 0)
    assert in_another_process(fs, b"g", "lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)") == "ok"
    fs.close(fd)


@pytest.mark.lower({b"f": File(data=b"0123456789")})
def test_open_file_description_locks(fs: FileSystem) -> None:
    first, second = fs.open(b"f", os.O_RDWR), fs.open(b"f", os.O_RDWR)

    def lock(fd: int, kind: int, start: int) -> None:
        fcntl.fcntl(fd, calls.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 5, 0))

    lock(first, fcntl.F_WRLCK, 0)
    with pytest.raises(OSError) as error:
        lock(second, fcntl.F_WRLCK, 0)
    assert error.value.errno == errno.EAGAIN
    lock(second, fcntl.F_WRLCK, 5)
    fs.chmod(b"f", 0o600)
    with pytest.raises(OSError):
        lock(second, fcntl.F_RDLCK, 2)
    fs.close(first)
    lock(second, fcntl.F_WRLCK, 0)
    fs.close(second)


@pytest.mark.lower({b"f": File(data=b"x")})
def test_locks_on_what_is_gone(fs: FileSystem) -> None:
    first, second = fs.open(b"f", os.O_RDWR), fs.open(b"f", os.O_RDWR)
    fs.unlink(b"f")
    fcntl.flock(first, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fs.close(first)
    fs.close(second)
