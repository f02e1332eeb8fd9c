"""What commands on a target have in common: how it is named, and, where it is changed, how progress and results are told."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType
from typing import Any, Callable, TypeVar

import click

from cowroot.cli.completion import directory
from cowroot.install.installation import Result
from cowroot.install.target import Choice

_Command = TypeVar("_Command", bound=Callable[..., Any])

_NAMING = (
    click.option(
        "--root", type=click.Path(path_type=Path), metavar="DIR", shell_complete=directory, help="Directory that holds a root file system."
    ),
    click.option("--image", type=click.Path(path_type=Path), metavar="FILE", help="Raw disk image, or a disk."),
    click.option("--partition", type=click.IntRange(min=1), metavar="N", help="Partition of the image. Default: the one with a root."),
)
_REPORTING = (
    click.option("--dry-run", is_flag=True, help="Show what would be done, as a diff, and change nothing."),
    click.option("--json", "as_json", is_flag=True, help="For programs: the plan or the result as one object."),
    click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
)


def target_name_options(command: _Command) -> _Command:
    """Give a command the options that name a target."""
    for option in reversed(_NAMING):
        command = option(command)
    return command


def target_options(command: _Command) -> _Command:
    """Give a command the options that name a target and say how to report."""
    for option in reversed(_REPORTING):
        command = option(command)
    return target_name_options(command)


def choose(root: Path | None, image: Path | None, partition: int | None) -> Choice:
    """Return the target that the options name. Raises click.UsageError if they name two."""
    if root is not None and image is not None:
        raise click.UsageError("--root and --image name two targets")
    if partition is not None and image is None:
        raise click.UsageError("--partition goes with --image")
    return Choice(root, image, partition)


def speak(quiet: bool) -> Callable[[str], None]:
    """Return what tells progress; make signals that end the program end it in order, with everything unmounted and undone."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    return (lambda _: None) if quiet else (lambda text: click.echo(text, err=True))


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


def report(result: Result, *, as_json: bool) -> None:
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.text)
