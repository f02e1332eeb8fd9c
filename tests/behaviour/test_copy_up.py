"""A change to a file of the lower copies it up, and nothing but the change shows."""

from __future__ import annotations

import os
import stat as st
import struct
from collections.abc import Callable

import pytest

from tests.behaviour.filesystem import FileSystem, Stat, names, read_all, write_file
from tests.behaviour.trees import OLD_NS, Dir, File, Hardlink, Spec, Special, Symlink, pattern

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw=ep
KINDS: dict[bytes, Spec] = {
    b"file": File(data=b"content", mode=0o4751, uid=7, gid=8, mtime_ns=OLD_NS + 1, xattrs={b"user.k": b"v", b"trusted.t": b"w"}),
    b"capable": File(data=b"content", mode=0o755, xattrs={b"security.capability": CAPABILITY}),
    b"empty": File(mode=0o000),
    b"directory": Dir(mode=0o3771, uid=7, gid=8, mtime_ns=OLD_NS + 2, xattrs={b"user.k": b"v"}),
    b"symlink": Symlink(target=b"to/somewhere", uid=7, gid=8, mtime_ns=OLD_NS + 3, xattrs={b"trusted.t": b"w"}),
    b"fifo": Special(kind=st.S_IFIFO, mode=0o620, uid=7, mtime_ns=OLD_NS + 4),
    b"socket": Special(kind=st.S_IFSOCK, mode=0o777, uid=7),
    b"char": Special(kind=st.S_IFCHR, rdev=os.makedev(240, 3), mode=0o640, gid=8),
    b"block": Special(kind=st.S_IFBLK, rdev=os.makedev(240, 70000), mode=0o660, gid=8),
}


def unchanged(stat: Stat) -> tuple[object, ...]:
    """What copying up leaves alone."""
    return (stat.ino, stat.mode, stat.uid, stat.gid, stat.rdev, stat.mtime_ns, stat.size if stat.kind != st.S_IFDIR else 0)


def attributes(fs: FileSystem, path: bytes) -> dict[bytes, bytes]:
    return {name: fs.getxattr(path, name, follow=False) for name in fs.listxattr(path, follow=False)}


def there_and_back(fs: FileSystem, path: bytes) -> None:
    fs.rename(path, b"moved")
    fs.rename(b"moved", path)


def set_and_remove(fs: FileSystem, path: bytes) -> None:
    fs.setxattr(path, b"trusted.new", b"1", follow=False)
    fs.removexattr(path, b"trusted.new", follow=False)


TRIGGERS: dict[str, Callable[[FileSystem, bytes], object]] = {
    "rename": there_and_back,
    "link": lambda fs, path: fs.link(path, b"further") if fs.stat(path, follow=False).kind != st.S_IFDIR else fs.mkdir(path + b"/new"),
    "xattr": set_and_remove,
    "atime": lambda fs, path: fs.utimens(path, 5, fs.stat(path, follow=False).mtime_ns, follow=False),
}


@pytest.mark.lower(KINDS)
@pytest.mark.parametrize("trigger", sorted(TRIGGERS))
def test_every_kind_keeps_its_attributes(fs: FileSystem, trigger: str) -> None:
    for path in KINDS:
        before, xattrs = unchanged(fs.stat(path, follow=False)), attributes(fs, path)
        TRIGGERS[trigger](fs, path)
        after = unchanged(fs.stat(path, follow=False))
        if trigger == "link" and path == b"directory":  # making a child moves a directory's time
            before, after = before[:5], after[:5]
        assert after == before, path
        assert attributes(fs, path) == xattrs, path
        if trigger == "link" and path != b"directory":
            assert fs.stat(b"further", follow=False)[:3] == fs.stat(path, follow=False)[:3]
            fs.unlink(b"further")
    assert read_all(fs, b"file") == b"content"
    assert fs.readlink(b"symlink") == b"to/somewhere"


@pytest.mark.lower({b"f": File(extents=[(0, 1, 10), (500_000, 2, 10)], size=1 << 20)})
def test_a_write_keeps_the_rest(fs: FileSystem) -> None:
    expected = bytearray(read_all(fs, b"f"))
    fd = fs.open(b"f", os.O_RDWR)
    assert fs.pwrite(fd, b"new", 700_000) == 3
    expected[700_000:700_003] = b"new"
    assert read_all(fs, fd) == expected
    fs.close(fd)
    assert read_all(fs, b"f") == expected


@pytest.mark.lower({b"f": File(extents=[(0, 1, 4096), (1 << 24, 2, 4096)], size=1 << 25)})
def test_holes_stay_holes(fs: FileSystem) -> None:
    fd = fs.open(b"f", os.O_RDWR)
    fs.pwrite(fd, b"x", 0)
    fs.fsync(fd)
    assert fs.stat(fd).blocks * 512 < 1 << 20
    assert fs.lseek(fd, 4096, os.SEEK_DATA) == 1 << 24
    assert fs.lseek(fd, 0, os.SEEK_HOLE) == 4096
    fs.close(fd)


