"""Reading directories: merged, complete, and steady while they change."""

from __future__ import annotations

import os
import stat as st
from collections.abc import Callable

import pytest

from tests.behaviour.filesystem import FileSystem, entries, entries_at, names, write_file
from tests.behaviour.trees import Dir, File, Spec, Special, Symlink, Whiteout

MANY: dict[bytes, Spec] = {b"d/%04d" % number: File() for number in range(700)}
SMALL = 600  # bytes for getdents: a few entries at a time


@pytest.mark.lower(
    {b"d/top": File(), b"d/hidden": Whiteout(), b"d/both": File(), b"d/sub/x": File()},
    {b"d/hidden": File(), b"d/both": Symlink(), b"d/middle": Special(kind=st.S_IFSOCK), b"d/sub/y": File()},
    {b"d/low": File(), b"d/sub/z": File(), b"d/hidden": File()},
)
def test_layers_merge(fs: FileSystem) -> None:
    assert names(fs, b"d") == [b"both", b"low", b"middle", b"sub", b"top"]
    assert names(fs, b"d/sub") == [b"x", b"y", b"z"]
    kinds = {entry.name: entry.kind << 12 for entry in entries(fs, b"d")}
    assert kinds[b"both"] == st.S_IFREG
    assert kinds[b"middle"] == st.S_IFSOCK
    assert kinds[b"."] == kinds[b".."] == kinds[b"sub"] == st.S_IFDIR
    write_file(fs, b"d/new", b"")
    fs.unlink(b"d/low")
    assert names(fs, b"d") == [b"both", b"middle", b"new", b"sub", b"top"]


@pytest.mark.lower(MANY)
def test_dot_and_dot_dot(fs: FileSystem) -> None:
    found = {entry.name: entry.ino for entry in entries(fs, b"d")}
    assert found[b"."] == fs.stat(b"d").ino
    assert found[b".."] == fs.stat(b"").ino
    fs.mkdir(b"other")
    fs.rename(b"d", b"other/d")
    assert {entry.name: entry.ino for entry in entries(fs, b"other/d")}[b".."] == fs.stat(b"other").ino


@pytest.mark.lower(MANY)
def test_nothing_is_lost_or_repeated_while_it_changes(fs: FileSystem) -> None:
    fd = fs.open(b"d", os.O_RDONLY | os.O_DIRECTORY)
    seen: list[bytes] = []
    number = 0
    while some := fs.getdents(fd, SMALL):
        seen.extend(entry.name for entry in some)
        fs.unlink(b"d/%04d" % (number * 2))  # even ones go, new ones come, odd ones stay
        write_file(fs, b"d/new%d" % number, b"")
        number += 1
    fs.close(fd)
    assert len(seen) == len(set(seen))
    assert {b"%04d" % n for n in range(1, 700, 2)} <= set(seen)


@pytest.mark.lower(MANY)
def test_deleting_what_was_read_empties_the_directory(fs: FileSystem) -> None:
    """As rm -r does on some systems: read a part, remove it, go on reading."""
    fd = fs.open(b"d", os.O_RDONLY | os.O_DIRECTORY)
    while some := fs.getdents(fd, SMALL):
        for entry in some:
            if entry.name not in (b".", b".."):
                fs.unlink(b"d/" + entry.name)
    fs.close(fd)
    fs.rmdir(b"d")
    assert names(fs) == []


@pytest.mark.lower(MANY)
def test_seekdir(fs: FileSystem) -> None:
    """seekdir() to where telldir() was yields what followed, although the directory has changed since."""
    fd = fs.open(b"d", os.O_RDONLY | os.O_DIRECTORY)
    found = entries_at(fs, fd, SMALL)
    for position in (0, 1, 350, len(found) - 2):
        fs.lseek(fd, found[position].offset, os.SEEK_SET)
        assert [entry.name for entry in entries_at(fs, fd)] == [entry.name for entry in found[position + 1 :]]
    gone = [entry.name for entry in found if entry.name not in (b".", b"..")][:100]
    for name in gone:
        fs.unlink(b"d/" + name)
    fs.lseek(fd, found[350].offset, os.SEEK_SET)
    assert [entry.name for entry in entries_at(fs, fd)] == [entry.name for entry in found[351:]]
    fs.close(fd)


@pytest.mark.lower({b"d/a": File(), b"d/b": File()})
def test_rewinddir_sees_the_change(fs: FileSystem) -> None:
    fd = fs.open(b"d", os.O_RDONLY | os.O_DIRECTORY)
    steps: list[tuple[Callable[[], object], list[bytes]]] = [
        (lambda: None, [b"a", b"b"]),
        (lambda: write_file(fs, b"d/c", b""), [b"a", b"b", b"c"]),
        (lambda: fs.unlink(b"d/a"), [b"b", b"c"]),
        (lambda: fs.rename(b"d", b"e"), [b"b", b"c"]),
        (lambda: fs.rename(b"e/b", b"e/z"), [b"c", b"z"]),
    ]
    for change, expected in steps:
        change()
        fs.lseek(fd, 0, os.SEEK_SET)
        assert sorted(entry.name for entry in entries_at(fs, fd) if entry.name not in (b".", b"..")) == expected
    fs.fsync(fd)
    fs.close(fd)


@pytest.mark.lower({b"d": Dir(), b"d/x": Special(kind=st.S_IFIFO), b"d/y": Symlink()})
def test_kinds_in_listings_follow_replacements(fs: FileSystem) -> None:
    fs.unlink(b"d/x")
    fs.mkdir(b"d/x")
    fs.rename(b"d/y", b"d/z")
    assert {entry.name: entry.kind << 12 for entry in entries(fs, b"d") if len(entry.name) == 1 and entry.name != b"."} == {
        b"x": st.S_IFDIR,
        b"z": st.S_IFLNK,
    }
