"""`cowroot uninstall`."""

from __future__ import annotations

from pathlib import Path

import click

from cowroot.cli.target_options import choose, report, speak, target_options
from cowroot.install.removal import uninstall


@click.command(short_help="Take cowroot out of an image, a directory or this system, restoring every byte.")
@target_options
@click.option("--force", is_flag=True, help="Restore also files that were changed since; those changes are lost.")
def command(
    root: Path | None, image: Path | None, partition: int | None, dry_run: bool, as_json: bool, quiet: bool, force: bool
) -> None:
    """Take cowroot out of a disk image, a directory, or, without either, this system, and restore every byte that `install` changed.

    Where somebody changed one of those files since, nothing is done (exit code 5) and the files are listed.
    """
    report(uninstall(choose(root, image, partition), speak(quiet), dry_run=dry_run, force=force), as_json=as_json)
