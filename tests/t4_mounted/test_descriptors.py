"""What libfuse 2's paths alone could not do: files without a name, files with two, and the calls that came after libfuse 2."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage
from tests.t4_mounted.open_files import open_files

_libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400


def renameat2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def change_everything(fd: int) -> None:
    """Every change that can be made through a descriptor, and that it is seen."""
    os.fchmod(fd, 0o640)
    os.fchown(fd, 5, 6)
    os.pwrite(fd, b"changed", 0)
    os.ftruncate(fd, 5)
    os.setxattr(fd, "user.name", b"\0value\0")
    os.utime(fd, ns=(-1, 2_000_000_003))
    st = os.fstat(fd)
    assert (st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_size) == (0o640, 5, 6, 5)
    assert (st.st_atime_ns, st.st_mtime_ns) == (-1, 2_000_000_003)
    assert os.pread(fd, 100, 0) == b"chang"
    assert os.getxattr(fd, "user.name") == b"\0value\0"
    assert os.listxattr(fd) == ["user.name"]
    os.removexattr(fd, "user.name")
    os.posix_fallocate(fd, 0, 10000)
    assert os.fstat(fd).st_size == 10000
    os.fsync(fd)
    assert os.fstatvfs(fd).f_namemax == 255


def test_a_file_lives_on_without_its_name(stage: Stage, union: Path) -> None:
    with opened(union / "directory" / "inner") as fd:
        os.unlink(union / "directory" / "inner")
        assert os.listdir(union / "directory") == [], "no .fuse_hidden files"
        change_everything(fd)
        assert os.fstat(fd).st_nlink == 0
        with opened(Path(f"/proc/self/fd/{fd}")) as again:
            os.pwrite(again, b"C", 0)
        assert os.pread(fd, 2, 0) == b"Ch"
        os.rmdir(union / "directory")
        os.fchmod(fd, 0o600)
        assert os.fstat(fd).st_mode & 0o777 == 0o600
    stage.unmount()
    assert not list(stage.work.rglob("orphans/*"))


def test_a_file_lives_on_when_another_takes_its_name(union: Path) -> None:
    (union / "other").write_text("other")
    with opened(union / "file") as fd:
        os.rename(union / "other", union / "file")
        assert os.fstat(fd).st_nlink == 1, "its second name is left"
        change_everything(fd)
    assert (union / "file").read_text() == "other"
    assert os.stat(union / "linked").st_mode & 0o777 == 0o640


def test_a_descriptor_follows_its_file_through_renames(union: Path) -> None:
    with opened(union / "directory" / "inner") as fd:
        os.rename(union / "directory", union / "renamed")
        os.rename(union / "renamed" / "inner", union / "elsewhere")
        change_everything(fd)
        assert (union / "elsewhere").stat().st_ino == os.fstat(fd).st_ino


def test_a_removed_directory_is_still_a_directory(union: Path) -> None:
    (union / "new").mkdir()
    with opened(union / "new", os.O_RDONLY) as fd:
        os.rmdir(union / "new")
        assert os.fstat(fd).st_nlink == 0
        with pytest.raises(FileNotFoundError):
            os.open("file", os.O_CREAT, dir_fd=fd)


def test_user_files_may_look_like_libfuse_hidden_ones(union: Path) -> None:
    name = union / ".fuse_hidden0000000200000001"
    name.write_text("mine")
    os.rename(name, union / "visible")
    (union / "visible").write_text("still mine")
    os.rename(union / "visible", name)
    assert ".fuse_hidden0000000200000001" in os.listdir(union)
    assert name.read_text() == "still mine"


def test_two_names_are_one_file(union: Path) -> None:
    with opened(union / "file") as first, opened(union / "linked") as second:
        assert os.fstat(first).st_ino == os.fstat(second).st_ino
        os.pwrite(first, b"written through one", 0)
        assert os.pread(second, 100, 0) == b"written through one"
        assert os.fstat(second).st_size == 19
        with mmap.mmap(second, 19) as memory:
            os.pwrite(first, b"W", 0)
            assert memory[:1] == b"W"
            memory[1:2] = b"R"
            assert os.pread(first, 2, 0) == b"WR"
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.chmod(union / "linked", 0o600)
    assert os.stat(union / "file").st_mode & 0o777 == 0o600
    os.link(union / "file", union / "third")
    assert {os.stat(union / name).st_nlink for name in ("file", "linked", "third")} == {3}
    os.unlink(union / "file")
    assert {os.stat(union / name).st_nlink for name in ("linked", "third")} == {2}


def test_names_come_and_go_in_any_order(stage: Stage, union: Path) -> None:
    """The kernel knows the file by the name it met first; that may be the one that goes first."""
    for round_ in range(3):
        os.stat(union / "file")
        os.link(union / "file", union / f"name{round_}")
        os.unlink(union / "file")
        with opened(union / f"name{round_}") as fd:
            os.link(union / f"name{round_}", union / "file")
            assert os.fstat(fd).st_nlink == 3
        Path("/proc/sys/vm/drop_caches").write_text("2")
        assert (union / "file").read_text() == (union / "linked").read_text() == "below\n"
        os.rename(union / f"name{round_}", union / "directory" / "moved")
        os.unlink(union / "directory" / "moved")
    assert os.stat(union / "linked").st_nlink == 2
    stage.unmount()


def test_rename_without_replacing(union: Path) -> None:
    with pytest.raises(FileExistsError):
        renameat2(union / "file", union / "directory", NOREPLACE)
    renameat2(union / "file", union / "new", NOREPLACE)
    assert sorted(os.listdir(union)) == ["directory", "linked", "new"]


def test_exchange(union: Path) -> None:
    with opened(union / "file") as file, opened(union / "directory", os.O_RDONLY) as directory:
        renameat2(union / "file", union / "directory", EXCHANGE)
        assert (union / "directory").read_text() == "below\n"
        assert (union / "file" / "inner").read_text() == "inner\n"
        os.fchmod(file, 0o600)
        os.fchmod(directory, 0o700)
        assert os.stat(union / "directory").st_mode & 0o777 == 0o600
        assert os.stat(union / "file").st_mode & 0o777 == 0o700
    os.rename(union / "file" / "inner", union / "inner")
    renameat2(union / "inner", union / "directory", EXCHANGE)
    assert ((union / "inner").read_text(), (union / "directory").read_text()) == ("below\n", "inner\n")
    os.unlink(union / "directory")
    os.rmdir(union / "file")
    assert sorted(os.listdir(union)) == ["inner", "linked"]


def test_a_file_made_without_a_name_gets_one(stage: Stage, union: Path) -> None:
    with opened(union, os.O_TMPFILE | os.O_RDWR) as fd:
        change_everything(fd)
        assert os.fstat(fd).st_nlink == 0
        assert _libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, os.fsencode(union / "named"), AT_SYMLINK_FOLLOW) == 0
        assert os.fstat(fd).st_ino == os.stat(union / "named").st_ino
        os.pwrite(fd, b"later", 0)
    assert (union / "named").read_bytes()[:5] == b"later"
    os.unlink(union / "named")
    stage.unmount()


def test_holes_are_found(union: Path) -> None:
    with opened(union / "sparse", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 1 << 20)
        os.pwrite(fd, b"data", 1 << 19)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 19
        assert (1 << 19) < os.lseek(fd, 1 << 19, os.SEEK_HOLE) < 1 << 20
        assert os.fstat(fd).st_blocks * 512 < 1 << 19
        with pytest.raises(OSError) as caught:
            os.lseek(fd, 1 << 20, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO


def test_copies_within(union: Path) -> None:
    with opened(union / "file") as source, opened(union / "copy", os.O_RDWR | os.O_CREAT) as target:
        assert os.copy_file_range(source, target, 100, 1, 2) == 5
        assert os.pread(target, 100, 0) == b"\0\0elow\n"


def test_o_direct_and_o_append(union: Path) -> None:
    with opened(union / "direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd, mmap.mmap(-1, 8192) as memory:
        memory[:] = b"d" * 8192
        assert os.write(fd, memory) == 8192
        assert os.pread(fd, 4096, 4096) == b"d" * 4096
    with (
        opened(union / "append", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as one,
        opened(union / "append", os.O_WRONLY | os.O_APPEND) as two,
    ):
        for fd in (one, two, one):
            os.write(fd, b"%d" % (fd == two))
    assert (union / "append").read_bytes() == b"010"


@pytest.mark.parametrize("engine", ["fusepy", "direct", "direct,protocol=7.39"])
def test_more_open_files_than_the_daemon_has_descriptors(stage: Stage, engine: str) -> None:
    figures = open_files(stage, 800, 200, f"engine={engine}")
    assert figures["failures"] == []
    assert figures["open"] == 800
    assert figures["descriptors"] < 200
