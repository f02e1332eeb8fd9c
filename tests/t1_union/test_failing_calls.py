"""Any system call on the upper may fail: for want of room, or because a disk is going. Whatever was asked for then has not happened.

Each operation is made again and again, with the first, the second, … of its calls on the upper failing, until none is left to fail. After
each failure the union has to show what it showed before, also to who mounts it anew, with nothing left behind in the work directory.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowroot.union import syscalls
from cowroot.union.check import check
from cowroot.union.layers import LayerSpec
from cowroot.union.union import Union
from tests.behaviour import snapshot
from tests.behaviour.core_driver import CoreFileSystem
from tests.behaviour.filesystem import FileSystem, write_file

# What may need room: for data, an inode, an entry of a directory, an attribute, or for what was promised before
ALLOCATING = (
    "mkdir", "mknod", "symlink", "link", "setxattr", "pwrite", "sendfile", "copy_file_range", "fdatasync", "open", "renameat2", "fallocate",
)  # fmt: skip
CHANGING = (*ALLOCATING, "rename", "chown", "fchown", "chmod", "fchmod", "truncate", "ftruncate", "utime", "utimensat", "unlink", "rmdir")
LARGE = 140_000  # bytes: enough for a copy in parts
MOST_CALLS = 60  # that an operation makes

Operation = Callable[[FileSystem], object]


class Faults:
    """Has calls fail: the `number`-th, and all after it where `lasting`; `left`: how many are still to be made before that."""

    def __init__(self, names: tuple[str, ...], error: int, number: int, lasting: bool) -> None:
        self._names, self._error, self._lasting = names, error, lasting
        self.left = number

    def _fails(self) -> bool:
        self.left -= 1
        return self.left < 0 if self._lasting else self.left == -1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in self._names:
                if name in ("renameat2", "utimensat", "fallocate"):
                    patch.setattr(syscalls._libc, name, self._wrapped_libc(getattr(syscalls._libc, name)))
                else:
                    patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
            yield

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            if (name != "open" or arguments[1] & os.O_CREAT) and self._fails():
                raise OSError(self._error, f"injected into {name}")
            return call(*arguments, **options)

        return made

    def _wrapped_libc(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any) -> Any:
            needs_no_room = call.__name__ == "renameat2" and arguments[4] == syscalls.RENAME_EXCHANGE and self._lasting
            if not needs_no_room and self._fails():
                ctypes.set_errno(self._error)
                return -1
            return call(*arguments)

        return made


def write(path: bytes, offset: int) -> Operation:
    def operation(fs: FileSystem) -> None:
        fd = fs.open(path, os.O_RDWR)
        try:
            fs.pwrite(fd, b"new", offset)
        finally:
            fs.close(fd)

    return operation


def truncate(path: bytes, size: int) -> Operation:
    return lambda fs: fs.truncate(path, size)


def opened(path: bytes, operation: Operation) -> Operation:
    """The same while the file at `path` is open."""

    def made(fs: FileSystem) -> None:
        fd = fs.open(path, os.O_RDONLY)
        try:
            operation(fs)
        finally:
            fs.close(fd)

    return made


def allocate(fs: FileSystem) -> None:
    fd = fs.open(b"d/large", os.O_RDWR)
    try:
        fs.fallocate(fd, 0, 0, 4096)
    finally:
        fs.close(fd)


def temporary(fs: FileSystem) -> None:
    fs.close(fs.open(b"d", os.O_TMPFILE | os.O_RDWR))


OPERATIONS: dict[str, Operation] = {
    "create": lambda fs: fs.close(fs.open(b"d/new", os.O_CREAT | os.O_RDWR)),
    "create over a whiteout": lambda fs: fs.close(fs.open(b"d/gone", os.O_CREAT | os.O_RDWR)),
    "create with set-user-ID": lambda fs: fs.mknod(b"d/new", stat.S_IFREG | 0o4755, 0),
    "mkdir": lambda fs: fs.mkdir(b"d/new", 0o2755),
    "mkdir over a whiteout": lambda fs: fs.mkdir(b"d/gone", 0o755),
    "symlink": lambda fs: fs.symlink(b"to", b"d/new"),
    "FIFO": lambda fs: fs.mknod(b"d/new", stat.S_IFIFO | 0o644, 0),
    "device 0:0": lambda fs: fs.mknod(b"d/new", stat.S_IFCHR | 0o644, 0),
    "device 0:0 over a whiteout": lambda fs: fs.mknod(b"d/gone", stat.S_IFCHR | 0o644, 0),
    "temporary": temporary,
    "link of the upper's": lambda fs: fs.link(b"d/made", b"e/new"),
    "link of the lower's": lambda fs: fs.link(b"d/small", b"e/new"),
    "link of linked": lambda fs: fs.link(b"d/one", b"e/new"),
    "chmod": lambda fs: fs.chmod(b"d/small", 0o600),
    "chmod of linked": lambda fs: fs.chmod(b"d/one", 0o600),
    "chmod of large": lambda fs: fs.chmod(b"d/large", 0o600),
    "chmod of a directory": lambda fs: fs.chmod(b"d/sub", 0o700),
    "attribute": lambda fs: fs.setxattr(b"d/small", b"user.new", b"x"),
    "attribute of a symbolic link": lambda fs: fs.setxattr(b"d/sl", b"trusted.new", b"x", follow=False),
    "write to small": write(b"d/small", 10),
    "write to large": write(b"d/large", 5000),
    "write to linked": write(b"d/one", 10),
    "truncate": truncate(b"d/large", 7777),
    "extend": truncate(b"d/large", LARGE + 5000),
    "allocate": allocate,
    "unlink of the lower's": lambda fs: fs.unlink(b"d/small"),
    "unlink of linked": lambda fs: fs.unlink(b"d/one"),
    "unlink of the upper's": lambda fs: fs.unlink(b"d/made"),
    "unlink of open": opened(b"d/made", lambda fs: fs.unlink(b"d/made")),
    "unlink of what was copied up": lambda fs: fs.unlink(b"d/copied"),
    "unlink of open that was copied up": opened(b"d/copied", lambda fs: fs.unlink(b"d/copied")),
    "rmdir of the lower's": lambda fs: fs.rmdir(b"d/empty"),
    "rmdir of the upper's": lambda fs: fs.rmdir(b"d/madedir"),
    "rename of small": lambda fs: fs.rename(b"d/small", b"e/moved"),
    "rename of linked": lambda fs: fs.rename(b"d/one", b"e/moved"),
    "rename of a directory": lambda fs: fs.rename(b"d/sub", b"e/moved"),
    "rename of a directory over a whiteout": lambda fs: fs.rename(b"d/sub", b"d/gone"),
    "rename over a file": lambda fs: fs.rename(b"d/small", b"d/copied"),
    "rename over an open file": opened(b"d/copied", lambda fs: fs.rename(b"d/small", b"d/copied")),
    "rename over linked": lambda fs: fs.rename(b"d/small", b"d/one"),
    "rename over a directory": lambda fs: fs.rename(b"d/sub", b"d/empty"),
    "rename over the upper's directory": lambda fs: fs.rename(b"d/sub", b"d/madedir"),
    "rename over a directory with whiteouts": lambda fs: fs.rename(b"d/sub", b"d/emptied"),
    "rename over an open directory": opened(b"d/madedir", lambda fs: fs.rename(b"d/sub", b"d/madedir")),
    "exchange": lambda fs: fs.rename(b"d/small", b"e/other", 2),
    "exchange of directories": lambda fs: fs.rename(b"d/sub", b"e/dir", 2),
}


class Ground:
    """Layers with something of each kind, the union over them, and what it shows."""

    def __init__(self, base: Path) -> None:
        self.lower, self.upper, self.work = (base / name for name in ("lower", "upper", "work"))
        for directory in (
            self.lower / "d/sub",
            self.lower / "d/empty",
            self.lower / "d/emptied",
            self.lower / "e/dir",
            self.upper,
            self.work,
        ):
            directory.mkdir(parents=True)
        for name in ("d/small", "d/copied", "d/gone", "d/one", "d/sub/inner", "d/emptied/gone", "e/other", "e/dir/inner"):
            (self.lower / name).write_bytes(name.encode() * 100)
        os.setxattr(self.lower / "d/small", "user.kept", b"value")
        os.link(self.lower / "d/one", self.lower / "e/two")
        os.symlink("target", self.lower / "d/sl")
        (self.lower / "d/large").write_bytes(random.Random(1).randbytes(LARGE))
        fs = self.mount()
        write_file(fs, b"d/made", b"made")
        fs.mkdir(b"d/madedir", 0o755)
        write_file(fs, b"d/copied", b"copied")
        fs.unlink(b"d/gone")
        fs.unlink(b"d/emptied/gone")
        fs.shut_down()

    def mount(self) -> CoreFileSystem:
        return CoreFileSystem(Union.open(LayerSpec([str(self.lower)], str(self.upper), str(self.work))))

    def faults(self) -> list[str]:
        return [f"{problem.path}: {problem.what}" for problem in check(str(self.upper), str(self.work), (str(self.lower),))]


def shown(fs: FileSystem) -> dict[bytes, tuple[object, ...]]:
    """All that a failed call may not change.

    It may change the time of a directory, in which something was made and removed again, and of a file whose data could not be written.
    """
    found: dict[bytes, tuple[object, ...]] = {}
    for path, item in snapshot.take(fs).items():
        s = item.stat
        size = 0 if s.kind == stat.S_IFDIR else s.size
        found[path] = s.mode, s.uid, s.gid, s.nlink, s.rdev, size, item.content, item.xattrs, item.link_group, item.faults
    return found


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("lasting", [True, False], ids=["full", "once"])
def test_no_room(tmp_path: Path, name: str, lasting: bool) -> None:
    operation = OPERATIONS[name]
    for number in range(MOST_CALLS):
        ground = Ground(tmp_path / str(number))
        fs = ground.mount()
        before = shown(fs)
        faults = Faults(ALLOCATING, errno.ENOSPC, number, lasting)
        failed = None
        with faults.at_work():
            try:
                operation(fs)
            except OSError as e:
                failed = e
        if failed is not None:
            assert failed.errno == errno.ENOSPC, failed
            left = [entry for place in ("tmp", "orphans") for entry in os.listdir(ground.work / "cowroot" / place)]
            assert (number, failed, left) == (number, failed, [])
            assert (number, differences(before, shown(fs))) == (number, [])
        now = shown(fs)
        fs.shut_down()
        assert (number, ground.faults()) == (number, [])
        again = ground.mount()
        assert (number, differences(now, shown(again))) == (number, [])
        if failed is not None:
            operation(again)  # nothing stands in the way of it any more
        again.shut_down()
        if faults.left >= 0:
            return
    raise AssertionError("the operation makes more calls than were tried")


def differences(before: dict[bytes, tuple[object, ...]], after: dict[bytes, tuple[object, ...]]) -> list[str]:
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    return [f"{path!r}: {before.get(path)} -> {after.get(path)}" for path in changed]


@pytest.mark.parametrize("name", OPERATIONS)
def test_errors_of_the_disk(tmp_path: Path, name: str) -> None:
    """Who asked is told; whether it has happened or not, everybody sees the same from then on, also after a mount."""
    operation = OPERATIONS[name]
    for number in range(MOST_CALLS):
        ground = Ground(tmp_path / str(number))
        fs = ground.mount()
        faults = Faults(CHANGING, errno.EIO, number, lasting=False)
        with faults.at_work():
            try:
                operation(fs)
            except OSError as e:
                assert e.errno == errno.EIO
        now = shown(fs)
        fs.shut_down()
        again = ground.mount()
        assert (number, differences(now, shown(again))) == (number, [])
        again.shut_down()
        if faults.left >= 0:
            return
    raise AssertionError("the operation makes more calls than were tried")
