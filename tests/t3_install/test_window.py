"""Maintenance windows: how they are written, kept and ended. Times are in a zone of the test's own."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from cowroot.errors import TargetError
from cowroot.install.installation import install
from cowroot.install.target import Choice
from cowroot.servicing import window_end
from cowroot.servicing.thaw import set_plan, thawed_boots, thawed_window
from cowroot.servicing.window import ENDERS, Window, check_clock, read_window
from cowroot.servicing.window_end import await_end
from tests.t3_install.debian import make_debian

NOW = datetime(2026, 11, 20, 23, 0)
HOUR = 3600
WINDOW = Window(1_795_226_400, 1_795_233_600)  # 2026-11-21 02:00 to 04:00 UTC


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "begins", "hours"),
    [
        ("2026-11-21 02:00..04:00", "2026-11-21 02:00", 2),
        ("2026-11-21T02:00..2026-11-22T04:00", "2026-11-21 02:00", 26),
        ("2026-11-21 22:00..04:00", "2026-11-21 22:00", 6),
        ("2:00..4:00", "2026-11-21 02:00", 2),
        ("22:00..04:00", "2026-11-20 22:00", 6),
        ("23:30:30..23:31:30", "2026-11-20 23:30", 1 / 60),
    ],
)
def test_a_window_as_people_write_it(text: str, begins: str, hours: float) -> None:
    window = read_window(text, NOW)
    assert f"{datetime.fromtimestamp(window.begins):%Y-%m-%d %H:%M}" == begins
    assert window.ends - window.begins == hours * HOUR


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("tonight", "is not like '2026-11-21 02:00..04:00' or '22:00..04:00'"),
        ("2026-11-21", "is not like '2026-11-21 02:00..04:00' or '22:00..04:00'"),
        ("2026-13-21 02:00..04:00", "has no time in it: 2026-13-21 02:00"),
        ("2026-11-21 02:00..24:00", "has no time in it: 2026-11-21 24:00"),
        ("2026-11-20 02:00..04:00", "is over"),
        ("2026-11-22 02:00..2026-11-21 04:00", "ends before it begins"),
        ("2026-11-21 02:00..2027-11-21 04:00", "is longer than 7 days"),
    ],
)
def test_what_is_no_window(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(wrong)}$"):
        read_window(text, NOW)


def test_a_window_in_words() -> None:
    assert WINDOW.describe() == "2026-11-21 02:00 to 04:00 UTC"
    assert Window(WINDOW.begins, WINDOW.ends + 24 * HOUR).describe() == "2026-11-21 02:00 to 2026-11-22 04:00 UTC"


def test_a_window_on_the_disk_takes_the_place_of_a_number_of_boots(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root")
    assert install(Choice(root=root), None, lambda _: None).done == "installed"
    set_plan(root, 3)
    set_plan(root, WINDOW)
    assert (root / "etc/cowroot/thaw").read_text() == "1795226400 1795233600\n"
    assert (thawed_boots(root), thawed_window(root)) == (0, WINDOW)
    set_plan(root, 3)
    assert (thawed_boots(root), thawed_window(root)) == (3, None)
    for path in ENDERS:
        (root / path.lstrip("/")).unlink(missing_ok=True)
    with pytest.raises(TargetError, match="nothing here would end the window"):
        set_plan(root, WINDOW)
    assert thawed_boots(root) == 3


def _record(root: Path, seconds: str, off: float) -> None:
    """A boot record, written by a clock that was off by so much."""
    record = root / "run/cowroot/boot.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"seconds": float(seconds)}))
    began = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    os.utime(record, (began + float(seconds) + off,) * 2)
    (root / "proc").mkdir()
    (root / "proc/uptime").symlink_to("/proc/uptime")


@pytest.mark.parametrize("off", [0, 30, -30])
def test_a_clock_that_was_right_in_the_initrd(tmp_path: Path, off: float) -> None:
    _record(tmp_path, "4.5", off)
    check_clock(tmp_path)


@pytest.mark.parametrize("off", [HOUR, -HOUR, -1_700_000_000])
def test_without_a_clock_of_its_own_a_machine_has_no_windows(tmp_path: Path, off: float) -> None:
    _record(tmp_path, "4.5", off)
    with pytest.raises(TargetError, match=f"the clock was off by -?{abs(off)} seconds while the initrd ran"):
        check_clock(tmp_path)


def test_without_a_record_nothing_is_known_of_the_clock(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="as this boot has no record"):
        check_clock(tmp_path)


class Thawed:
    """A system in a window: its clock goes on as far as somebody sleeps."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.now, self.reboots = root, float(WINDOW.begins), 0
        self.said: list[str] = []
        monkeypatch.setattr("time.time", lambda: self.now)
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.sleep)
        monkeypatch.setattr(window_end, "_tell", self.said.append)
        monkeypatch.setattr(window_end, "_reboot", self.reboot)
        (root / "run/cowroot").mkdir(parents=True)
        (root / "etc/cowroot").mkdir(parents=True)
        (root / "proc").mkdir()
        (root / "proc/locks").symlink_to("/proc/locks")
        for place in ("run/cowroot/window", "etc/cowroot/thaw"):
            (root / place).write_text(f"{WINDOW}\n")

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def reboot(self) -> None:
        self.reboots += 1


