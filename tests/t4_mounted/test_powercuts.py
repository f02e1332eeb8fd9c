"""A short run of the power cuts; `python -m tests.t4_mounted.powercuts` makes longer ones."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.t4_mounted.cutwork import WORKS, History
from tests.t4_mounted.powercuts import cuts, judge
from tests.t4_mounted.recording import Clock, RecordingDisk

needs_mounts = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="mounting needs root and /dev/fuse")


@needs_mounts
@pytest.mark.parametrize("engine", ["direct", "fusepy"])
def test_what_was_promised_is_there_after_a_power_cut(tmp_path: Path, engine: str) -> None:
    figures = cuts(tmp_path, 5, "ext4", engine, seed=5, seconds=1.5)
    assert figures["wrong"] == []
    assert figures["flushes"] > 100


@needs_mounts
def test_a_disk_that_lost_what_was_flushed_does_not_pass(tmp_path: Path) -> None:
    """All is promised, nothing is there: each kind of work has to say so."""
    clock = Clock()
    works = [make(clock) for make in WORKS]
    (tmp_path / "lower").mkdir()
    (tmp_path / "tree").mkdir()
    for work in works:
        for top in ("lower", "tree"):
            (tmp_path / top / work.name).mkdir()
            work.prepare(tmp_path / top / work.name)
        for number in range(20):
            work.step(tmp_path / "tree" / work.name, random.Random(number))
    clock.tick()
    with RecordingDisk(tmp_path / "lost", "ext4") as disk:
        (disk.mounted / "upper").mkdir()
        (disk.mounted / "work").mkdir()
    wrong, _, _ = judge(tmp_path, tmp_path / "lower", tmp_path / "lost" / "image", clock.now(), works, "direct")
    assert {each.partition(":")[0] for each in wrong} == {work.name for work in works}


@needs_mounts
def test_a_cut_keeps_what_was_flushed_and_some_of_the_rest(tmp_path: Path) -> None:
    with RecordingDisk(tmp_path / "disk", "ext4") as disk:
        (disk.mounted / "file").write_bytes(b"x" * 100_000)
        before = disk.clock.now()
        fd = os.open(disk.mounted / "file", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        assert disk.clock.now() > before
    record = disk.record()
    assert record.flushes > 0
    assert record.cut(len(record), random.Random(1), tmp_path / "cut") < len(record)
    whole = (tmp_path / "disk/image").read_bytes()
    record.close()
    assert b"x" * 4096 in whole and b"x" * 4096 in (tmp_path / "cut").read_bytes()


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
