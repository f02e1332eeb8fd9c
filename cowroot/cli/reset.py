"""`cowroot reset`: have the upper emptied at the next boot."""

from __future__ import annotations

import click

from cowroot.reset import kept_upper, mark, unmark


@click.command(short_help="Have the upper emptied at the next boot.")
@click.option("--undo", is_flag=True, help="Take it back: the upper is kept.")
def command(undo: bool) -> None:
    """Have the upper on a device emptied at the next boot: all that was changed since it was new is then gone.

    Until then nothing changes. An upper in memory needs no such thing, it is empty at each boot. To have one on a device emptied at each
    boot, set upper.reset; for one boot, cowroot.reset=on as a kernel parameter does it.
    """
    kept = kept_upper()
    if not undo:
        mark(kept)
        click.echo(f"at the next boot the upper on {kept.device} is emptied; cowroot reset --undo takes that back")
    elif unmark(kept):
        click.echo(f"the upper on {kept.device} is kept")
    else:
        click.echo(f"the upper on {kept.device} was not to be emptied")
