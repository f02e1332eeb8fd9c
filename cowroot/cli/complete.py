"""`cowroot complete`: make an upper stand for itself."""

from __future__ import annotations

import os

import click

from cowroot.cli.completion import mount_options
from cowroot.errors import CowrootError
from cowroot.fuse.options import MountOptions
from cowroot.layers.complete import complete


@click.command()
@click.option(
    "-o",
    "options",
    metavar="OPTION[,OPTION…]",
    multiple=True,
    required=True,
    shell_complete=mount_options,
    help="The layers, as for `cowroot mount`.",
)
@click.option("-q", "--quiet", is_flag=True, help="Do not list the files.")
def command(options: tuple[str, ...], quiet: bool) -> None:
    """Copy in what is missing of files that were copied up in part, and names of files that have several.

    cowroot copies no more of a large file up than is written, and of several names only those that are used; the rest stays in the lower.
    The kernel's overlayfs cannot tell, so this is what to do before it mounts the upper: cowroot complete -o
    lowerdir=A,upperdir=U,workdir=W. The union must not be mounted.
    """
    layers = MountOptions.parse(",".join(options)).layers()
    if layers.upper is None:
        raise CowrootError("there is no upper to complete", hint="give upperdir=U,workdir=W too")
    files = size = 0
    try:
        for path, length in complete(layers):
            files, size = files + 1, size + length
            if not quiet:
                click.echo(os.fsdecode(path).encode("utf-8", "backslashreplace").decode())
    except OSError as e:
        raise CowrootError(
            f"{e.filename!r}: {e.strerror}" if e.filename else f"the upper: {e.strerror}", hint="make room in the upper, then do this again"
        ) from None
    click.echo(f"{files} file{'' if files == 1 else 's'} completed, {size >> 20} MiB")
