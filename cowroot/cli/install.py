"""`cowroot install`."""

from __future__ import annotations

from pathlib import Path

import click

from cowroot.cli.target_options import choose, report, speak, target_options
from cowroot.install import rehearsal
from cowroot.install.installation import install


@click.command(short_help="Make an image, a directory or this system boot copy-on-write.")
@target_options
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings to install. Default: those in the target.")
@click.option("--force", is_flag=True, help="Overwrite files of cowroot's that were changed since.")
@click.option("--rehearse", is_flag=True, help="Boot a copy of the image in QEMU first; change the image only if all is well in there.")
def command(
    root: Path | None,
    image: Path | None,
    partition: int | None,
    config: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    force: bool,
    rehearse: bool,
) -> None:
    """Make a system boot copy-on-write: a disk image, a directory that holds a root file system, or, without either, this system.

    All is tried out on an overlay first, with the target's own tools and without a network; the target is touched when it works. The same
    again changes nothing, an interrupted run is undone by the next, and `cowroot uninstall` restores every byte.

    \b
    Examples:
      cowroot install --image appliance.img
      cowroot install --image appliance.img --dry-run
      cowroot install --image appliance.img --rehearse
      cowroot install --root /mnt --config cowroot.yaml
    """
    choice = choose(root, image, partition)
    if rehearse and (image is None or dry_run):
        raise click.UsageError("--rehearse goes with --image, and without --dry-run")
    if rehearse:
        result = rehearsal.rehearse(choice, config, speak(quiet), force=force)
    else:
        result = install(choice, config, speak(quiet), dry_run=dry_run, force=force)
    report(result, as_json=as_json)
