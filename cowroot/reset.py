"""Having the upper emptied at the next boot: a mark in it, which the boot script looks for.

Now would not do: the union is / and in use, and what programs have open would be gone below them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from cowroot.bootrecord import boot_record
from cowroot.errors import CowrootError

RESET_MARK = "reset"
"""The mark's name, beside `upper` and `work` (empty_upper in the boot script)."""


class Kept(NamedTuple):
    """An upper that outlives a boot: the device that it is on, and the directory that holds it."""

    device: str
    directory: Path


def kept_upper(root: Path = Path("/")) -> Kept:
    """Return the upper of the running system below `root`. Raises CowrootError where there is none to be emptied."""
    boot = boot_record(root, "cowroot reset")
    if boot is None:
        raise CowrootError("this system was not booted with cowroot", hint="to look at it: cowroot status")
    if not boot["upper_directory"]:
        raise CowrootError("/ is no union in this boot, so no upper is mounted", hint="boot with cowroot.reset=on as a kernel parameter")
    if boot.get("saved_device"):
        what = f"the upper on {boot['saved_device']} is only read in this boot (upper.read_only)"
        raise CowrootError(what, hint="boot with cowroot.read_only=off and cowroot.reset=on as kernel parameters")
    if boot["upper_device"] == "tmpfs":
        raise CowrootError("the upper is in memory: each boot begins with an empty one", hint="reboot, and it is empty")
    return Kept(boot["upper_device"], root / boot["upper_directory"].lstrip("/"))


def mark(kept: Kept) -> None:
    """Have the upper emptied at the next boot. Raises CowrootError if it cannot be written."""
    try:
        with open(kept.directory / RESET_MARK, "wb") as file:
            os.fsync(file.fileno())
        _sync(kept.directory)
    except OSError as e:
        raise CowrootError(f"the upper on {kept.device} cannot be marked: {e.strerror}", hint="is it full, or read-only?") from None


def unmark(kept: Kept) -> bool:
    """Take the mark back; False if there was none. Raises CowrootError if the upper cannot be written."""
    try:
        (kept.directory / RESET_MARK).unlink()
        _sync(kept.directory)
    except FileNotFoundError:
        return False
    except OSError as e:
        raise CowrootError(f"the mark in the upper on {kept.device} cannot be removed: {e.strerror}") from None
    return True


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
