"""`cowroot watch`: who is told, and when, that an upper gets full."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.config import Config
from cowroot.watch import CRITICAL, NORMAL, WARNING, Fill, Forecast, Watch, level_of
from tests.t4_mounted.mounted import COWROOT, Stage, cowroot, run, wait_until

MARKS = Config.default().full  # 80 and 95 percent
MEBIBYTE = 1 << 20


def fill(percent: int, inodes: int = 0) -> Fill:
    return Fill(percent * MEBIBYTE, (100 - percent) * MEBIBYTE, inodes, 100 - inodes)


@pytest.mark.parametrize(
    ("percent", "before", "level"),
    [
        (79, NORMAL, NORMAL), (80, NORMAL, WARNING), (94, NORMAL, WARNING), (95, NORMAL, CRITICAL), (100, WARNING, CRITICAL),
        (79, WARNING, WARNING), (77, WARNING, NORMAL), (94, CRITICAL, CRITICAL), (92, CRITICAL, WARNING), (79, CRITICAL, WARNING),
        (10, CRITICAL, NORMAL),
    ],
)  # fmt: skip
def test_levels(percent: int, before: str, level: str) -> None:
    assert level_of(percent, MARKS, before) == level


def test_what_is_scarcer_counts() -> None:
    assert fill(10, 97).percent == 97
    assert Fill(50, 50, 0, 0).percent == 50  # a file system that counts no inodes
    assert Fill(0, 0, 0, 0).percent == 0


def test_the_forecast() -> None:
    forecast = Forecast()
    forecast.add(0, fill(10))
    # too early to tell; a mebibyte a second; less; it has not grown lately; it has shrunk
    for seconds, percent, left in ((10, 20, None), (40, 50, 50), (100, 50, 125), (1000, 50, None), (1100, 30, None)):
        forecast.add(seconds, fill(percent))
        assert forecast.seconds_left == left, seconds
    inodes = Forecast()
    inodes.add(0, fill(10, 10))
    inodes.add(100, fill(11, 60))
    assert inodes.seconds_left == pytest.approx(80)


@pytest.fixture
def point(stage: Stage) -> Iterator[Path]:
    disk = stage.base / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=20m,nr_inodes=1000", "tmpfs", disk)
    stage.upper, stage.work = disk / "upper", disk / "work"
    for directory in (stage.upper, stage.work):
        directory.mkdir()
    yield stage.mount("engine=direct")
    stage.clean_up()
    run("umount", "-l", disk)


def test_a_union_that_fills(stage: Stage, point: Path) -> None:
    hooks, told = stage.base / "hooks", stage.base / "told"
    hooks.mkdir()
    for name, mode in (("10-tell", 0o755), ("20-not", 0o644), ("30.bak", 0o755)):
        (hooks / name).write_text(f'#!/bin/sh\necho "$0 $1 $COWROOT_PERCENT $COWROOT_PATH" >>{told}\nexit 3\n')
        (hooks / name).chmod(mode)
    command = [*COWROOT, "watch", os.fspath(point), "--interval", "0.1", "--hooks", os.fspath(hooks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "JOURNAL_STREAM": "1:2"}) as watch:
        try:
            assert watch.stdout is not None
            (point / "log").write_bytes(bytes(17 * MEBIBYTE))
            line = watch.stdout.readline()
            assert line.startswith(f"<4>warning: the upper of {point} is 8"), line
            assert f"most of it: {point}/log 17 MiB; written by " in line
            assert watch.stdout.readline() == f"{hooks}/10-tell: exit code 3\n"
            with (point / "log").open("ab") as file:
                file.write(bytes(3 * MEBIBYTE - 500_000))
            assert watch.stdout.readline().startswith("<2>critical: ")
            watch.stdout.readline()
            done = cowroot("status", point, check=False)
            assert done.returncode == 12 and "nearly full" in done.stdout
            assert json.loads(cowroot("status", "--json", point, check=False).stdout)["fullness"]["level"] == CRITICAL
            (point / "log").unlink()
            assert watch.stdout.readline().startswith(f"<5>the upper of {point} is ")
            wait_until(lambda: len(told.read_text().splitlines()) == 3, "all are told")
            assert [line.split()[:2] for line in told.read_text().splitlines()] == [
                [f"{hooks}/10-tell", level] for level in (WARNING, CRITICAL, NORMAL)
            ]
        finally:
            watch.kill()


def test_the_state_for_status(stage: Stage, point: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = stage.base / "watch.json"
    watch = Watch(str(point), MARKS, lambda level, fill, left: None, stage.base / "none", state)
    watch.look(0)
    (point / "log").write_bytes(bytes(10 * MEBIBYTE))
    watch.look(100)
    said = json.loads(state.read_text())
    assert said["level"] == NORMAL and 80 < said["seconds_left"] < 110


def test_what_is_gone(stage: Stage, point: Path) -> None:
    done = cowroot("watch", point / "not-there", check=False)
    assert done.returncode == 2
