"""Copy-up: everything a file is comes along, whole or not at all, and open descriptors follow."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from cowroot.union import Handle, LayerSpec, Union
from tests.t1_union.conftest import ROOT, Bench

OLD = 1_000_000_000_123_456_789  # nanoseconds


def test_reading_copies_nothing(bench: Bench) -> None:
    (bench.lower / "file").write_text("as it was")
    assert bench.read("file") == b"as it was"
    handle = bench.union.open_file(bench.node("file"), os.O_RDWR)  # nor does opening for writing
    bench.union.release(handle)
    assert os.listdir(bench.upper) == []


def test_using_a_union_writes_nothing_to_its_lower(bench: Bench) -> None:
    """Not even an access time, on a lower that is mounted so that reading moves them."""
    (bench.lower / "d").mkdir()
    (bench.lower / "d/file").write_bytes(b"x" * 300_000)
    (bench.lower / "d/other").write_text("x")
    for path in ("d/file", "d/other", "d"):
        os.utime(bench.lower / path, ns=(OLD, OLD + 10**9))  # older than the modification: relatime would move it
    before = [(bench.lower / path).stat() for path in ("d/file", "d/other", "d")]
    assert bench.names("d") == ["file", "other"]
    bench.read("d/file")
    bench.write("d/file", b"y", 200_000)
    bench.read("d/file")
    bench.write("d/other", b"y")
    bench.union.unlink(bench.node("d"), b"other")
    assert [(bench.lower / path).stat()[:9] for path in ("d/file", "d/other", "d")] == [st[:9] for st in before]


def test_mounting_leaves_the_times_of_the_root(bench: Bench) -> None:
    os.utime(bench.upper, ns=(OLD, OLD + 5))
    attr = bench.union.getattr(bench.union.root)
    assert (attr.atime_ns, attr.mtime_ns) == (OLD, OLD + 5)


def test_everything_comes_along(bench: Bench) -> None:
    below = bench.lower / "a/b"
    below.mkdir(parents=True, mode=0o750)
    below.chmod(0o2750)
    file = below / "file"
    file.write_bytes(b"data" * 1000)
    os.chown(file, 12, 34)
    file.chmod(0o4751)
    os.setxattr(file, "user.note", b"kept\0whole")
    os.setxattr(file, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.utime(file, ns=(OLD, OLD + 1))
    os.utime(below, ns=(OLD, OLD + 2))
    ino = bench.union.getattr(bench.node("a/b/file")).ino
    bench.union.setattr(bench.node("a/b/file"), mtime_ns=OLD + 5)
    copy = bench.upper / "a/b/file"
    st = copy.stat()
    assert copy.read_bytes() == b"data" * 1000
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (12, 34, 0o4751)
    assert (st.st_atime_ns, st.st_mtime_ns) == (OLD, OLD + 5)
    assert os.getxattr(copy, "user.note") == b"kept\0whole"
    assert os.getxattr(copy, "security.capability") == os.getxattr(file, "security.capability")
    parent = (bench.upper / "a/b").stat()
    assert stat.S_IMODE(parent.st_mode) == 0o2750
    assert parent.st_mtime_ns == OLD + 2, "copying a file up is not a change of its directory"
    bench.remount()
    assert bench.union.getattr(bench.node("a/b/file")).ino == ino


def test_holes_stay_holes(bench: Bench) -> None:
    with (bench.lower / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(1 << 24)
    bench.write("sparse", b"!", 3)
    copy = bench.upper / "sparse"
    assert copy.stat().st_size == 1 << 24
    data = bench.read("sparse")
    assert data[3:4] == b"!"
    assert data[1 << 20 :][:6] == b"middle"
    assert copy.stat().st_blocks * 512 < 1 << 18


def test_truncation_copies_only_what_stays(bench: Bench) -> None:
    (bench.lower / "file").write_bytes(b"0123456789" * 100_000)
    bench.union.setattr(bench.node("file"), size=5)
    assert (bench.upper / "file").read_bytes() == b"01234"
    assert (bench.lower / "file").stat().st_size == 1_000_000


@pytest.mark.parametrize("kind", ["fifo", "socket", "character", "block", "symlink"])
def test_special_files(bench: Bench, kind: str) -> None:
    path = bench.lower / "special"
    if kind == "symlink":
        path.symlink_to("x" * 4000)
    else:
        bits = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "character": stat.S_IFCHR, "block": stat.S_IFBLK}[kind]
        os.mknod(path, bits | 0o640, os.makedev(7, 9))
    before = path.lstat()
    bench.union.setattr(bench.node("special"), uid=77)
    copy = (bench.upper / "special").lstat()
    assert (stat.S_IFMT(copy.st_mode), copy.st_rdev, copy.st_uid) == (stat.S_IFMT(before.st_mode), before.st_rdev, 77)
    if kind == "symlink":
        assert bench.union.readlink(bench.node("special")) == b"x" * 4000


def test_descriptor_opened_before_sees_what_is_written_after(bench: Bench) -> None:
    (bench.lower / "file").write_text("old")
    union = bench.union
    reader = union.open_file(bench.node("file"), os.O_RDONLY)
    assert union.read(reader, 10, 0) == b"old"
    bench.write("file", b"new")
    assert union.read(reader, 10, 0) == b"new"
    union.unlink(union.root, b"file")
    assert union.read(reader, 10, 0) == b"new"
    assert union.getattr(reader.node).nlink == 0
    union.setattr(reader.node, mode=0o400, size=2)
    assert union.read(reader, 10, 0) == b"ne"
    assert len(os.listdir(bench.work / "cowroot/orphans")) == 1
    union.release(reader)
    assert os.listdir(bench.work / "cowroot/orphans") == []


def test_nameless_files_go_with_the_union(bench: Bench) -> None:
    (bench.lower / "file").write_text("old")
    bench.write("file", b"new")
    bench.union.open_file(bench.node("file"), os.O_RDONLY)
    bench.union.unlink(bench.union.root, b"file")
    bench.close()
    assert os.listdir(bench.work / "cowroot/orphans") == []


def test_lower_file_changed_after_its_name_is_gone(bench: Bench) -> None:
    (bench.lower / "file").write_text("old")
    union = bench.union
    handle = union.open_file(bench.node("file"), os.O_RDWR)
    union.unlink(union.root, b"file")
    assert union.write(handle, b"NEW", 0) == 3
    assert union.setattr(handle.node, mode=0o600).nlink == 0
    assert union.read(handle, 10, 0) == b"NEW"
    assert bench.names() == []
    union.release(handle)
    assert (bench.lower / "file").read_text() == "old"


def test_hard_links_of_the_lower_stay_one_file(bench: Bench) -> None:
    (bench.lower / "a").write_text("one")
    (bench.lower / "dir").mkdir()
    os.link(bench.lower / "a", bench.lower / "dir/b")
    os.link(bench.lower / "a", bench.lower / "c")
    union = bench.union
    assert bench.node("a") is bench.node("dir/b")
    bench.write("dir/b", b"two")
    assert bench.read("a") == bench.read("c") == b"two"
    union.unlink(union.root, b"a")
    assert union.getattr(bench.node("c")).nlink == 2
    union = bench.remount()
    assert union.getattr(bench.node("c")).nlink == 2
    assert bench.node("c") is bench.node("dir/b")
    assert bench.read("c") == b"two"
    union.rename(union.root, b"c", union.root, b"moved")
    union.link(bench.node("moved"), bench.node("dir"), b"more")
    bench.remount()
    assert bench.node("moved") is bench.node("dir/more") is bench.node("dir/b")
    assert bench.union.getattr(bench.node("moved")).nlink == 3
    for parent, name in (("", b"moved"), ("dir", b"more"), ("dir", b"b")):
        bench.union.unlink(bench.node(parent), name)
    assert os.listdir(bench.work / "cowroot/index") == []
    assert os.listdir(bench.work / "cowroot/links") == []


def test_names_of_a_lower_file_go_without_copying(bench: Bench) -> None:
    (bench.lower / "a").write_bytes(b"x" * 100_000)
    os.link(bench.lower / "a", bench.lower / "b")
    bench.union.unlink(bench.union.root, b"a")
    bench.remount()
    assert bench.union.getattr(bench.node("b")).nlink == 1
    assert os.listdir(bench.work / "cowroot/index") == []


def write_all(union: Union, handle: Handle, size: int) -> None:
    for offset in range(0, size, 1 << 16):
        assert union.write(handle, b"x" * (1 << 16), offset) == 1 << 16


def test_full_upper_leaves_no_fragment(bench: Bench, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    assert os.system(f"mount -t tmpfs -o size=1m tmpfs {small}") == 0
    try:
        (small / "u").mkdir()
        (small / "w").mkdir()
        (bench.lower / "big").write_bytes(os.urandom(3 << 20))
        union = Union.open(LayerSpec([str(bench.lower)], str(small / "u"), str(small / "w")))
        handle = union.open_file(union.lookup(union.root, b"big"), os.O_RDWR)
        with pytest.raises(OSError) as caught:
            write_all(union, handle, 3 << 20)
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(small / "w/cowroot/tmp") == []
        assert union.read(handle, 10, (3 << 20) - 10) == (bench.lower / "big").read_bytes()[-10:]
        union.unlink(union.root, b"big")
        union.release(handle)
        union.release(union.create(union.root, b"fits", 0o644, os.O_RDWR, ROOT)[1])
        union.close()
    finally:
        assert os.system(f"umount {small}") == 0


def test_read_only_union(bench: Bench) -> None:
    (bench.lower / "file").write_text("x")
    union = Union.open(LayerSpec([str(bench.lower)]))
    node = union.lookup(union.root, b"file")
    for change in (
        lambda: union.setattr(node, mode=0o600),
        lambda: union.open_file(node, os.O_RDWR),
        lambda: union.mkdir(union.root, b"d", 0o755, ROOT),
        lambda: union.unlink(union.root, b"file"),
        lambda: union.rename(union.root, b"file", union.root, b"other"),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    union.close()
