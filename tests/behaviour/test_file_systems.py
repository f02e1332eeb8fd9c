"""Layers on other file systems: what a union shows of them, and what it makes of what each of them cannot."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from cowroot.union import LayerSpec, Union
from cowroot.union.check import check
from tests.behaviour import generate, generate_data, lockstep
from tests.behaviour.backends import BACKENDS, MKFS, Backend, Disk, available, mount_image, run
from tests.behaviour.core_driver import CoreFileSystem
from tests.behaviour.filesystem import FileSystem, entries, names, read_all, write_file
from tests.behaviour.test_layers import Own
from tests.behaviour.trees import File, Hardlink, Spec, Symlink, Tree, Whiteout, pattern

LOWERS = ("squashfs", "erofs", "btrfs", "xfs", "tmpfs", "overlayfs", "union")
UPPERS = ("ext4", "xfs", "btrfs", "tmpfs")
_numbers = itertools.count()


def each(*names: str) -> pytest.MarkDecorator:
    """A test for each kind of file system; those that this kernel has not got are skipped, and said to be."""
    marks = {name: pytest.mark.skipif(not available(name), reason=f"this kernel has no {name}") for name in names}
    return pytest.mark.parametrize("kind", [pytest.param(name, marks=mark) for name, mark in marks.items()])


LAYERS: list[Tree] = [
    {b"d/top": File(data=b"top"), b"d/gone": Whiteout(), b"links/a": File(data=b"linked"), b"links/b": Hardlink(b"links/a")},
    {
        b"d/low": File(data=b"low", mode=0o4755, uid=5, xattrs={b"user.a": b"1", b"trusted.b": b"2"}),
        b"d/gone": File(),
        b"d/sub/deep": File(data=b"deep"),
        b"holes": File(size=1 << 20, extents=[(512 << 10, 3, 8192)]),
        b"s": Symlink(target=b"d/low"),
    },
]


def kinds(kind: str, count: int) -> list[str]:
    """The same kind for all layers; of unions just the lowest, since they show no whiteouts for a union above to see."""
    return [""] * (count - 1) + [kind] if kind in ("overlayfs", "union") else [kind] * count


def shown_numbers(fs: FileSystem, path: bytes = b"") -> dict[bytes, int]:
    """Every path's inode number, by readdir; stat has to say the same, and st_dev to be one."""
    found: dict[bytes, int] = {}
    for entry in entries(fs, path):
        if entry.name in (b".", b".."):
            continue
        where = path + b"/" + entry.name if path else entry.name
        here = fs.stat(where, follow=False)
        assert (entry.ino, here.dev) == (here.ino, fs.stat(b"").dev), where
        found[where] = entry.ino
        if here.kind == 0o040000:
            found.update(shown_numbers(fs, where))
    return found


def look_and_change(fs: FileSystem) -> None:
    """Something of all that a union does, on LAYERS."""
    assert names(fs, b"d") == [b"low", b"sub", b"top"]
    before = shown_numbers(fs)
    assert len(set(before.values())) == len(before) - 1  # links/a and links/b are one
    assert before[b"links/a"] == before[b"links/b"]
    write_file(fs, b"links/a", b"changed", 0)
    assert read_all(fs, b"links/b") == b"changed"
    fs.chmod(b"d/low", 0o600)
    assert fs.getxattr(b"d/low", b"user.a") == b"1"
    fs.setxattr(b"d/low", b"user.c", b"3")
    fs.unlink(b"d/top")
    fs.rename(b"d", b"e")
    fs.rename(b"e/sub", b"sub")
    write_file(fs, b"sub/deep", b"changed", 0)
    write_file(fs, b"holes", b"x" * 100, 0)
    assert read_all(fs, b"holes")[512 << 10 :][:8192] == pattern(3, 8192)
    fs.mkdir(b"d")
    write_file(fs, b"d/new", b"new")
    fs.chown(b"s", 7, 8, follow=False)
    after = shown_numbers(fs)
    for old, new in ((b"d/low", b"e/low"), (b"links/b", b"links/b"), (b"d/sub/deep", b"sub/deep"), (b"d/sub", b"sub"), (b"d", b"e")):
        assert before[old] == after[new], old


def look_again(fs: FileSystem) -> None:
    assert names(fs, b"e") == [b"low"]
    assert names(fs, b"d") == [b"new"]
    assert read_all(fs, b"links/b") == b"changed"
    assert (fs.stat(b"e/low").permissions, fs.stat(b"e/low").uid) == (0o600, 5)
    assert sorted(fs.listxattr(b"e/low"))[-2:] == [b"user.a", b"user.c"]
    assert read_all(fs, b"sub/deep") == b"changed"
    content = read_all(fs, b"holes")
    assert (len(content), content[:101]) == (1 << 20, b"x" * 100 + b"\0")
    assert fs.stat(b"s", follow=False).uid == 7
    shown_numbers(fs)


