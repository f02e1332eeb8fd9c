"""The end of a maintenance window, awaited in the boot that is thawed by it: whoever works there is warned, then the system is rebooted."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from cowroot.errors import CowrootError, TargetError
from cowroot.servicing.thaw import set_plan, thawed_window
from cowroot.servicing.window import Window

_WINDOW = ("run/cowroot/window", "dev/.cowroot/cowroot/window")
"""What the initrd leaves in a boot that is thawed by a window; the latter where there is no /run."""

_WARNINGS = (600, 300, 60)  # seconds before the end
_STEP = 10.0  # seconds, after which a clock that was set, or another window, is noticed
# Seconds that an installation gets beyond the end: half a package is worse than a late reboot; but a question that nobody answers is not.
_PATIENCE = 1800.0
# Package managers' locks: by the kernel's table of locks, and by being there.
_LOCKS = ("var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/rpm/.rpm.lock", "usr/lib/sysimage/rpm/.rpm.lock")
_LOCK_FILES = ("var/lib/pacman/db.lck",)


def await_end(root: Path = Path("/")) -> None:
    """Return when the reboot at the window's end was asked for. Raises CowrootError: TargetError in a boot that no window has thawed."""
    window = _window_of_boot(root)
    if window is None:
        raise TargetError("this boot was not thawed by a window")
    warned = float("inf")
    while window.contains(time.time()):
        left = window.ends - time.time()
        due = min((each for each in _WARNINGS if left <= each), default=warned)
        if due < warned:
            when = f"{round(left / 60)} min" if left >= 60 else f"{round(left)} s"
            _tell(f"the maintenance window ends in {when}: this system reboots then, and / is protected again")
        warned = due if left <= _WARNINGS[0] else float("inf")
        time.sleep(max(0.0, min(_STEP, left)))
        window = thawed_window(root) or window  # somebody may have set another one
    _wait_for_packages(root)
    # Over is over, whatever the clock shows at the next boot.
    if thawed_window(root) == window:
        set_plan(root, 0)
    _tell("the maintenance window is over: rebooting")
    _reboot()


def _window_of_boot(root: Path) -> Window | None:
    left = next((root / path for path in _WINDOW if (root / path).exists()), None)
    return Window.parse(left.read_text().strip()) if left else None


def _wait_for_packages(root: Path) -> None:
    patience = time.monotonic() + _PATIENCE
    held = _held(root)
    if held:
        _tell(f"the maintenance window is over: this system reboots when {held} is released, or in {_PATIENCE / 60:.0f} min")
    while _held(root) and time.monotonic() < patience:
        time.sleep(1)


def _held(root: Path) -> str:
    """Return the lock of a package manager that is at work, or nothing. Asking does not take it: another one may just begin."""
    locked = {line.split()[-3].rpartition(":")[2] for line in (root / "proc/locks").read_text().splitlines()}
    for path in _LOCKS:
        with suppress(OSError):
            if str(os.stat(root / path).st_ino) in locked:
                return f"/{path}"
    return next((f"/{path}" for path in _LOCK_FILES if (root / path).exists()), "")


def _tell(text: str) -> None:
    print(text, flush=True)
    if shutil.which("wall"):
        subprocess.run(["wall", f"cowroot: {text}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _reboot() -> None:
    done = subprocess.run(["shutdown", "-r", "now"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CowrootError(f"the system cannot be rebooted: {' '.join(done.stderr.split())}", hint="reboot it: / is writable until then")
