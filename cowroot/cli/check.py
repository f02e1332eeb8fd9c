"""`cowroot check`: an fsck for uppers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cowroot.cli.completion import directories, directory
from cowroot.union.check import Problem, check

UNREPAIRED = 1


@click.command()
@click.argument("upper", type=click.Path(path_type=Path), shell_complete=directory)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=directory,
    help="Its work directory: check the index of hard links as well.",
)
@click.option(
    "--lower",
    metavar="DIR[:DIR…]",
    shell_complete=directories,
    help="Its lower layers, topmost first: check also whether what leads there still does.",
)
@click.option("--userxattr", is_flag=True, help="Its marks are in user.overlay.*, as of a mount without privileges.")
@click.option("--repair", is_flag=True, help="Repair what can be repaired without a guess.")
@click.option("--seconds", type=click.FloatRange(min=0), metavar="N", help="Stop after so long, and say where.")
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of objects, one for each problem.")
def command(upper: Path, work: Path | None, lower: str | None, userxattr: bool, repair: bool, seconds: float | None, as_json: bool) -> None:
    """Check the upper layer UPPER, of a union that is not mounted, for inconsistencies, and explain each.

    Changes nothing without --repair, and never what a program stored: only marks of the union itself.

    \b
    Exit codes:
      0  nothing is wrong (any more)
      1  there are problems, or some are left after --repair
      6  a directory cannot be checked, or the union is mounted
    """
    found: list[Problem] = []
    layers = tuple(lower.split(":")) if lower else ()
    for problem in check(str(upper), str(work) if work else None, layers, userxattr, seconds):
        if repair and problem.repair is not None:
            problem.repair()
            problem.repaired = True
        found.append(problem)
        if not as_json:
            click.echo(_line(problem, repair))
    if as_json:
        rows = [
            {"path": each.path, "problem": each.what, "repairable": each.repair is not None, "repaired": each.repaired} for each in found
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo(_summary(upper, found, repair))
    sys.exit(UNREPAIRED if any(not each.repaired for each in found) else 0)


def _line(problem: Problem, repair: bool) -> str:
    line = f"{problem.path}: {problem.what}"
    if problem.repaired:
        return f"{line} (repaired: {problem.repair_text})"
    return f"{line} (--repair can mend this)" if problem.repair is not None and not repair else line


def _summary(upper: Path, found: list[Problem], repair: bool) -> str:
    if not found:
        return f"{upper}: clean"
    repaired = sum(each.repaired for each in found)
    return f"{upper}: {len(found)} problem{'s' if len(found) > 1 else ''}" + (f", {repaired} repaired" if repair else "")
