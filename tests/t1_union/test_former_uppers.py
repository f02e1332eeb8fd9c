"""An upper that has become a lower, below a new upper, shows what it showed before."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cowroot.cli.complete import command
from cowroot.errors import LayerError
from cowroot.union import Attr, LayerSpec, Union
from cowroot.union.check import check
from cowroot.union.portrait import describe, revive
from tests.t1_union.conftest import ROOT, Bench

MIB = 1 << 20


@pytest.fixture
def new_disk(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Makes directories, each on a file system of its own."""
    made: list[Path] = []

    def make() -> Path:
        where = tmp_path / f"disk{len(made)}"
        where.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(where)], check=True)
        made.append(where)
        return where

    yield make
    for where in made:
        subprocess.run(["umount", "-l", str(where)], check=True)


def attributes(bench: Bench, path: str = "") -> dict[str, Attr]:
    """What stat shows of all that is there, but for what depends on where a file is."""
    found = {}
    for name in bench.names(path):
        place = f"{path}/{name}".lstrip("/")
        attr = bench.union.getattr(bench.node(place))
        found[place] = attr._replace(blocks=0, blksize=0, atime_ns=0)
        if stat.S_ISDIR(attr.mode):
            found.update(attributes(bench, place))
    return found


def entries(bench: Bench, path: str) -> dict[bytes, int]:
    """The inode numbers that readdir tells, before anything is looked up."""
    handle = bench.union.opendir(bench.node(path))
    return {entry.name: entry.ino for entry in bench.union.readdir(handle)}


def test_all_is_as_before_on_disks_of_their_own(bench: Bench, new_disk: Callable[[], Path]) -> None:
    """Numbers too, three times over."""
    (bench.lower / "d/e").mkdir(parents=True)
    for name in ("a", "b", "d/c", "d/e/f"):
        (bench.lower / name).write_text(name)
    os.link(bench.lower / "a", bench.lower / "d/same")
    disk = new_disk()
    bench.upper, bench.work = disk / "upper", disk / "work"
    bench.upper.mkdir()
    bench.work.mkdir()
    before: dict[str, Attr] = {}
    for step in range(4):
        union = bench.union
        union.mkdir(union.root, b"made%d" % step, 0o755, ROOT)
        union.mknod(bench.node(f"made{step}"), b"file", stat.S_IFREG | 0o600, 0, ROOT)
        union.link(bench.node(f"made{step}/file"), union.root, b"linked%d" % step)
        union.symlink(union.root, b"link%d" % step, b"a", ROOT)
        bench.write("a", b"%d" % step)
        if step == 1:
            union.rename(union.root, b"d", union.root, b"moved")
            union.unlink(union.root, b"b")
            union.mknod(union.root, b"null", stat.S_IFCHR | 0o600, 0, ROOT)
        if step == 2:
            union.setattr(bench.node("moved/e/f"), mode=0o600)
            union.setattr(bench.node("linked0"), mode=0o640)
        same = "d/same" if step == 0 else "moved/same"
        before = attributes(bench)
        root = union.root.ino
        bench.freeze(new_disk())
        assert entries(bench, "")[b"a"] == before["a"].ino
        assert entries(bench, os.path.dirname(same))[b"same"] == before["a"].ino
        assert attributes(bench) == before
        assert bench.union.root.ino == root
        assert bench.read(same) == bench.read("a") == b"%d" % step
        assert bench.node(same) is bench.node("a")
    assert len({attr.ino for attr in before.values()}) == len(before) - 1 - 4, "a and same, and each linked one, are one file"
    bench.close()
    assert list(check(str(bench.upper), str(bench.work), tuple(map(str, bench.lowers)))) == []


def test_hard_links_go_on(bench: Bench) -> None:
    """A name that no upper ever had finds the copy in a former upper's work directory."""
    (bench.lower / "a").write_text("lower")
    for name in ("b", "c"):
        os.link(bench.lower / "a", bench.lower / name)
    bench.write("a", b"first")
    bench.union.unlink(bench.union.root, b"a")  # the copy has no name in the upper now
    bench.freeze()
    assert [bench.union.getattr(bench.node(name)).nlink for name in "bc"] == [2, 2]
    assert bench.read("b") == bench.read("c") == b"first"
    bench.freeze()
    bench.write("c", b"again")
    for _ in range(2):
        assert bench.read("b") == bench.read("c") == b"again"
        bench.remount()
    bench.freeze()
    bench.union.unlink(bench.union.root, b"b")
    assert bench.union.getattr(bench.node("c")).nlink == 1
    bench.union.unlink(bench.union.root, b"c")
    assert bench.names() == []
    bench.remount()
    assert bench.names() == []


def parts(bench: Bench, size: int = 4 * MIB, layers: int = 3) -> bytes:
    """A file of which each of so many former uppers has a block, besides the lower."""
    data = bytearray(os.urandom(size))
    (bench.lower / "big").write_bytes(data)
    for number in range(layers):
        offset = number * MIB + 5
        bench.write("big", b"%d" % number, offset)
        data[offset : offset + 1] = b"%d" % number
        bench.freeze()
    return bytes(data)


