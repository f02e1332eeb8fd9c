"""A short run of the power cuts; `python -m tests.t4_mounted.powercuts` makes longer ones."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.install.namespace import private_mounts
from tests.behaviour.backends import available
from tests.t4_mounted.cutwork import WORKS, History
from tests.t4_mounted.powercuts import cuts, judge
from tests.t4_mounted.recording import Clock, RecordingDisk

needs_mounts = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="mounting needs root and /dev/fuse")


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A directory for disks; what is mounted there is seen by nobody else."""
    with private_mounts():
        yield tmp_path


@needs_mounts
@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        ("ext4", "direct"),
        ("ext4", "fusepy"),
        # whose fsync brings less to the disk than that of others
        pytest.param("btrfs", "direct", marks=pytest.mark.skipif(not available("btrfs"), reason="this kernel has no btrfs")),
    ],
)
def test_what_was_promised_is_there_after_a_power_cut(base: Path, kind: str, engine: str) -> None:
    figures = cuts(base, 5, kind, engine, seed=5, seconds=1.5)
    assert figures["wrong"] == []
    assert figures["flushes"] > 100


@needs_mounts
def test_a_disk_that_lost_what_was_flushed_does_not_pass(base: Path) -> None:
    """All is promised, nothing is there: each kind of work has to say so."""
    clock = Clock()
    works = [make(clock) for make in WORKS]
    (base / "lower").mkdir()
    (base / "tree").mkdir()
    for work in works:
        for top in ("lower", "tree"):
            (base / top / work.name).mkdir()
            work.prepare(base / top / work.name)
        for number in range(20):
            work.step(base / "tree" / work.name, random.Random(number))
    clock.tick()
    with RecordingDisk(base / "lost", "ext4") as disk:
        (disk.mounted / "upper").mkdir()
        (disk.mounted / "work").mkdir()
    wrong, _, _ = judge(base, base / "lower", base / "lost" / "image", clock.now(), works, "direct")
    assert {each.partition(":")[0] for each in wrong} == {work.name for work in works}


@needs_mounts
def test_a_cut_keeps_what_was_flushed_and_some_of_the_rest(base: Path) -> None:
    with RecordingDisk(base / "disk", "ext4") as disk:
        (disk.mounted / "file").write_bytes(b"x" * 100_000)
        before = disk.clock.now()
        fd = os.open(disk.mounted / "file", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        assert disk.clock.now() > before
    record = disk.record()
    assert record.flushes > 0
    assert record.cut(len(record), random.Random(1), base / "cut") < len(record)
    whole = (base / "disk/image").read_bytes()
    record.close()
    assert b"x" * 4096 in whole and b"x" * 4096 in (base / "cut").read_bytes()


def test_history() -> None:
    clock = Clock()
    history = History("a", clock)
    clock.tick()
    history.begin("b")
    clock.tick()
    history.settle()
    clock.tick()
    history.begin("c")
    assert [history.possible(cut) for cut in (0, 1, 2, 3, 4)] == [["a"], ["a"], ["b"], ["b"], ["b", "c"]]
