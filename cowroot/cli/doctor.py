"""`cowroot doctor`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cowroot.cli.target_options import choose, speak, target_name_options
from cowroot.errors import PreflightError
from cowroot.install.doctor import PROBLEM, examine


@click.command(short_help="Find out what would go wrong at the next boot.")
@target_name_options
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of objects with severity, what and fix.")
def command(root: Path | None, image: Path | None, partition: int | None, as_json: bool) -> None:
    """Find out what would go wrong at the next boot of a disk image, of a directory that holds a root file system, or of this system.

    Looks at what a boot needs, at what is installed, into the initrd of each kernel, and at what works against a union. Each finding is
    followed by what mends it. Nothing is changed.

    \b
    Exit codes:
      0  no problem was found (warnings there may be)
      4  there are problems: the next boot would not be as configured
    """
    speak(quiet=True)
    found = examine(choose(root, image, partition))
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], indent=2))
    else:
        for each in found:
            click.echo(f"{'!' if each.severity == PROBLEM else '-'} {each.what}\n    fix: {each.fix}")
        if not found:
            click.echo("nothing was found that would go wrong")
    if any(each.severity == PROBLEM for each in found):
        sys.exit(PreflightError.exit_code)
