"""`cowroot watch`: tell, before the upper is full."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Callable, Optional

import click

from cowroot.cli.figures import duration, size
from cowroot.config import DEFAULT_PATH, Config
from cowroot.errors import CowrootError
from cowroot.fuse import control
from cowroot.watch import CRITICAL, HOOKS, NORMAL, STATE, WARNING, Fill, Watch, faults_of_layers

# syslog(3)'s numbers, which journald takes from the beginning of a line
_PRIORITIES = {NORMAL: 5, WARNING: 4, CRITICAL: 2}


@click.command()
@click.argument("path", default="/", type=click.Path(exists=True))
@click.option("--interval", default=10.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds between two looks.")
@click.option("--hooks", default=HOOKS, show_default=True, type=click.Path(path_type=Path), help="Where the programs are that are run.")
def command(path: str, interval: float, hooks: Path) -> None:
    """Watch how full the upper of the union at PATH gets, and whether its disk can still be written, until ended.

    When so much of its space, or of its inodes, is used as full.warning and full.critical say, and when it is less again: says so on
    standard output, with what fills it and a forecast, and runs each program in /etc/cowroot/full.d (named with letters, digits, - and _
    only) with the level as argument: normal, warning, critical. In their environment are COWROOT_LEVEL, COWROOT_PATH, COWROOT_PERCENT,
    COWROOT_FREE (bytes) and COWROOT_SECONDS_LEFT (empty if it is not getting fuller).

    Likewise, with failed and mended for the level, when the upper cannot be written any more, or a layer not be read, because of its disk,
    and when it can again. COWROOT_FAULTS says which, a line for each.
    """
    config = Config.load(DEFAULT_PATH) if DEFAULT_PATH.exists() else Config.default()
    say = _saying(path)
    state = Path("/") / STATE if path == "/" else None
    watch = Watch(path, config.full, say, hooks, state, lambda: _faults(path), lambda faults: _say_faults(path, faults))
    while True:
        try:
            watch.look(time.monotonic())
        except OSError as e:
            raise CowrootError(f"{path}: {e.strerror or e}", hint="is it still mounted?") from None
        time.sleep(interval)


def _faults(path: str) -> list[str]:
    """What the daemon says is wrong with its layers; nothing where there is none to be asked."""
    try:
        return faults_of_layers(control.ask(control.socket_of(path)))
    except (CowrootError, OSError):
        return []


def _say_faults(path: str, faults: list[str]) -> None:
    for fault in faults or [f"the layers of {path} work again"]:
        _print(CRITICAL if faults else NORMAL, f"failed: {path}: {fault}" if faults else fault)


def _print(level: str, text: str) -> None:
    sys.stdout.write((f"<{_PRIORITIES[level]}>" if "JOURNAL_STREAM" in os.environ else "") + text + "\n")
    sys.stdout.flush()


def _saying(path: str) -> Callable[[str, Fill, Optional[float]], None]:
    def say(level: str, fill: Fill, left: Optional[float]) -> None:
        text = sentence(path, level, fill, left)
        if level != NORMAL:
            most = _what_fills(path)
            text += f"; most of it: {most}" if most else ""
        _print(level, text)

    return say


def sentence(path: str, level: str, fill: Fill, left: Optional[float]) -> str:
    """How full it is, for people."""
    text = f"the upper of {path} is {fill.percent} % full, {size(fill.free)} free"
    if level == NORMAL:
        return text + " again"
    return f"{level}: {text}" + (f", at this rate full in {duration(left)}" if left is not None else "")


def _what_fills(path: str, most: int = 3) -> str:
    """The largest things in the upper and who wrote most, in a few words; nothing if nobody can tell."""
    from cowroot.usage import usage  # only now: it takes memory, and mostly it never comes to that

    try:
        found = usage(path, most)
    except (CowrootError, OSError):
        return ""
    paths = ", ".join(f"{place.path} {size(place.bytes)}" for place in found.paths)
    writers = ", ".join(f"{each.unit or each.command} {size(each.bytes)}" for each in found.writers if each.unit or each.command)
    return paths + (f"; written by {writers}" if writers else "")
