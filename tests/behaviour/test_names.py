"""Look-up, removal and renaming of names."""

from __future__ import annotations

import errno
import os
import stat as st

import pytest

from tests.behaviour.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from tests.behaviour.filesystem import FileSystem, entries, exists, names, read_all, write_file
from tests.behaviour.trees import Dir, File, Hardlink, Spec, Special, Symlink

ODD_NAMES = [b"n" * 255, b"new\nline", b"\xff\xfe\x80", b" ", b"-rf", b"a:b,c\\d", b"...", b"\xc3\xa4\xe2\x82\xac", b".wh.f", b"#1,2"]
ODD: dict[bytes, Spec] = {name: File(data=name) for name in ODD_NAMES}


@pytest.mark.lower(ODD)
def test_any_byte_in_a_name(fs: FileSystem) -> None:
    assert names(fs) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        assert read_all(fs, name) == name
        fs.chmod(name, 0o600)
        fs.mkdir(b"directory")
        fs.rename(name, b"directory/" + name)
        fs.rename(b"directory", name)
        assert read_all(fs, name + b"/" + name) == name
        fs.unlink(name + b"/" + name)
        fs.rmdir(name)
    assert names(fs) == []


def test_a_name_that_is_too_long(fs: FileSystem) -> None:
    for call in (lambda: fs.stat(b"n" * 256), lambda: fs.mkdir(b"n" * 256), lambda: write_file(fs, b"n" * 256, b"")):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == errno.ENAMETOOLONG


@pytest.mark.lower({b"long": Symlink(target=b"t/" * 2047 + b"x"), b"plain": Symlink(target=b"f"), b"f": File(data=b"x")})
def test_symlinks(fs: FileSystem) -> None:
    assert fs.readlink(b"long") == b"t/" * 2047 + b"x"
    assert fs.stat(b"long", follow=False).size == 4095
    fs.rename(b"long", b"moved")
    assert fs.readlink(b"moved") == b"t/" * 2047 + b"x"
    for value in (b"\xff\n", b"y" * 4095, b"x"):
        fs.symlink(value, b"made")
        assert fs.readlink(b"made") == value
        fs.unlink(b"made")
    assert fs.stat(b"plain").kind == st.S_IFREG
    with pytest.raises(OSError) as error:
        fs.open(b"plain", os.O_RDONLY | os.O_NOFOLLOW)
    assert error.value.errno == errno.ELOOP


@pytest.mark.lower({b"f": File(data=b"x"), b"d/e/g": File()})
def test_whiteouts_hide_and_names_come_back(fs: FileSystem) -> None:
    for _ in range(3):
        fs.unlink(b"f")
        assert not exists(fs, b"f")
        assert names(fs) == [b"d"]
        with pytest.raises(FileNotFoundError):
            fs.unlink(b"f")
        write_file(fs, b"f", b"again")
        assert read_all(fs, b"f") == b"again"
    fs.unlink(b"f")
    fs.mkdir(b"f")
    assert names(fs, b"f") == []


@pytest.mark.lower({b"d/e/g": File(data=b"below"), b"d/f": File()})
def test_a_new_directory_does_not_show_the_old_ones_content(fs: FileSystem) -> None:
    fs.unlink(b"d/e/g")
    fs.rmdir(b"d/e")
    fs.unlink(b"d/f")
    fs.rmdir(b"d")
    fs.mkdir(b"d")
    assert names(fs, b"d") == []
    fs.mkdir(b"d/e")
    assert names(fs, b"d/e") == []


@pytest.mark.lower({b"d/a": File(), b"d/b": File(), b"d/sub/c": File()})
def test_rmdir_sees_whiteouts_as_nothing(fs: FileSystem) -> None:
    with pytest.raises(OSError) as error:
        fs.rmdir(b"d")
    assert error.value.errno == errno.ENOTEMPTY
    for path in (b"d/a", b"d/b", b"d/sub/c"):
        fs.unlink(path)
    fs.rmdir(b"d/sub")
    fs.rmdir(b"d")
    assert names(fs) == []


