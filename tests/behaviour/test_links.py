"""Hard links and inode numbers: one file stays one file."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.behaviour.filesystem import FileSystem, entries, names, read_all, write_file
from tests.behaviour.trees import Dir, File, Hardlink, Spec, Special, Symlink

LINKED: dict[bytes, Spec] = {b"a": File(data=b"old"), b"b": Hardlink(b"a"), b"d/c": Hardlink(b"a")}


def one_file(fs: FileSystem, *paths: bytes) -> bool:
    return len({fs.stat(path, follow=False).ino for path in paths}) == 1


@pytest.mark.lower(LINKED)
def test_links_of_the_lower_stay_one_file(fs: FileSystem) -> None:
    assert one_file(fs, b"a", b"b", b"d/c")
    write_file(fs, b"b", b"new")
    for path in (b"a", b"b", b"d/c"):
        assert read_all(fs, path) == b"new"
        assert fs.stat(path).nlink == 3
    assert one_file(fs, b"a", b"b", b"d/c")


@pytest.mark.lower(LINKED)
def test_links_of_the_lower_stay_one_file_over_a_remount(fs: FileSystem, remounted: Callable[[], FileSystem]) -> None:
    before = fs.stat(b"a").ino
    write_file(fs, b"d/c", b"new")
    fs = remounted()
    assert read_all(fs, b"a") == b"new"
    assert {fs.stat(path).ino for path in LINKED} == {before}
    fs.chmod(b"a", 0o600)
    fs.unlink(b"b")
    fs = remounted()
    assert fs.stat(b"d/c").permissions == 0o600
    assert (fs.stat(b"a").nlink, fs.stat(b"d/c").nlink) == (2, 2)


@pytest.mark.lower(LINKED)
def test_link_counts(fs: FileSystem, remounted: Callable[[], FileSystem]) -> None:
    fd = fs.open(b"b", os.O_RDONLY)
    fs.unlink(b"a")
    assert fs.stat(b"b").nlink == fs.stat(fd).nlink == 2
    fs.link(b"b", b"e")
    assert fs.stat(b"d/c").nlink == 3
    fs.rename(b"e", b"d/c")  # two names of one file: nothing happens
    assert fs.stat(b"d/c").nlink == 3
    fs.unlink(b"d/c")
    fs.unlink(b"e")
    assert fs.stat(b"b").nlink == 1
    fs.close(fd)
    fs = remounted()
    assert fs.stat(b"b").nlink == 1
    fd = fs.open(b"b", os.O_RDONLY)
    write_file(fs, b"x", b"")
    fs.rename(b"x", b"b")
    assert fs.stat(fd).nlink == 0
    assert read_all(fs, fd) == b"old"
    fs.close(fd)


@pytest.mark.lower({b"f": File(data=b"x"), b"s": Symlink(target=b"f"), b"p": Special()})
def test_new_links(fs: FileSystem) -> None:
    for path in (b"f", b"s", b"p"):
        fs.link(path, b"new")
        assert one_file(fs, path, b"new")
        assert fs.stat(path, follow=False).nlink == 2
        fs.unlink(path)
        assert fs.stat(b"new", follow=False).nlink == 1
        fs.rename(b"new", path)


@pytest.mark.lower(
    {b"d/f": File(data=b"x"), b"d/e/g": File(), b"d": Dir(), b"s": Symlink(target=b"d")}, {b"d/below": File(), b"d/e/h": File()}
)
def test_numbers_survive(fs: FileSystem, remounted: Callable[[], FileSystem]) -> None:
    """st_ino is the same after copy-up, renames and remounts, and is what readdir says."""
    paths = [b"", b"d", b"d/f", b"d/e", b"d/e/g", b"d/e/h", b"d/below", b"s"]
    before = [fs.stat(path, follow=False).ino for path in paths]
    assert len(set(before)) == len(before)
    for path in paths[1:-1]:
        fs.chmod(path, 0o700)
    fs.chown(b"s", 1, 1, follow=False)
    assert [fs.stat(path, follow=False).ino for path in paths] == before
    fs.rename(b"d", b"moved")
    fs.rename(b"moved", b"d")
    fs = remounted()
    assert [fs.stat(path, follow=False).ino for path in paths] == before
    for directory in (b"", b"d", b"d/e"):
        for entry in entries(fs, directory):
            if entry.name != b".." or directory:
                assert entry.ino == fs.stat(os.path.join(directory, entry.name), follow=False).ino, (directory, entry)


@pytest.mark.lower({b"d/f": File()})
def test_numbers_of_new_files_survive(fs: FileSystem, remounted: Callable[[], FileSystem]) -> None:
    write_file(fs, b"d/new", b"x")
    fs.mkdir(b"d/sub")
    fs.symlink(b"v", b"d/sub/s")
    paths = [b"d/new", b"d/sub", b"d/sub/s"]
    before = [fs.stat(path, follow=False).ino for path in paths]
    fs = remounted()
    assert [fs.stat(path, follow=False).ino for path in paths] == before
    assert len({fs.stat(path, follow=False).dev for path in [*paths, b"d/f", b""]}) == 1


@pytest.mark.lower({b"d/e/f": File(), b"d/g": File(), b"d/h/i": File()}, {b"d/below/x": File()})
def test_link_counts_of_directories(fs: FileSystem) -> None:
    """A directory's count is two and its subdirectories, or 1 for "not counted": find and others trust it."""
    fs.mkdir(b"d/new")
    fs.rename(b"d/h", b"h")
    for path in (b"d", b"h", b"d/new"):
        subdirectories = sum(entry.kind == 4 for entry in entries(fs, path)) - 2
        assert fs.stat(path).nlink in (1, 2 + subdirectories)
    assert names(fs, b"d") == [b"below", b"e", b"g", b"new"]
