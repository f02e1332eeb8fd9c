"""Watching how full an upper gets, and whether the layers' disks still work: who is told, and a forecast.

How full it is, the union itself tells, by statfs(2), as it tells everybody: a process that watches never holds up one that serves.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from cowroot.config import FullConfig

NORMAL, WARNING, CRITICAL = LEVELS = ("normal", "warning", "critical")
FAILED, MENDED = "failed", "mended"  # what hooks are told when a layer's disk fails, and when it works again
SLACK = 2  # percent: so much less than a level's mark, and it is left
WINDOW_SECONDS = 600.0  # that a forecast looks back
LEAST_SECONDS = 30.0  # of them, for a forecast
LONGEST_FORECAST = 30 * 24 * 3600.0  # seconds; what is farther off is nothing to speak of
HOOKS = "/etc/cowroot/full.d"
HOOK_SECONDS = 60.0
STATE = "run/cowroot/watch.json"
FRESH_SECONDS = 60.0  # for which what it says of the forecast is true
_HOOK_NAME = re.compile(r"[A-Za-z0-9_-]+")  # as run-parts(8) has it: no backups, nothing of a package manager's


class Fill(NamedTuple):
    """How full something is: bytes and inodes, used and free for users. A file system that counts no inodes has none of either."""

    used: int
    free: int
    inodes: int
    free_inodes: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Fill:
        space = os.statvfs(path)
        size = space.f_frsize
        return cls((space.f_blocks - space.f_bfree) * size, space.f_bavail * size, space.f_files - space.f_ffree, space.f_favail)

    @property
    def percent(self) -> int:
        """What is used, in percent, rounded down: of space or of inodes, whichever is scarcer."""
        parts = ((self.used, self.free), (self.inodes, self.free_inodes))
        return max((100 * used // (used + free) for used, free in parts if used + free), default=0)


def level_of(percent: int, marks: FullConfig, before: str = NORMAL) -> str:
    """The level at `percent`. A level that is reached is left only some way below its mark."""
    for level, mark in ((CRITICAL, marks.critical), (WARNING, marks.warning)):
        if percent >= mark - (SLACK if LEVELS.index(before) >= LEVELS.index(level) else 0):
            return level
    return NORMAL


def faults_of_layers(daemon: dict[str, Any]) -> list[str]:
    """What a daemon's answer to `status` says of layers that cannot be used as they should, for people."""
    faults = []
    for layer in daemon["layers"]:
        error = layer.get("error")  # daemons of earlier versions do not tell
        if error and layer["kind"] != "work":
            what = "cannot be written any more" if layer["kind"] == "upper" else "cannot be read"
            faults.append(f"the {layer['kind']} {layer['path']} {what}: {error}; the kernel's log may say why: dmesg")
    return faults


class Forecast:
    """When it will be full, if it goes on as it did lately."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Fill]] = deque()

    def add(self, seconds: float, fill: Fill) -> None:
        """What was seen at a time."""
        self._looks.append((seconds, fill))
        while seconds - self._looks[0][0] > WINDOW_SECONDS:
            self._looks.popleft()

    @property
    def seconds_left(self) -> Optional[float]:
        """None if it is not getting fuller, or nobody can tell yet."""
        (start, first), (end, last) = self._looks[0], self._looks[-1]
        if end - start < LEAST_SECONDS:
            return None
        times = [
            free * (end - start) / grown
            for grown, free in ((last.used - first.used, last.free), (last.inodes - first.inodes, last.free_inodes))
            if grown > 0
        ]
        left = min(times, default=LONGEST_FORECAST)
        return left if left < LONGEST_FORECAST else None


class Watch:
    """Looks at the union at `path` again and again.

    Arguments: `marks`: at what percentages a level begins; `say(level, fill, seconds_left)`: called when it has changed; `hooks`: the
    directory of programs to run then; `state`: the file for `cowroot status`, or None; `faults()`: what is wrong with the layers, and
    `say_faults` is called when that has changed.
    """

    def __init__(
        self,
        path: str,
        marks: FullConfig,
        say: Callable[[str, Fill, Optional[float]], None],
        hooks: Path,
        state: Optional[Path],
        faults: Callable[[], list[str]] = list,
        say_faults: Callable[[list[str]], None] = lambda faults: None,
    ) -> None:
        self._path, self._marks, self._say, self._hooks, self._state = path, marks, say, hooks, state
        self._find_faults, self._say_faults = faults, say_faults
        self._forecast = Forecast()
        self._faults: list[str] = []
        self.level = NORMAL

    def look(self, seconds: float) -> None:
        """Look once, at the time `seconds` of a clock that only goes forward. Raises OSError."""
        fill = Fill.of(self._path)
        self._forecast.add(seconds, fill)
        left = self._forecast.seconds_left
        level = level_of(fill.percent, self._marks, self.level)
        changed, self.level = level != self.level, level
        if self._state is not None:
            self._write(self._state, left)
        if changed:
            self._say(level, fill, left)
            self._run_hooks(level, fill, left)
        before, self._faults = self._faults, self._find_faults()
        if before != self._faults:
            self._say_faults(self._faults)
            self._run_hooks(FAILED if self._faults else MENDED, fill, left)

    def _run_hooks(self, level: str, fill: Fill, left: Optional[float]) -> None:
        run_hooks(self._hooks, {
            "COWROOT_PATH": self._path, "COWROOT_LEVEL": level, "COWROOT_PERCENT": str(fill.percent),
            "COWROOT_FREE": str(fill.free), "COWROOT_SECONDS_LEFT": "" if left is None else str(round(left)),
            "COWROOT_FAULTS": "\n".join(self._faults),
        })  # fmt: skip

    def _write(self, state: Path, left: Optional[float]) -> None:
        new = state.with_suffix(".new")
        new.write_text(json.dumps({"time": time.time(), "level": self.level, "seconds_left": left}))
        new.replace(state)


def forecast(root: Path) -> Optional[float]:
    """The seconds that a running watch has said are left; None if it says nothing."""
    try:
        said = json.loads((root / STATE).read_text())
        return said["seconds_left"] if abs(time.time() - said["time"]) < FRESH_SECONDS else None
    except (OSError, ValueError, KeyError):
        return None


def run_hooks(directory: Path, environment: dict[str, str]) -> None:
    """Run the programs of a directory, in the order of their names, each for a minute at the most."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for name in filter(_HOOK_NAME.fullmatch, names):
        program = directory / name
        if not os.access(program, os.X_OK) or not program.is_file():
            continue
        try:
            _run_hook(program, environment)
        except OSError as e:
            print(f"{program}: {e.strerror}", flush=True)


def _run_hook(program: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [program, environment["COWROOT_LEVEL"]], stdin=subprocess.DEVNULL, env={**os.environ, **environment}, start_new_session=True
    ) as hook:
        try:
            code = hook.wait(HOOK_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(hook.pid, signal.SIGKILL)
            print(f"{program}: killed after {HOOK_SECONDS:.0f} seconds", flush=True)
            return
    if code:
        print(f"{program}: exit code {code}", flush=True)
