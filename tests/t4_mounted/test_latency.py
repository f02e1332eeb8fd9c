"""Idle processors are kept awake while requests follow each other closely, and only then."""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path

import pytest

from cowroot.fuse import latency
from cowroot.fuse.latency import Latency
from tests.t4_mounted.mounted import Stage, wait_until

AWAKE, ASLEEP = struct.pack("=i", 0), struct.pack("=i", 2_000_000_000)

several_processors = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one processor nothing is asked")
has_device = pytest.mark.skipif(not os.access(latency.DEVICE, os.W_OK), reason=f"there is no {latency.DEVICE} to write to")


@several_processors
def test_quick_laps_hold_and_slow_ones_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 1000.001, 1000.002, 1000.1, 1000.101])
    monkeypatch.setattr("cowroot.fuse.latency.time.monotonic", lambda: next(clock))
    device = tmp_path / "device"
    device.touch()
    asked = Latency(True, os.fspath(device))
    held = []
    for _ in range(5):
        asked.lap()
        held.append(asked.held)
    assert held == [False, True, True, False, True]
    asked.let_go()
    assert device.read_bytes() == AWAKE + ASLEEP + AWAKE + ASLEEP
    assert not asked.held


def test_where_nothing_can_be_asked_nothing_is_held(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    for asked in (Latency(True, os.fspath(tmp_path / "missing")), Latency(False, os.fspath(device))):
        assert not asked.is_possible
        asked.lap()
        asked.lap()
        asked.let_go()
        assert not asked.held
    assert device.read_bytes() == b""


@several_processors
@has_device
@pytest.mark.parametrize("engine", ["fusepy", "direct"])
def test_a_busy_union_keeps_processors_awake(stage: Stage, engine: str) -> None:
    union = stage.mount(f"engine={engine}")
    assert stage.status()["low_latency"]
    names = (union / f"missing{number}" for number in itertools.count())

    def in_force() -> bytes:
        return Path(latency.DEVICE).read_bytes()[:4]

    def awake() -> bool:
        assert not any(path.exists() for path in itertools.islice(names, 100))
        return in_force() == AWAKE

    wait_until(awake, "processors stay awake")
    wait_until(lambda: in_force() == ASLEEP, "they may sleep again")


@has_device
def test_not_where_that_is_switched_off(stage: Stage) -> None:
    stage.mount("engine=direct", "low_latency=off")
    status = stage.status()
    assert not status["low_latency"]
    for process in (status["pid"], status["server"]):
        links = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()]
        assert latency.DEVICE not in links
