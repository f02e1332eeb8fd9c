"""`cowroot config`: check the settings, show them, write them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cowroot.cli.completion import kernel_parameter
from cowroot.config import DEFAULT_PATH, SETTINGS, Config, Setting, apply_parameters

_file = click.argument("file", required=False, type=click.Path(path_type=Path))


@click.group()
def command() -> None:
    """Check and show the settings.

    They live in /etc/cowroot/cowroot.yaml. Most can be overridden for one boot on the kernel command line, such as cowroot.size=512M or
    cowroot=off. Each one is described in cowroot.yaml(5), and by `cowroot config default`.
    """


@command.command(short_help="Check a settings file.")
@_file
def check(file: Path | None) -> None:
    """Check a settings FILE (default: /etc/cowroot/cowroot.yaml).

    Says nothing more than "fine" when it is; otherwise what is wrong on which line, with exit code 2.
    """
    path = file or DEFAULT_PATH
    Config.load(path)
    click.echo(f"{path}: fine")


@command.command(short_help="Show the settings in force, and their sources.")
@_file
@click.option(
    "--cmdline",
    metavar="TEXT",
    shell_complete=kernel_parameter,
    help="Kernel command line to apply. Default: the running kernel's, unless FILE is given.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs: one object, with value and source of each setting.")
def show(file: Path | None, cmdline: str | None, as_json: bool) -> None:
    """Show the settings in force, and where each comes from.

    Without FILE: those of this system, that is /etc/cowroot/cowroot.yaml (or the defaults, where there is no such file) with the kernel's
    command line over it. With FILE: what stands in that file.
    """
    if file is not None:
        config = Config.load(file)
    else:
        config = Config.load(DEFAULT_PATH) if DEFAULT_PATH.exists() else Config.default()
    if cmdline is None and file is None:
        cmdline = Path("/proc/cmdline").read_text(errors="replace")
    config = apply_parameters(config, cmdline or "")
    if as_json:
        values = {each.key: {"value": _plain(each, config), "source": config.source(each.key)} for each in SETTINGS}
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    rows = [(each.key, each.kind.write(config.value(each.key)), config.source(each.key)) for each in SETTINGS]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, value, source in rows:
        click.echo(f"{key:{widths[0]}}  {value:{widths[1]}}  {source}")


@command.command(short_help="Print a settings file with all defaults.")
def default() -> None:
    """Print a settings file in which everything has its default and its explanation."""
    click.echo(Config.default().to_yaml(), nl=False)


@command.command(short_help="Print the settings as shell assignments.")
@_file
def shell(file: Path | None) -> None:
    """Print the settings that a boot needs as shell assignments.

    The initramfs hook puts this into the initrd, where nothing reads YAML. A FILE (default: /etc/cowroot/cowroot.yaml) that is wrong
    prints nothing and ends with exit code 2.
    """
    click.echo(Config.load(file or DEFAULT_PATH).to_shell(), nl=False)


def _plain(setting: Setting, config: Config) -> Any:
    """A value as JSON has it: sizes as text, since a percentage has no number of bytes here."""
    value = config.value(setting.key)
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, (bool, int)) else str(value)
