"""Paths longer than PATH_MAX: nobody can name them in one call, but whoever stands in a directory far down uses short names."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.union import Node
from cowroot.union.check import check
from tests.t1_union.conftest import ROOT, Bench

LEVELS = 1200  # directories in each other: more than Python functions can be
NAME = b"directory"  # 1200 of these are 12,000 bytes


def descend(top: Path, make: bool = False) -> int:
    """A descriptor of the lowest directory below `top`."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(LEVELS):
        if make:
            os.mkdir(NAME, dir_fd=fd)
        below = os.open(NAME, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


@pytest.fixture
def deep(bench: Bench) -> Iterator[Bench]:
    """A union whose lower has a file, a link to it and a symbolic link as far down as `LEVELS` says."""
    fd = descend(bench.lower, make=True)
    with open(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as file:
        file.write(b"lower")
    os.link("f", "g", src_dir_fd=fd, dst_dir_fd=fd)
    os.symlink("to", "s", dir_fd=fd)
    os.mkdir("d", dir_fd=fd)
    os.close(fd)
    yield bench
    bench.close()
    for top in (bench.lower, bench.upper):  # pytest would remove it by recursion
        subprocess.run(["rm", "-rf", str(top / os.fsdecode(NAME))], check=True)


def lowest(bench: Bench) -> Node:
    node = bench.union.root
    for _ in range(LEVELS):
        node = bench.union.lookup(node, NAME)
    return node


def content(bench: Bench, name: bytes) -> bytes:
    handle = bench.union.open_file(bench.union.lookup(lowest(bench), name), os.O_RDONLY)
    try:
        return bench.union.read(handle, 100, 0)
    finally:
        bench.union.release(handle)


def listed(bench: Bench, node: Node) -> list[bytes]:
    handle = bench.union.opendir(node)
    names = sorted(entry.name for entry in bench.union.readdir(handle))
    bench.union.releasedir(handle)
    return names[2:]


def test_reading(deep: Bench) -> None:
    union, bottom = deep.union, lowest(deep)
    assert listed(deep, bottom) == [b"d", b"f", b"g", b"s"]
    assert content(deep, b"f") == b"lower"
    assert union.readlink(union.lookup(bottom, b"s")) == b"to"
    assert union.getattr(union.lookup(bottom, b"f")).nlink == 2
    assert union.listxattr(bottom) == []


def test_everything_else(deep: Bench) -> None:
    union, bottom = deep.union, lowest(deep)
    _, handle = union.create(bottom, b"new", 0o640, os.O_RDWR, ROOT)
    union.write(handle, b"new", 0)
    union.release(handle)
    handle = union.open_file(union.lookup(bottom, b"f"), os.O_WRONLY)
    union.write(handle, b"UP", 0)
    union.release(handle)
    union.setattr(union.lookup(bottom, b"s"), uid=7, mtime_ns=5)
    union.setxattr(union.lookup(bottom, b"f"), b"user.a", b"value")
    union.link(union.lookup(bottom, b"f"), bottom, b"h")
    union.rename(bottom, b"new", union.root, b"up here")
    union.rename(union.root, b"up here", bottom, b"new")
    union.symlink(bottom, b"t", b"x" * 4000, ROOT)
    union.mknod(bottom, b"p", stat.S_IFIFO | 0o600, 0, ROOT)
    union.mkdir(union.mkdir(bottom, b"made", 0o755, ROOT), b"inner", 0o755, ROOT)
    union.rename(bottom, b"made", bottom, b"moved")
    union.rmdir(bottom, b"d")
    union.mkdir(bottom, b"d", 0o755, ROOT)
    union.unlink(bottom, b"g")
    union.unlink(bottom, b"t")
    expected = [b"d", b"f", b"h", b"moved", b"new", b"p", b"s"]
    assert listed(deep, bottom) == expected
    deep.remount()
    union, bottom = deep.union, lowest(deep)
    assert listed(deep, bottom) == expected
    assert content(deep, b"f") == content(deep, b"h") == b"UPwer"
    assert content(deep, b"new") == b"new"
    assert union.getxattr(union.lookup(bottom, b"h"), b"user.a") == b"value"
    assert union.getattr(union.lookup(bottom, b"s")).uid == 7
    assert listed(deep, union.lookup(bottom, b"moved")) == [b"inner"]
    deep.close()
    assert list(check(str(deep.upper), str(deep.work), (str(deep.lower),))) == []
    fd = descend(deep.upper)
    assert stat.S_ISCHR(os.stat("g", dir_fd=fd).st_mode)
    os.close(fd)