@pytest.mark.lower({b"f": File(data=b"0123456789", mtime_ns=OLD_NS)})
@pytest.mark.parametrize("size", [0, 4, 10, 100])
def test_truncate(fs: FileSystem, size: int) -> None:
    fs.truncate(b"f", size)
    assert read_all(fs, b"f") == b"0123456789"[:size].ljust(size, b"\0")
    assert fs.stat(b"f").size == size
    if size != 10:
        assert fs.stat(b"f").mtime_ns > OLD_NS


@pytest.mark.lower({b"f": File(data=b"0123456789")})
def test_open_for_truncation(fs: FileSystem) -> None:
    fs.close(fs.open(b"f", os.O_WRONLY | os.O_TRUNC))
    assert fs.stat(b"f").size == 0
    assert fs.stat(b"f").mtime_ns > OLD_NS


@pytest.mark.lower({b"f": File(data=b"0123456789", mtime_ns=OLD_NS)})
def test_open_for_writing_alone_changes_nothing(fs: FileSystem) -> None:
    before = fs.stat(b"f")
    fs.close(fs.open(b"f", os.O_RDWR))
    assert unchanged(fs.stat(b"f")) == unchanged(before)
    assert fs.stat(b"f").ctime_ns == before.ctime_ns


@pytest.mark.lower({b"a/b/c/f": File(data=b"x"), b"a/b": Dir(mode=0o2750, uid=3, gid=4, mtime_ns=OLD_NS + 9)})
def test_the_directories_above_keep_their_attributes(fs: FileSystem) -> None:
    before = [unchanged(fs.stat(path)) for path in (b"a", b"a/b", b"a/b/c")]
    fs.chmod(b"a/b/c/f", 0o600)
    assert [unchanged(fs.stat(path)) for path in (b"a", b"a/b", b"a/b/c")] == before


@pytest.mark.lower({b"d/f": File(data=b"x"), b"d/g": File(data=b"y")})
def test_changes_move_the_times_of_the_directory(fs: FileSystem) -> None:
    steps: list[Callable[[], object]] = [
        lambda: write_file(fs, b"d/new", b""),
        lambda: fs.unlink(b"d/f"),
        lambda: fs.rename(b"d/g", b"d/h"),
        lambda: fs.link(b"d/h", b"d/i"),
        lambda: fs.mkdir(b"d/sub"),
        lambda: fs.rmdir(b"d/sub"),
    ]
    for change in steps:
        fs.utimens(b"d", OLD_NS, OLD_NS)
        change()
        assert fs.stat(b"d").mtime_ns > OLD_NS
    assert names(fs, b"d") == [b"h", b"i", b"new"]


CHANGES: dict[str, Callable[[FileSystem, bytes], object]] = {
    "chmod": lambda fs, path: fs.chmod(path, 0o640),
    "chown": lambda fs, path: fs.chown(path, 5, -1),
    "utimens": lambda fs, path: fs.utimens(path, 1, 1),
    "setxattr": lambda fs, path: fs.setxattr(path, b"user.x", b"1"),
    "link": lambda fs, path: fs.link(path, b"further"),
    "rename": there_and_back,
    "unlink of another name": lambda fs, path: fs.unlink(path + b"2"),
    "write": lambda fs, path: write_file(fs, path, b"new", 0),
}


@pytest.mark.lower({b"f": File(data=b"x"), b"f2": Hardlink(b"f")})
@pytest.mark.parametrize("change", sorted(CHANGES))
def test_changes_move_the_change_time(fs: FileSystem, change: str) -> None:
    fd = fs.open(b"clock", os.O_CREAT | os.O_WRONLY)
    while fs.stat(fd).mtime_ns <= fs.stat(b"f").ctime_ns:  # until the file system's clock has ticked
        fs.write(fd, b".")
    fs.close(fd)
    before = fs.stat(b"f").ctime_ns
    CHANGES[change](fs, b"f")
    assert fs.stat(b"f").ctime_ns > before


@pytest.mark.lower({b"big": File(extents=[(offset, offset >> 20, 1 << 20) for offset in range(0, 8 << 20, 1 << 20)])})
def test_a_large_file(fs: FileSystem) -> None:
    expected = b"".join(pattern(number, 1 << 20) for number in range(8))
    fd = fs.open(b"big", os.O_RDWR | os.O_APPEND)
    fs.write(fd, b"end")
    fs.close(fd)
    assert read_all(fs, b"big") == expected + b"end"
