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


class Asked:
    """A `Latency` whose device is a file, and whose clock goes when it is told to."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("cowroot.fuse.latency.time.monotonic", lambda: self.now)
        self.device = directory / "device"
        self.device.touch()
        self.latency = Latency(True, os.fspath(self.device))
        self.latency.begin()

    def lap(self, seconds: float) -> None:
        self.now += seconds
        self.latency.lap()

    def wait_for(self, *values: bytes) -> None:
        wait_until(lambda: self.device.read_bytes() == b"".join(values), f"{values} were asked for")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(tmp_path, monkeypatch)


@several_processors
def test_a_rush_is_asked_for_once_and_let_go(asked: Asked) -> None:
    for _ in range(20):
        asked.lap(0.001)
    asked.wait_for(ASLEEP, AWAKE, ASLEEP)
    wait_until(lambda: not asked.latency._held, "the rush is over")
    asked.lap(0.001)
    asked.wait_for(ASLEEP, AWAKE, ASLEEP, AWAKE, ASLEEP)


@several_processors
def test_slow_requests_are_no_rush(asked: Asked) -> None:
    for _ in range(20):
        asked.lap(0.005)
    asked.wait_for(ASLEEP)


def test_where_nothing_can_be_asked_nothing_is(asked: Asked, tmp_path: Path) -> None:
    before = asked.device.read_bytes()
    for each in (Latency(True, os.fspath(tmp_path / "missing")), Latency(False, os.fspath(asked.device))):
        assert not each.is_possible
        each.begin()
        each.lap()
        each.lap()
    assert asked.device.read_bytes() == before


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