def test_a_file_is_read_through_many_parts(bench: Bench) -> None:
    data = parts(bench)
    assert bench.read("big") == data
    assert all((layer / "big").stat().st_blocks * 512 < 1 << 16 for layer in bench.lowers[:-1])
    handle = bench.union.open_file(bench.node("big"), os.O_RDONLY)
    held = bench.union.hold(handle)
    buffer = bytearray(len(data))
    assert held.read_into(memoryview(buffer), 0) == len(data)
    assert buffer == data
    assert bench.union.upper_file(handle.node) == -1, "nothing of it can be passed through"
    held.close()
    bench.union.release(handle)


def test_it_is_copied_up_in_part_again(bench: Bench) -> None:
    data = bytearray(parts(bench))
    bench.write("big", b"!", 7)
    data[7:8] = b"!"
    assert (bench.upper / "big").stat().st_blocks * 512 < 1 << 16
    bench.union.rename(bench.union.root, b"big", bench.union.root, b"moved")
    for _ in range(2):
        assert bench.read("moved") == data
        bench.remount()
    bench.union.setattr(bench.node("moved"), size=MIB + 1)
    bench.freeze()
    bench.union.setattr(bench.node("moved"), size=3 * MIB)
    assert bench.read("moved") == bytes(data[: MIB + 1]).ljust(3 * MIB, b"\0")


def test_a_short_one_is_copied_whole(bench: Bench) -> None:
    data = parts(bench)
    bench.metacopy = False
    bench.close()
    bench.write("big", b"!", 0)
    assert (bench.upper / "big").read_bytes() == b"!" + data[1:]


def test_what_describes_an_open_file_names_all_its_parts(bench: Bench) -> None:
    data = parts(bench)
    os.link(bench.lower / "big", bench.lower / "same")
    node = bench.node("big")
    again = revive(bench.union.tree, describe(bench.union.layers, node, None, None))
    handle = bench.union.open_file(again, os.O_RDONLY)
    assert bench.union.read(handle, 1 << 25, 0) == data
    bench.union.release(handle)


def test_complete_makes_it_the_kernels(bench: Bench, tmp_path: Path) -> None:
    """All files that overlayfs would not read right are in the upper then."""
    data = parts(bench, layers=2)
    (bench.lower / "a").write_text("lower")
    os.link(bench.lower / "a", bench.lower / "b")
    bench.write("a", b"first")
    bench.freeze()
    bench.close()
    layers = ":".join(map(str, bench.lowers))
    options = f"lowerdir={layers},upperdir={bench.upper},workdir={bench.work}"
    done = CliRunner().invoke(command, ["-o", options])
    assert done.exit_code == 0, done.output
    assert (bench.upper / "big").read_bytes() == data
    where = tmp_path / "merged"
    where.mkdir()
    subprocess.run(["mount", "-t", "overlay", "-o", options + ",redirect_dir=on", "overlay", str(where)], check=True)
    try:
        assert (where / "big").read_bytes() == data
        assert (where / "a").read_text() == (where / "b").read_text() == "first"
        assert os.path.samefile(where / "a", where / "b")
    finally:
        subprocess.run(["umount", str(where)], check=True)
    assert bench.read("big") == data


def test_without_what_it_rests_on_a_part_is_an_error(bench: Bench) -> None:
    """Even with nothing below it: its holes are no zeros."""
    parts(bench, layers=1)
    bench.close()
    bench.lowers.pop()
    with pytest.raises(OSError) as caught:
        bench.node("big")
    assert caught.value.errno == errno.EIO


def test_an_upper_in_use_is_no_lower(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cowroot.union.directories.LOCK_SECONDS", 0.1)
    (bench.lower / "a").write_text("lower")
    bench.write("a", b"upper")
    with pytest.raises(LayerError, match="is the upper of a union that is mounted"):
        Union.open(LayerSpec([str(bench.upper), str(bench.lower)]))
    first, lower = bench.upper, bench.lower
    bench.freeze()
    second = Union.open(LayerSpec([str(first), str(lower)]))  # many may read it
    with pytest.raises(LayerError, match="in use by another mount"):
        Union.open(LayerSpec([str(lower)], str(first), str(first.parent / "work")))
    second.close()


def test_a_copy_of_an_upper_is_an_ordinary_layer(bench: Bench, tmp_path: Path) -> None:
    """Without the work directory, all that it can show is in it."""
    (bench.lower / "a").write_text("lower")
    bench.write("a", b"upper")
    bench.close()
    subprocess.run(["cp", "-a", "--preserve=all", str(bench.upper), str(tmp_path / "copy")], check=True)
    shutil.rmtree(bench.work)
    bench.lowers = [tmp_path / "copy", bench.upper, bench.lower]
    bench.upper, bench.work = tmp_path / "new", tmp_path / "new-work"
    bench.upper.mkdir()
    bench.work.mkdir()
    assert bench.read("a") == b"upper"


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../work", b"nowhere", b"file", b"link", b"empty"])
def test_a_name_that_leads_nowhere_is_passed_over(bench: Bench, name: bytes) -> None:
    (bench.base / "file").write_text("no directory")
    (bench.lower / "a").write_text("lower")
    bench.write("a", b"upper")
    bench.close()
    os.setxattr(bench.upper, "trusted.cowroot.work", name)
    (bench.base / "link").symlink_to("work")
    (bench.base / "empty/cowroot").mkdir(parents=True)
    bench.freeze()
    assert bench.union.layers.lower[0].work is None
    assert bench.read("a") == b"upper"
