"""`cowroot daemon`: what is done to a running union's daemon."""

from __future__ import annotations

import json

import click

from cowroot.cli.completion import directory


@click.group()
def command() -> None:
    """Restart a union's daemon while it is mounted."""


@command.command()
@click.argument("mountpoint", default="/", type=click.Path(), shell_complete=directory)
@click.option("--json", "as_json", is_flag=True, help="For programs: an object, what runs now.")
def restart(mountpoint: str, as_json: bool) -> None:
    """Have the daemon of the union at MOUNTPOINT (default: /) go on as the cowroot that is installed now.

    For an upgrade without a reboot. What is open stays open, locks, mappings and files without a name included; programs see a pause.
    The new version is tried first. If it does not come up, the old one goes on, and the command says why.

    The daemon stays the process that it is, with the Python that it was started with. The engine must be `direct`.

    \b
    Exit codes:
      0  the new version serves
      6  it does not: the old one goes on; or there is no such union, or its engine cannot
    """
    from cowroot.fuse.restarting import restart as restart_daemon

    status = restart_daemon(mountpoint)
    if as_json:
        click.echo(json.dumps({"version": status["version"], "pid": status["pid"], "server": status["server"]}))
    else:
        click.echo(f"{mountpoint}: cowroot {status['version']} serves it now, pid {status['pid']}")