def change_and_remount(union: Backend) -> None:
    """What is shown, changed and shown again stays so over a remount, numbers included."""
    look_and_change(union.fs)
    before = shown_numbers(union.fs)
    union.remount()
    look_again(union.fs)
    if union.name != "overlayfs":
        assert shown_numbers(union.fs) == before


@pytest.mark.union
@each(*LOWERS)
def test_lowers(own: Own, kind: str) -> None:
    change_and_remount(own(*LAYERS, frozen=kinds(kind, len(LAYERS))))


@pytest.mark.union
@each(*UPPERS)
def test_uppers(own: Own, kind: str) -> None:
    change_and_remount(own(*LAYERS, upper_on=kind, frozen=("", "squashfs")))


def depart(disk: Disk, seed: int, profile: str, frozen: str = "", upper_on: str = "") -> lockstep.Departure | None:
    base = os.path.join(disk.root, b"foreign%d" % next(_numbers))
    layers = generate_data.layers(seed) if profile == "data" else generate.layers(seed)
    return lockstep.run(base, BACKENDS["core"], layers, None, seed, 150, upper_on, profile, frozen=kinds(frozen, len(layers)))


@pytest.mark.parametrize("profile", ["tree", "data"])
@each(*LOWERS)
def test_no_sequence_departs_over_foreign_lowers(disk: Disk, kind: str, profile: str) -> None:
    for seed in range(3000, 3003):
        found = depart(disk, seed, profile, frozen=kind)
        assert not found, f"seed {seed}: {found}"


@pytest.mark.parametrize("profile", ["tree", "data"])
@each(*(kind for kind in UPPERS if kind != "ext4"))
def test_no_sequence_departs_with_a_foreign_upper(disk: Disk, kind: str, profile: str) -> None:
    for seed in range(3100, 3105):
        found = depart(disk, seed, profile, upper_on=kind)
        assert not found, f"seed {seed}: {found}"


def test_everything_on_everything(disk: Disk) -> None:
    """Many layers, each on another file system, under each upper."""
    layers: list[dict[bytes, Spec]] = [{b"d/%d-%d" % (layer, n): File(data=b"%d" % layer) for n in range(5)} for layer in range(24)]
    # each kind of those that need a loop device once: a kernel may have eight of these
    frozen = [*filter(available, LOWERS), *itertools.islice(itertools.cycle(("", "tmpfs", "overlayfs")), len(layers))][: len(layers)]
    writes = [("put", b"e/%d-0" % layer, 1, 10) for layer in range(len(layers))]
    operations = [("readdir", b"d"), ("rename", b"d", b"e", 0), *writes, ("readdir", b"e")]
    found = lockstep.run(os.path.join(disk.root, b"everything"), BACKENDS["core"], layers, operations, frozen=frozen)
    assert not found, str(found)


@pytest.mark.skipif(not available("btrfs"), reason="this kernel has no btrfs")
def test_subvolumes_have_numbers_of_their_own(disk: Disk) -> None:
    """In btrfs inode numbers begin anew in each subvolume: files of different ones are not links of each other."""
    base = Path(os.fsdecode(disk.root)) / "subvolumes"
    lower, upper, work = (base / name for name in ("lower", "upper", "work"))
    for directory in (lower, upper, work):
        directory.mkdir(parents=True)
    (base / "image").touch()
    os.truncate(base / "image", 320 << 20)
    run(*MKFS["btrfs"], base / "image")
    mount_image(os.fsencode(base / "image"), os.fsencode(lower), "rw")
    try:
        for made in (lower / "one", lower / "two", lower / "one" / "inner"):
            subprocess.run(["btrfs", "subvolume", "create", made], check=True, capture_output=True)
            (made / "file").write_text(made.name)
            os.link(made / "file", made / "link")
        assert (lower / "one/file").stat().st_ino == (lower / "two/file").stat().st_ino
        spec = LayerSpec([str(lower)], str(upper), str(work))
        seen: list[dict[bytes, int]] = []
        for order in ((b"one", b"two", b"one/inner"), (b"one/inner", b"two", b"one")):  # whoever is met first
            fs = core(spec)
            for where in order:
                assert read_all(fs, where + b"/link") == os.path.basename(where)
                assert fs.stat(where + b"/file").ino == fs.stat(where + b"/link").ino
            seen.append(shown_numbers(fs))
            fs.chmod(order[0] + b"/link", 0o600)
            assert fs.stat(b"two/link").permissions == 0o644
            fs.shut_down()
        assert seen[0] == seen[1]
        assert len(set(seen[0].values())) == len(seen[0]) - 3  # each file has two names
        fs = core(spec)
        assert [fs.stat(where + b"/file").permissions for where in (b"one", b"one/inner", b"two")] == [0o600, 0o600, 0o644]
        assert shown_numbers(fs) == seen[0]
        fs.shut_down()
        assert list(check(str(upper), str(work), (str(lower),))) == []
    finally:
        run("umount", lower)


def core(spec: LayerSpec) -> CoreFileSystem:
    return CoreFileSystem(Union.open(spec))
