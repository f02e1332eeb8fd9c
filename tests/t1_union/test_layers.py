"""Layers that cannot serve are refused, with what to do about it, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.errors import DamageError, LayerError
from cowroot.union import LayerSpec, Union
from tests.t1_union.conftest import Bench


def refused(spec: LayerSpec) -> LayerError:
    with pytest.raises(LayerError) as caught:
        Union.open(spec)
    assert caught.value.hint
    assert caught.value.exit_code == 6
    return caught.value


def test_no_lower() -> None:
    assert "needs a lower" in refused(LayerSpec([])).message


def test_missing_directory_is_named(bench: Bench) -> None:
    error = refused(LayerSpec([str(bench.base / "nothing")], str(bench.upper), str(bench.work)))
    assert str(bench.base / "nothing") in error.message
    assert "mkdir -p" in error.hint


def test_lower_is_a_file(bench: Bench) -> None:
    (bench.base / "file").touch()
    assert "Not a directory" in refused(LayerSpec([str(bench.base / "file")])).message


def test_upper_without_work_and_the_other_way_round(bench: Bench) -> None:
    assert "upperdir without workdir" in refused(LayerSpec([str(bench.lower)], upper=str(bench.upper))).message
    assert "workdir without upperdir" in refused(LayerSpec([str(bench.lower)], work=str(bench.work))).message


@pytest.mark.parametrize(
    ("lower", "upper", "work"),
    [("a", "a/u", "w"), ("a/l", "a", "w"), ("l", "u", "u/w"), ("l", "w/u", "w"), ("l", "l", "w"), ("l", "u", "u"), ("l", "u", "l/w")],
)
def test_overlapping_layers(tmp_path: Path, lower: str, upper: str, work: str) -> None:
    for name in (lower, upper, work):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    error = refused(LayerSpec([str(tmp_path / lower)], str(tmp_path / upper), str(tmp_path / work)))
    assert "overlap" in error.message


def test_work_in_use(bench: Bench) -> None:
    bench.remount()
    assert "in use by another mount" in refused(LayerSpec([str(bench.lower)], str(bench.upper), str(bench.work))).message
    bench.remount()  # free again once closed


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A small file system of another kind, without whiteouts."""
    image, where = tmp_path / "vfat.img", tmp_path / "vfat"
    where.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 1 << 24)
    subprocess.run(["mkfs.vfat", str(image)], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(where)], capture_output=True).returncode != 0:
        subprocess.run(["mount", "-t", "ramfs", "ramfs", str(where)], check=True)
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_refusing_a_work_directory_in_use_leaves_it_alone(bench: Bench) -> None:
    (bench.lower / "file").write_text("x")
    bench.write("file", b"y")
    handle = bench.union.open_file(bench.node("file"), os.O_RDONLY)
    bench.union.unlink(bench.union.root, b"file")
    refused(LayerSpec([str(bench.lower)], str(bench.upper), str(bench.work)))
    assert len(os.listdir(bench.work / "cowroot/orphans")) == 1
    assert bench.union.setattr(handle.node, mode=0o600).nlink == 0
    bench.union.release(handle)


def test_different_file_systems(bench: Bench, mounted: Path) -> None:
    assert "different file systems" in refused(LayerSpec([str(bench.lower)], str(bench.upper), str(mounted))).message


def test_unfit_upper(bench: Bench, mounted: Path) -> None:
    """FAT has no device nodes, ramfs no attributes: either is told before the first write."""
    (mounted / "u").mkdir()
    (mounted / "w").mkdir()
    message = refused(LayerSpec([str(bench.lower)], str(mounted / "u"), str(mounted / "w"))).message
    assert "cannot hold whiteouts" in message or "does not take the attribute" in message or "cannot exchange" in message


def test_descriptors_as_layers(bench: Bench) -> None:
    (bench.lower / "file").write_text("x")
    fds = [os.open(where, os.O_RDONLY) for where in (bench.lower, bench.upper, bench.work)]
    try:
        union = Union.open(LayerSpec([fds[0]], fds[1], fds[2]))
    finally:
        for fd in fds:
            os.close(fd)
    try:
        assert union.getattr(union.lookup(union.root, b"file")).size == 1
    finally:
        union.close()


def test_leftovers_of_a_crash_are_removed(bench: Bench) -> None:
    bench.remount()
    bench.close()
    (bench.work / "cowroot/tmp/7/deep").mkdir(parents=True)
    (bench.work / "cowroot/orphans/3").write_text("lost")
    (bench.work / "cowroot/tmp/7/deep/link").symlink_to("/etc")
    bench.remount()
    assert os.listdir(bench.work / "cowroot/tmp") == []
    assert os.listdir(bench.work / "cowroot/orphans") == []
    assert os.path.exists("/etc/passwd")


def test_work_with_links_in_place_of_directories(bench: Bench, tmp_path: Path) -> None:
    """A hostile work directory must not lead the cleaning elsewhere."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    (bench.work / "cowroot").mkdir()
    (bench.work / "cowroot/tmp").symlink_to(victim)
    bench.remount()
    assert (victim / "precious").exists()
    assert (bench.work / "cowroot/tmp").is_dir() and not (bench.work / "cowroot/tmp").is_symlink()


def test_damage_is_told_apart_from_what_is_merely_unfit(tmp_path: Path) -> None:
    """Only a damaged upper is one to set aside."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    whole = str(tmp_path / "upper"), str(tmp_path / "work")
    for upper, work in ((str(tmp_path / "file"), whole[1]), (whole[0], str(tmp_path / "file")), (str(tmp_path / "loop"), whole[1])):
        with pytest.raises(DamageError):
            Union.open(LayerSpec([str(tmp_path / "lower")], upper, work))
    for lower, work in ((str(tmp_path / "file"), whole[1]), (str(tmp_path / "lower"), str(tmp_path / "missing"))):
        with pytest.raises(LayerError) as caught:
            Union.open(LayerSpec([lower], whole[0], work))
        assert type(caught.value) is LayerError


def test_a_lower_is_a_mount_of_its_own(bench: Bench) -> None:
    """Nothing that is mounted in it shows, and nothing can be written to it, whatever goes wrong here."""
    (bench.lower / "d").mkdir()
    (bench.lower / "d" / "below").touch()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(bench.lower / "d")], check=True)
    try:
        (bench.lower / "d" / "mounted").touch()
        bench.remount()
        assert bench.names("d") == ["below"]
        with pytest.raises(OSError) as caught:
            os.open(b"new", os.O_CREAT | os.O_WRONLY, dir_fd=bench.union.layers.lower[0].fd)
        assert caught.value.errno == errno.EROFS
    finally:
        subprocess.run(["umount", str(bench.lower / "d")], check=True)


def test_failure_leaks_no_descriptor(bench: Bench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        refused(LayerSpec([str(bench.lower)], str(bench.upper), str(bench.base / "nothing")))
    assert len(os.listdir("/proc/self/fd")) == before