@pytest.fixture
def thawed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Thawed:
    return Thawed(tmp_path, monkeypatch)


def test_at_its_end_the_system_reboots_and_the_window_is_gone(thawed: Thawed) -> None:
    await_end(thawed.root)
    assert (thawed.now, thawed.reboots) == (WINDOW.ends, 1)
    assert [text.split(": ")[0] for text in thawed.said] == [
        "the maintenance window ends in 10 min", "the maintenance window ends in 5 min", "the maintenance window ends in 1 min",
        "the maintenance window is over",
    ]  # fmt: skip
    assert not (thawed.root / "etc/cowroot/thaw").exists()


def test_a_clock_that_turns_out_to_be_outside_of_the_window_ends_it(thawed: Thawed) -> None:
    thawed.now = WINDOW.begins - 100_000
    await_end(thawed.root)
    assert (thawed.now, thawed.reboots) == (WINDOW.begins - 100_000, 1)
    assert not (thawed.root / "etc/cowroot/thaw").exists()


def test_another_window_is_kept_to_and_warned_of(thawed: Thawed, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = Window(WINDOW.begins, WINDOW.ends + HOUR)

    def sleep(seconds: float) -> None:
        thawed.now += seconds
        if thawed.now == WINDOW.ends - 30:
            (thawed.root / "etc/cowroot/thaw").write_text(f"{longer}\n")

    monkeypatch.setattr("time.sleep", sleep)
    await_end(thawed.root)
    assert thawed.now == longer.ends
    assert sum("ends in 10 min" in text for text in thawed.said) == 2


def test_what_was_planned_for_afterwards_stays(thawed: Thawed) -> None:
    (thawed.root / "etc/cowroot/thaw").write_text("2\n")
    await_end(thawed.root)
    assert (thawed.now, thawed_boots(thawed.root)) == (WINDOW.ends, 2)


def test_a_package_manager_is_waited_for(thawed: Thawed, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = thawed.root / "var/lib/dpkg/lock-frontend"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)

        def sleep(seconds: float) -> None:
            thawed.now += seconds
            if thawed.now >= WINDOW.ends + 60:
                fcntl.lockf(held, fcntl.LOCK_UN)

        monkeypatch.setattr("time.sleep", sleep)
        await_end(thawed.root)
    assert (thawed.now, thawed.reboots) == (WINDOW.ends + 60, 1)
    assert any("reboots when /var/lib/dpkg/lock-frontend is released, or in 30 min" in text for text in thawed.said)


def test_but_not_for_ever(thawed: Thawed) -> None:
    (thawed.root / "var/lib/pacman").mkdir(parents=True)
    (thawed.root / "var/lib/pacman/db.lck").touch()
    await_end(thawed.root)
    assert (thawed.now, thawed.reboots) == (WINDOW.ends + 1800, 1)


def test_a_boot_that_no_window_has_thawed(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="this boot was not thawed by a window"):
        await_end(tmp_path)