TREE: dict[bytes, Spec] = {
    b"d/f": File(data=b"f"),
    b"d/s/g": File(data=b"g"),
    b"e/h": File(data=b"h"),
    b"x": File(data=b"x"),
    b"empty": Dir(),
}


@pytest.mark.lower({b"d/top": File(data=b"top")}, TREE)
def test_rename_of_a_directory(fs: FileSystem) -> None:
    before = fs.stat(b"d").ino, fs.stat(b"d/s/g").ino
    fs.rename(b"d", b"moved")
    assert (fs.stat(b"moved").ino, fs.stat(b"moved/s/g").ino) == before
    assert names(fs, b"moved") == [b"f", b"s", b"top"]
    assert read_all(fs, b"moved/s/g") == b"g"
    assert not exists(fs, b"d")
    fs.rename(b"moved/s", b"e/s")
    assert names(fs, b"e") == [b"h", b"s"]
    assert names(fs, b"moved") == [b"f", b"top"]
    fs.rename(b"e/s", b"d")
    assert names(fs, b"d") == [b"g"]
    fs.rename(b"moved", b"d/s")
    assert read_all(fs, b"d/s/f") == b"f"
    write_file(fs, b"d/s/new", b"new")
    assert names(fs, b"d/s") == [b"f", b"new", b"top"]


@pytest.mark.lower(TREE)
def test_rename_over(fs: FileSystem) -> None:
    fs.rename(b"x", b"d/f")
    assert read_all(fs, b"d/f") == b"x"
    fs.rename(b"d", b"empty")
    assert names(fs, b"empty") == [b"f", b"s"]
    for source, target, code in (
        (b"empty", b"e", errno.ENOTEMPTY),
        (b"empty", b"e/h", errno.ENOTDIR),
        (b"e/h", b"empty", errno.EISDIR),
        (b"empty", b"empty/s/t", errno.EINVAL),
        (b"nothing", b"e", errno.ENOENT),
    ):
        with pytest.raises(OSError) as error:
            fs.rename(source, target)
        assert error.value.errno == code, (source, target)
    assert names(fs) == [b"e", b"empty"]


@pytest.mark.lower(TREE)
def test_rename_over_a_directory_that_holds_only_whiteouts(fs: FileSystem) -> None:
    fs.unlink(b"e/h")
    fs.rename(b"d", b"e")
    assert names(fs, b"e") == [b"f", b"s"]


@pytest.mark.lower(TREE)
def test_rename_without_replacing(fs: FileSystem) -> None:
    with pytest.raises(FileExistsError):
        fs.rename(b"x", b"d/f", RENAME_NOREPLACE)
    fs.rename(b"x", b"d/new", RENAME_NOREPLACE)
    fs.rename(b"d", b"y", RENAME_NOREPLACE)
    assert names(fs, b"y") == [b"f", b"new", b"s"]
    fs.unlink(b"y/f")
    fs.rename(b"y/new", b"y/f", RENAME_NOREPLACE)  # onto a whiteout
    assert read_all(fs, b"y/f") == b"x"


@pytest.mark.lower(TREE)
def test_rename_exchange(fs: FileSystem) -> None:
    fs.rename(b"x", b"d", RENAME_EXCHANGE)
    assert read_all(fs, b"d") == b"x"
    assert names(fs, b"x") == [b"f", b"s"]
    fs.rename(b"x/s", b"e", RENAME_EXCHANGE)
    assert names(fs, b"x/s") == [b"h"]
    assert names(fs, b"e") == [b"g"]
    with pytest.raises(FileNotFoundError):
        fs.rename(b"x", b"nothing", RENAME_EXCHANGE)
    with pytest.raises(OSError) as error:
        fs.rename(b"x", b"x/s", RENAME_EXCHANGE)
    assert error.value.errno == errno.EINVAL


