"""A maintenance window: boots in it have the real root writable, and when it is over the last of them is rebooted, into the union.

The initrd asks the real root's date(1) for the time, which is what the kernel took from the machine's clock. Where that is set right only
by the booted system (there is no battery, or the clock is in local time, which the kernel does not know), the initrd could thaw at a time
that nobody meant; so there no window is to be had.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cowroot.bootrecord import PATH, boot_record
from cowroot.errors import TargetError

ENDERS = ("/etc/systemd/system/cowroot-window.service", "/etc/init.d/cowroot")
"""What has the end of a window awaited: with systemd; with sysvinit and Upstart."""

LONGEST = timedelta(days=7)
_UPTIME = "proc/uptime"
_FORM = re.compile(r"(?:(\d{4}-\d\d-\d\d)[ T])?(\d\d?:\d\d(?::\d\d)?)\.\.(?:(\d{4}-\d\d-\d\d)[ T])?(\d\d?:\d\d(?::\d\d)?)")
# How far, in seconds, the clock may have been off in the initrd: it is read in whole seconds, and network time corrects it a little.
_TOLERANCE = 60


@dataclass(frozen=True)
class Window:
    """From when until when, in seconds since 1970."""

    begins: int
    ends: int

    def __str__(self) -> str:
        return f"{self.begins} {self.ends}"

    @classmethod
    def parse(cls, text: str) -> Window | None:
        """Undo str(); None if that is none."""
        return cls(*map(int, text.split())) if re.fullmatch(r"[1-9][0-9]{9} [1-9][0-9]{9}", text) else None

    def contains(self, moment: float) -> bool:
        return self.begins <= moment < self.ends

    def describe(self) -> str:
        """In local time, as people read it."""
        begins, ends = (time.localtime(each) for each in (self.begins, self.ends))
        end = time.strftime("%H:%M" if begins[:3] == ends[:3] else "%Y-%m-%d %H:%M", ends)
        return f"{time.strftime('%Y-%m-%d %H:%M', begins)} to {end} {time.strftime('%Z', ends)}"


def read_window(text: str, now: datetime) -> Window:
    """Return the window that a person has written: `[DATE ]HH:MM..[DATE ]HH:MM`, in local time, as `now` is.

    Without a date it is the next one, and it may end on the day after. Raises ValueError with what is wrong.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError("is not like '2026-11-21 02:00..04:00' or '22:00..04:00'")
    first_day, first, last_day, last = match.groups()
    begins = _moment(first_day or f"{now:%Y-%m-%d}", first)
    ends = _moment(last_day or f"{begins:%Y-%m-%d}", last)
    if not last_day and ends <= begins:
        ends += timedelta(days=1)
    if not first_day and not last_day and ends <= now:
        begins, ends = begins + timedelta(days=1), ends + timedelta(days=1)
    if ends <= begins:
        raise ValueError("ends before it begins")
    if ends <= now:
        raise ValueError("is over")
    if ends - begins > LONGEST:
        raise ValueError(f"is longer than {LONGEST.days} days")
    return Window(int(begins.timestamp()), int(ends.timestamp()))


def _moment(day: str, clock: str) -> datetime:
    try:
        return datetime.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S" if clock.count(":") == 2 else "%Y-%m-%d %H:%M")
    except ValueError:
        raise ValueError(f"has no time in it: {day} {clock}") from None


def check_clock(root: Path = Path("/")) -> None:
    """Raise TargetError if the machine's clock, as this boot's initrd saw it, was not what it has turned out to be since.

    The record of the boot bears both: when it was written, by that clock, and how long after the kernel's start.
    """
    seconds = (boot_record(root, "cowroot thaw") or {}).get("seconds")
    if not isinstance(seconds, (int, float)):
        raise TargetError(
            "it is not known whether the clock is right while the initrd runs, as this boot has no record", hint="reboot with cowroot first"
        )
    uptime = float((root / _UPTIME).read_text().split()[0])
    off = os.stat(root / PATH.lstrip("/")).st_mtime - (time.time() - uptime + seconds)
    if abs(off) > _TOLERANCE:
        raise TargetError(
            f"the clock was off by {off:.0f} seconds while the initrd ran, which is where a window begins: "
            "the machine's own clock is missing, wrong, or in local time",
            hint="set it to UTC (hwclock --systohc --utc) and reboot, or use `cowroot thaw --boots`",
        )
