"""`cowroot usage`: what fills the upper, and who wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from cowroot.cli.figures import size
from cowroot.usage import Place, Usage, Writer, usage


@click.command()
@click.argument("path", default="/", type=click.Path(exists=True))
@click.option("-n", "--most", default=10, show_default=True, type=click.IntRange(min=1), help="So many paths, and so many writers.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object; sizes in bytes.")
def command(path: str, most: int, as_json: bool) -> None:
    """Show what fills the upper of the union that PATH is in, below PATH: by path, and by who wrote it.

    Sizes are those that things take in the upper: of a large file that was copied up in part, what was copied. A file counts for the
    process, and its service unit, that opened it for writing last, as far as the daemon has seen that since it was started.

    \b
    Exit codes:
      0  fine
      1  PATH is not in a union
      6  the daemon does not answer
    """
    found = usage(path, most)
    click.echo(json.dumps(asdict(found), indent=2) if as_json else "\n".join(_text(found)))


def _text(found: Usage) -> list[str]:
    lines = [f"the upper of {found.mountpoint}: {size(found.free)} of {size(found.size)} free" + _inodes(found)]
    if found.reserve:
        lines.append(f"kept for root and for removing: {size(found.reserve)}")
    lines.append(f"below {found.path}: {_held(found.total)}")
    if found.removed.files:
        lines.append(f"removed, but still open: {_held(found.removed)}")
    lines += ["", "by path"] + [f"  {size(place.bytes):>9}  {place.path}" for place in found.paths]
    if found.writers:
        lines += ["", "by writer"] + [f"  {size(each.bytes):>9}  {_name(each)}, {_count(each.files, 'file')}" for each in found.writers]
    return lines


def _inodes(found: Usage) -> str:
    return f", {found.free_inodes} of {found.inodes} inodes" if found.inodes else ""


def _held(place: Place) -> str:
    text = f"{size(place.bytes)}, {_count(place.files, 'file')}"
    return text + (f", {_count(place.whiteouts, 'removed name')}" if place.whiteouts else "")


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _name(writer: Writer) -> str:
    if writer.unit and writer.command:
        return f"{writer.unit} ({writer.command})"
    return writer.unit or writer.command or "not known"
