"""Calls that would take long, made by an engine without patience: done in parts, with other calls between them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from cowroot.union import Handle, Wait
from cowroot.union.syscalls import FALLOC_FL_KEEP_SIZE
from tests.t1_union.conftest import ROOT, Bench

SIZE = 3 << 20
PUNCH = 2 | FALLOC_FL_KEEP_SIZE


@pytest.fixture
def content(bench: Bench) -> bytes:
    """What is in `directory/file`, of which nothing may be copied without saying so before."""
    bench.metacopy = False
    return fill(bench)


def fill(bench: Bench) -> bytes:
    data = os.urandom(SIZE)
    (bench.lower / "directory").mkdir()
    (bench.lower / "directory" / "file").write_bytes(data)
    bench.union.tree.patience = 0
    return data


def waiting(call: Callable[[], object]) -> Wait:
    with pytest.raises(Wait) as raised:
        call()
    wait = raised.value
    wait.prepare()
    return wait


def no_temporaries(bench: Bench) -> bool:
    return os.listdir(bench.work / "cowroot" / "tmp") == []


def test_nothing_happens_before_it_is_run(bench: Bench, content: bytes) -> None:
    node = bench.node("directory/file")
    handle = bench.union.open_file(node, os.O_RDWR)
    other = bench.node("directory")
    calls: list[Callable[[], object]] = [
        lambda: bench.union.setattr(node, mode=0o600),
        lambda: bench.union.setattr(node, size=SIZE - 1),
        lambda: bench.union.write(handle, b"x", 0),
        lambda: bench.union.setxattr(node, b"user.x", b"y"),
        lambda: bench.union.link(node, other, b"linked"),
        lambda: bench.union.fallocate(handle, 0, 0, 10),
    ]
    for call in calls:
        with pytest.raises(Wait):
            call()
    assert os.listdir(bench.upper) == []
    assert no_temporaries(bench)
    assert bench.union.setattr(node, size=0).size == 0  # nothing to copy
    bench.union.release(handle)


@pytest.mark.parametrize("meanwhile", ["nothing", "rename", "rename of its directory", "replace", "unlink", "copy up"])
def test_what_others_do_meanwhile(bench: Bench, content: bytes, meanwhile: str) -> None:
    union = bench.union
    node, directory = bench.node("directory/file"), bench.node("directory")
    handle = union.open_file(node, os.O_RDWR)
    wait = waiting(lambda: union.write(handle, b"begin", 0))
    path = "directory/file"
    if meanwhile == "rename of its directory":
        union.rename(union.root, b"directory", union.root, b"moved")
        path = "moved/file"
    wait.run()
    if meanwhile == "rename":
        union.tree.patience = SIZE
        union.rename(directory, b"file", union.root, b"elsewhere")
        path = "elsewhere"
    elif meanwhile == "replace":
        union.release(union.create(union.root, b"new", 0o644, os.O_RDWR, ROOT)[1])
        union.rename(union.root, b"new", directory, b"file")
    elif meanwhile == "unlink":
        union.unlink(directory, b"file")
    elif meanwhile == "copy up":
        union.tree.patience = SIZE
        union.setattr(node, mode=0o600)
    union.tree.patience = 0
    wait.finish(True)
    assert union.write(handle, b"begin", 0) == 5
    assert union.read(handle, SIZE, 0) == b"begin" + content[5:]
    union.release(handle)
    assert no_temporaries(bench)
    if meanwhile == "replace":
        assert bench.read(path) == b""
    elif meanwhile == "unlink":
        assert bench.names("directory") == []
    else:
        assert bench.read(path) == b"begin" + content[5:]
        assert (bench.upper / path).read_bytes() == b"begin" + content[5:]


def test_a_copy_that_fails_leaves_nothing(bench: Bench, content: bytes) -> None:
    node = bench.node("directory/file")
    wait = waiting(lambda: bench.union.setattr(node, mode=0o600))
    wait.run()
    wait.finish(False)
    assert not node.upper
    assert no_temporaries(bench)
    assert bench.read("directory/file") == content


def test_completing_keeps_writers_away(bench: Bench) -> None:
    """Otherwise what they write could be overwritten by what was below."""
    content = fill(bench)
    union = bench.union
    node = bench.node("directory/file")
    handle = union.open_file(node, os.O_RDWR)
    union.tree.patience = SIZE
    union.write(handle, b"begin", 0)
    union.tree.patience = 0
    wait = waiting(lambda: union.fallocate(handle, PUNCH, 8192, 4096))
    for call in (lambda: union.write(handle, b"x", 1 << 20), lambda: union.setattr(node, size=5)):
        with pytest.raises(Wait) as kept:
            call()
        assert kept.value.node is node
    before = union.getattr(node).mtime_ns
    wait.run()
    assert union.read(handle, 10, 1 << 20) == content[1 << 20 :][:10]
    wait.finish(True)
    assert union.getattr(node).mtime_ns == before
    union.fallocate(handle, PUNCH, 8192, 4096)
    expected = b"begin" + content[5:8192] + bytes(4096) + content[12288:]
    assert union.read(handle, SIZE, 0) == expected
    union.release(handle)
    assert (bench.upper / "directory" / "file").read_bytes() == expected


def test_part_of_a_block_waits_for_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    content = fill(bench)
    union = bench.union
    handle: Handle = union.open_file(bench.node("directory/file"), os.O_RDWR)

    def not_in_memory(*_arguments: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "on the disk")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", not_in_memory)
        wait = waiting(lambda: union.write(handle, b"x", 4097))
        wait.run()
        wait.finish(True)
    assert not wait.settles
    union.write(handle, b"x", 4097)
    assert union.read(handle, SIZE, 0) == content[:4097] + b"x" + content[4098:]
    union.release(handle)


def test_what_is_held_is_read_whatever_happens(bench: Bench, content: bytes) -> None:
    union = bench.union
    handle = union.open_file(bench.node("directory/file"), os.O_RDWR)
    held = union.hold(handle)
    union.tree.patience = SIZE
    union.write(handle, b"new", 0)
    buffer = memoryview(bytearray(10))
    assert held.read_into(buffer, 0) == 10
    assert bytes(buffer) == content[:10]
    held.close()
    union.release(handle)
