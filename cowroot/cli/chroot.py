"""`cowroot chroot`."""

from __future__ import annotations

import click

from cowroot.errors import TargetError
from cowroot.servicing.chroot import chroot
from cowroot.servicing.real_root import is_union


@click.command(
    short_help="Run a command, or a shell, on the real root.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
def command(words: tuple[str, ...]) -> int:
    """Run COMMAND on the real root below the running union, or a shell: what it writes there stays.

    The real root is writable for the command alone, with /boot, and with the running system's /dev, /sys, /run and /tmp. When the command
    has ended, all that it has started is ended too, and the disk is write-protected again, also if the command or this one is killed.
    Services are not started or stopped.

    What was changed takes effect with the next boot. Until then the running system may show some of it and not the rest: reboot soon.
    What the upper holds already goes on hiding what is below it.

    \b
    Examples:
      cowroot chroot                                   a shell
      cowroot chroot apt-get install --yes chrony      a package for good
      cowroot chroot sh -c 'apt-get update && apt-get --yes upgrade'

    \b
    Exit codes: those of COMMAND (127: not found, 128 and more: a signal), or
      3  / is no union, or the disk cannot be written
      5  somebody else has the real root open
      6  it cannot be made writable
    """
    if not is_union():
        raise TargetError("/ is not a copy-on-write union in this boot", hint="then / is the real root itself; `cowroot status` says more")
    code = chroot(words)
    click.echo("cowroot: what was changed takes effect with the next boot", err=True)
    return code
