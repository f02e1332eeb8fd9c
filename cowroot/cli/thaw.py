"""`cowroot thaw`."""

from __future__ import annotations

from datetime import datetime

import click

from cowroot.servicing.thaw import MOST_BOOTS, thaw
from cowroot.servicing.window import Window, read_window
from cowroot.servicing.window_end import await_end


class _WindowType(click.ParamType):
    name = "window"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Window:
        try:
            return read_window(str(value), datetime.now())
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


@click.command(short_help="Have the next boots without a union, to change the disk.")
@click.option("--boots", type=click.IntRange(1, MOST_BOOTS), metavar="N", help="How many boots.  [default: 1]")
@click.option("--window", type=_WindowType(), metavar="[DATE] TIME..[DATE] TIME", help="The boots in a window of time, in local time.")
@click.option("--cancel", is_flag=True, help="None after all.")
@click.option("--await-end", "wait", is_flag=True, help="Wait for the end of the window of this boot, then reboot. A service does it.")
def command(boots: int | None, window: Window | None, cancel: bool, wait: bool) -> None:
    """Have the real root writable in the next N boots, as with cowroot=off. After them / is a union again by itself.

    The number is kept on the real root's disk, and each such boot takes one off before anything else. Called again, it sets the number
    anew. `cowroot status` shows it.

    With --window it is the boots that begin within a span of time. When that is over, whoever is logged in having been warned, the thawed
    system reboots by itself, and / is a union again. A package manager that is at work is waited for, up to half an hour. The machine's
    clock must be right while the initrd runs.

    \b
    Examples:
      cowroot thaw && systemctl reboot                  the next boot is for servicing
      cowroot thaw --window '2026-11-21 02:00..04:00'   the boots of that night are
      cowroot thaw --window 22:00..04:00                those of the next night
      cowroot thaw --cancel                             none is

    \b
    Exit codes:
      3  the disk cannot be written, cowroot is not installed, or the clock cannot be relied on
      5  somebody else has the real root open
    """
    if sum((boots is not None, window is not None, cancel, wait)) > 1:
        raise click.UsageError("--boots, --window, --cancel and --await-end exclude each other")
    if wait:
        await_end()
        return
    boots = boots or 1
    thaw(0 if cancel else window or boots)
    if cancel:
        click.echo("no boot is thawed")
    elif window:
        click.echo(f"boots from {window.describe()} have the real root writable; after that / is a union again")
    else:
        click.echo(f"the next {'boot has' if boots == 1 else f'{boots} boots have'} the real root writable; then / is a union again")
