"""`cowroot thaw`."""

from __future__ import annotations

import click

from cowroot.servicing.thaw import MOST_BOOTS, thaw


@click.command(short_help="Have the next boots without a union, to change the disk.")
@click.option("--boots", type=click.IntRange(1, MOST_BOOTS), default=1, show_default=True, metavar="N", help="How many boots.")
@click.option("--cancel", is_flag=True, help="None after all.")
def command(boots: int, cancel: bool) -> None:
    """Have the real root writable in the next N boots, as with cowroot=off. After them / is a union again by itself.

    The number is kept on the real root's disk, and each such boot takes one off before anything else. Called again, it sets the number
    anew. `cowroot status` shows it.

    \b
    Examples:
      cowroot thaw && systemctl reboot   the next boot is for servicing
      cowroot thaw --cancel              it is not

    \b
    Exit codes:
      3  the disk cannot be written, or cowroot is not installed
      5  somebody else has the real root open
    """
    thaw(0 if cancel else boots)
    if cancel:
        click.echo("no boot is thawed")
    else:
        click.echo(f"the next {'boot has' if boots == 1 else f'{boots} boots have'} the real root writable; then / is a union again")