@pytest.mark.lower(TREE)
def test_rename_leaves_a_whiteout_device(fs: FileSystem) -> None:
    """On a plain file system RENAME_WHITEOUT leaves a visible device 0:0 behind; another union stacked on this one relies on it."""
    fs.rename(b"x", b"y", RENAME_WHITEOUT)
    left = fs.stat(b"x", follow=False)
    assert (left.kind, left.rdev) == (st.S_IFCHR, 0)
    assert read_all(fs, b"y") == b"x"
    assert b"x" in names(fs)
    fs.unlink(b"x")
    assert not exists(fs, b"x")


def test_a_device_that_looks_like_a_whiteout(fs: FileSystem) -> None:
    fs.mknod(b"w", st.S_IFCHR | 0o600, 0)
    assert fs.stat(b"w").kind == st.S_IFCHR
    assert names(fs) == [b"w"]


@pytest.mark.lower({b"a": File(data=b"x"), b"b": Hardlink(b"a"), b"d/c": Hardlink(b"a")})
def test_rename_between_names_of_one_file_does_nothing(fs: FileSystem) -> None:
    fs.rename(b"a", b"b")
    assert names(fs) == [b"a", b"b", b"d"]
    fs.unlink(b"a")
    fs.rename(b"b", b"d/c")
    assert names(fs) == [b"b", b"d"]


@pytest.mark.lower({b"d": Dir()})
def test_what_can_be_made(fs: FileSystem) -> None:
    for kind, rdev in (
        (st.S_IFREG, 0),
        (st.S_IFIFO, 0),
        (st.S_IFSOCK, 0),
        (st.S_IFCHR, os.makedev(240, 9)),
        (st.S_IFBLK, os.makedev(7, 70000)),
    ):
        fs.mknod(b"d/node", kind | 0o640, rdev)
        made = fs.stat(b"d/node")
        assert (made.kind, made.permissions, made.nlink) == (kind, 0o640, 1)
        assert made.rdev == rdev or kind == st.S_IFREG
        assert [entry.kind << 12 for entry in entries(fs, b"d") if entry.name == b"node"] == [kind]
        fs.chmod(b"d/node", 0o600)
        fs.unlink(b"d/node")


@pytest.mark.lower({b"f": File(), b"d/g": File(), b"s": Symlink(target=b"f"), b"p": Special(kind=st.S_IFSOCK)})
def test_errors_of_names(fs: FileSystem) -> None:
    for call, code in (
        (lambda: fs.stat(b"f/x"), errno.ENOTDIR),
        (lambda: fs.stat(b"nothing/x"), errno.ENOENT),
        (lambda: fs.mkdir(b"f"), errno.EEXIST),
        (lambda: fs.mkdir(b"d"), errno.EEXIST),
        (lambda: fs.mkdir(b"nothing/x"), errno.ENOENT),
        (lambda: fs.rmdir(b"f"), errno.ENOTDIR),
        (lambda: fs.rmdir(b"s"), errno.ENOTDIR),
        (lambda: fs.unlink(b"d"), errno.EISDIR),
        (lambda: fs.link(b"d", b"e"), errno.EPERM),
        (lambda: fs.link(b"f", b"d"), errno.EEXIST),
        (lambda: fs.symlink(b"v", b"f"), errno.EEXIST),
        (lambda: fs.readlink(b"f"), errno.EINVAL),
        (lambda: fs.open(b"d", os.O_WRONLY), errno.EISDIR),
        (lambda: fs.open(b"f", os.O_RDONLY | os.O_DIRECTORY), errno.ENOTDIR),
        (lambda: fs.open(b"f", os.O_CREAT | os.O_EXCL | os.O_WRONLY), errno.EEXIST),
        (lambda: fs.open(b"p", os.O_RDONLY), errno.ENXIO),
        (lambda: fs.truncate(b"d", 0), errno.EISDIR),
    ):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == code, call.__code__.co_firstlineno
