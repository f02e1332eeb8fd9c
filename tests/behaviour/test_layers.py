"""Many layers, with whiteouts and opaque directories inside them, and what ends up in the upper."""

from __future__ import annotations

import os
import stat as st
from collections.abc import Callable

import pytest

from tests.behaviour.backends import Backend
from tests.behaviour.filesystem import FileSystem, entries, exists, names, read_all, write_file
from tests.behaviour.trees import Dir, File, Hardlink, Spec, Symlink, Tree, Whiteout

Own = Callable[..., Backend]


@pytest.mark.lower(
    {b"a/x": Whiteout(), b"b": Dir(opaque=True), b"b/new": File(), b"d": File(data=b"file"), b"e/f/g": File(data=b"top")},
    {b"a/y": File(data=b"middle"), b"b/m": File(), b"c": Whiteout(), b"d/m": File(), b"e/f": Dir(opaque=True), b"e/f/m": File()},
    {b"a/x": File(), b"a/y": File(), b"b/l": File(), b"c/l": File(), b"d/l": File(), b"e/f/l": File(), b"e/l": File()},
)
def test_whiteouts_and_opaque_directories_in_lowers(fs: FileSystem) -> None:
    assert names(fs) == [b"a", b"b", b"d", b"e"]
    assert names(fs, b"a") == [b"y"]
    assert read_all(fs, b"a/y") == b"middle"
    assert names(fs, b"b") == [b"new"]
    assert read_all(fs, b"d") == b"file"
    assert names(fs, b"e") == [b"f", b"l"]
    assert names(fs, b"e/f") == [b"g", b"m"]
    for path in (b"a/x", b"b/m", b"b/l", b"c", b"e/f/l"):
        assert not exists(fs, path)
    fs.rename(b"e", b"moved")
    assert names(fs, b"moved/f") == [b"g", b"m"]
    fs.mkdir(b"c")
    assert names(fs, b"c") == []
    fs.unlink(b"d")
    fs.mkdir(b"d")
    assert names(fs, b"d") == []


@pytest.mark.lower(
    {b"t": Dir(mode=0o700, uid=1), b"m": Symlink(target=b"x")},
    {b"t": Dir(mode=0o777, uid=2), b"m": Dir()},
    {b"t": Dir(uid=3), b"m": File()},
)
def test_the_topmost_decides(fs: FileSystem) -> None:
    assert (fs.stat(b"t").permissions, fs.stat(b"t").uid) == (0o700, 1)
    assert fs.stat(b"m", follow=False).kind == st.S_IFLNK


def many(count: int) -> list[Tree]:
    """Layer n (0 on top) has a file of its own, overrides `shared`, hides the file of the layer two below, and cuts off below layer 12."""
    layers: list[Tree] = []
    for number in range(count):
        tree: dict[bytes, Spec] = {
            b"d/own%02d" % number: File(data=b"%d" % number),
            b"d/shared": File(data=b"%d" % number),
            b"cut/c%02d" % number: File(),
            b"cut": Dir(opaque=number == 12),
        }
        if number % 4 == 0:
            tree[b"d/own%02d" % (number + 2)] = Whiteout()
        layers.append(tree)
    return layers


def test_24_layers(own: Own) -> None:
    union = own(*many(24))
    fs = union.fs
    shown = [number for number in range(24) if number % 4 != 2]
    assert names(fs, b"d") == [b"own%02d" % number for number in shown] + [b"shared"]
    assert names(fs, b"cut") == [b"c%02d" % number for number in range(13)]
    assert read_all(fs, b"d/shared") == b"0"
    numbers = {path: fs.stat(path).ino for path in (b"d/own23", b"d/own00", b"cut")}
    write_file(fs, b"d/own23", b"new")
    fs.rename(b"cut", b"moved")
    fs.unlink(b"d/own00")
    union.remount()
    fs = union.fs
    assert read_all(fs, b"d/own23") == b"new"
    assert names(fs, b"moved") == [b"c%02d" % number for number in range(13)]
    assert fs.stat(b"d/own23").ino == numbers[b"d/own23"]
    assert fs.stat(b"moved").ino == numbers[b"cut"]
    assert not exists(fs, b"d/own00")


def test_layers_on_several_file_systems(own: Own) -> None:
    """Numbers from several file systems do not collide, and stay when the file moves to that of the upper."""
    trees: list[dict[bytes, Spec]] = [
        {b"d/%d-%d" % (layer, number): File(data=b"%d" % layer) for number in range(20)} for layer in range(4)
    ]
    trees[1][b"d/0-0"] = Whiteout()
    trees[2][b"links/a"], trees[2][b"links/b"] = File(data=b"one"), Hardlink(b"links/a")
    union = own(*trees, frozen=("", "tmpfs", "squashfs", "tmpfs"))
    fs = union.fs
    paths = [b"d/" + name for name in names(fs, b"d")]
    assert len(paths) == 80
    before = {path: fs.stat(path).ino for path in [*paths, b"links/a", b"links/b"]}
    assert len(set(before.values())) == 81
    assert len({fs.stat(path).dev for path in paths}) == 1
    for path in paths[::2]:
        write_file(fs, path, b"new", 0)
    fs.chmod(b"links/b", 0o600)
    fs.rename(b"d", b"moved")
    fs.rename(b"moved", b"d")
    union.remount()
    fs = union.fs
    assert {path: fs.stat(path).ino for path in before} == before
    assert fs.stat(b"links/a").permissions == 0o600
    assert {entry.name: entry.ino for entry in entries(fs, b"d")}[b"3-7"] == before[b"d/3-7"]


@pytest.mark.lower({b"d/f": File(data=b"x"), b"d/s/g": File(data=b"y"), b"big": File(size=1 << 20)})
@pytest.mark.union
def test_the_uppers_format(fs: FileSystem, upper: bytes) -> None:
    """Whiteouts are devices 0:0, a new directory over a whiteout is opaque, a moved directory is a redirect without its content."""
    fs.unlink(b"d/f")
    left = os.lstat(os.path.join(upper, b"d/f"))
    assert (st.S_IFMT(left.st_mode), left.st_rdev) == (st.S_IFCHR, 0)
    fs.rename(b"d/s", b"moved")
    assert os.getxattr(os.path.join(upper, b"moved"), b"trusted.overlay.redirect").endswith(b"/d/s")
    assert os.listdir(os.path.join(upper, b"moved")) == []
    fs.mkdir(b"d/s")
    assert os.getxattr(os.path.join(upper, b"d/s"), b"trusted.overlay.opaque") == b"y"
    assert names(fs, b"d/s") == []


@pytest.mark.lower({b"d/f": File(data=b"x"), b"e/g": File()})
@pytest.mark.union
def test_reading_writes_nothing_to_the_upper(fs: FileSystem, upper: bytes) -> None:
    read_all(fs, b"d/f")
    names(fs, b"e")
    fs.close(fs.open(b"d/f", os.O_RDWR))
    fs.close(fs.open(b"e", os.O_RDONLY))
    assert fs.listxattr(b"d/f") == []
    assert not os.path.exists(upper)
