"""Layers that somebody has tampered with: each of these was found by random ones (tests/fuzz/layers.py)."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cowroot.union import syscalls
from cowroot.union.node import Node
from tests.t1_union.conftest import ROOT, Bench


def truncate(bench: Bench, name: str) -> None:
    bench.union.setattr(bench.node(name), size=0, mode=0o777)


def test_an_index_entry_that_is_a_link_leads_nowhere(bench: Bench) -> None:
    """By the lower's word it is a regular file: truncating it by name would reach what it points to, as root."""
    outside = bench.base / "outside"
    outside.write_text("as it was")
    outside.chmod(0o644)
    (bench.lower / "a").write_text("below")
    os.link(bench.lower / "a", bench.lower / "b")
    bench.write("a", b"x")
    bench.close()
    [entry] = (bench.work / "cowroot/index").iterdir()
    (bench.upper / "a").unlink()
    entry.unlink()
    entry.symlink_to(outside)
    for name in ("a", "b"):
        with pytest.raises(OSError) as caught:
            truncate(bench, name)
        assert caught.value.errno == errno.EIO
    assert outside.read_text() == "as it was"
    assert outside.stat().st_mode & 0o777 == 0o644


def test_one_damaged_name_does_not_hide_the_others(bench: Bench) -> None:
    """Nor can the directory that holds it, and be it the root, no longer be looked at."""
    (bench.lower / "directory").mkdir()
    (bench.lower / "file").write_text("below")
    bench.union.mkdir(bench.union.root, b"new", 0o755, ROOT)
    bench.union.setattr(bench.node("directory"), mode=0o700)
    bench.close()
    os.setxattr(bench.upper / "directory", "trusted.overlay.redirect", b"/../..")
    assert bench.union.getattr(bench.union.root).nlink == 4
    handle = bench.union.opendir(bench.union.root)
    assert sorted(entry.name for entry in bench.union.readdir(handle)[2:]) == [b"directory", b"file", b"new"]
    bench.union.releasedir(handle)
    with pytest.raises(OSError) as caught:
        bench.node("directory")
    assert caught.value.errno == errno.EIO


def test_nothing_is_made_in_what_is_no_directory(bench: Bench) -> None:
    (bench.lower / "file").write_text("below")
    with pytest.raises(NotADirectoryError):
        bench.union.mkdir(bench.node("file"), b"new", 0o755, ROOT)


@pytest.fixture
def secret(bench: Bench) -> Path:
    """A directory outside of the layers, with what the lower's has."""
    outside = bench.base / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub/file").write_text("secret")
    (bench.lower / "directory/sub").mkdir(parents=True)
    (bench.lower / "directory/sub/file").write_text("as it was")
    return outside


def put_link(bench: Bench, to: Path) -> None:
    """Whoever may write to the lower puts a link in the place of a directory that the union knows."""
    (bench.lower / "directory").rename(bench.lower / "away")
    (bench.lower / "directory").symlink_to(to)


ACTIONS: dict[str, Callable[[Bench, Node, Node], object]] = {
    "read": lambda bench, file, directory: bench.union.read(bench.union.open_file(file, os.O_RDONLY), 100, 0),
    "copied up": lambda bench, file, directory: bench.union.write(bench.union.open_file(file, os.O_RDWR), b"x", 0),
    "listed": lambda bench, file, directory: bench.union.readdir(bench.union.opendir(directory)),
}


@pytest.mark.skipif(not syscalls._has_openat2(), reason="the kernel has no openat2(2)")
@pytest.mark.parametrize("name", ACTIONS)
def test_a_link_in_the_place_of_a_directory_leads_nowhere(bench: Bench, secret: Path, name: str) -> None:
    file, directory = bench.node("directory/sub/file"), bench.node("directory/sub")
    put_link(bench, secret)
    with pytest.raises(OSError) as caught:
        ACTIONS[name](bench, file, directory)
    assert caught.value.errno == errno.ELOOP
    assert not [path for path in bench.upper.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["read", "listed"])
def test_without_openat2_layers_can_be_read_all_the_same(bench: Bench, secret: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(syscalls, "_OPENAT2", 1 << 20)  # there is no such call
    monkeypatch.setattr(syscalls, "_hows", {})
    assert ACTIONS[name](bench, bench.node("directory/sub/file"), bench.node("directory/sub"))
    assert not syscalls._has_openat2()


@pytest.mark.skipif(not syscalls._has_openat2(), reason="the kernel has no openat2(2)")
def test_a_race_for_a_link_is_never_won(bench: Bench, secret: Path) -> None:
    bench.node("directory/sub/file")
    layer = bench.union.layers.lower[0]
    lower = os.open(bench.lower, os.O_PATH)  # the layer's own mount cannot be written
    (bench.lower / "link").symlink_to(secret)
    seen: set[str] = set()
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            syscalls.renameat2(lower, b"directory", lower, b"link", syscalls.RENAME_EXCHANGE)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while len(seen) < 2 and time.monotonic() < deadline:
            for _ in range(1000):
                try:
                    fd = layer.open_untouched(b"directory/sub/file")
                except OSError as e:
                    seen.add(errno.errorcode[e.errno or 0])
                else:
                    seen.add(os.pread(fd, 100, 0).decode())
                    os.close(fd)
    finally:
        over.set()
        thread.join()
        os.close(lower)
    assert seen == {"as it was", "ELOOP"}
