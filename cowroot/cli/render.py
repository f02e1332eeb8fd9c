"""`cowroot render`: what an installation would put into a root file system, without putting it there."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cowroot.boot.render import render
from cowroot.boot.rendered import Rendered, RenderedFile
from cowroot.cli.completion import directory
from cowroot.cli.target_options import choose, target_name_options
from cowroot.config import DEFAULT_PATH, Config
from cowroot.errors import ConflictError, CowrootError, TargetError
from cowroot.install.inspection import inspect
from cowroot.install.target import Choice, open_target
from cowroot.install.tree import Tree


def _paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What may stand for PATH. Not for an image: pressing Tab mounts nothing."""
    root, config = ctx.params.get("root"), ctx.params.get("config")
    if ctx.params.get("image"):
        return []
    with _target(Choice(root)) as tree:
        inspection = inspect(tree)
        rendered = render(_settings(tree, config), inspection.target, inspection.grubenv)
    return [each.path for each in rendered if each.path.startswith(incomplete)]


@click.command()
@click.argument("path", required=False, shell_complete=_paths)
@target_name_options
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings. Default: the target's own, else the defaults.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR", shell_complete=directory, help="Write the files below DIR, which is made."
)
def command(
    path: str | None, root: Path | None, image: Path | None, partition: int | None, config: Path | None, output: Path | None
) -> None:
    """Render the files that boot a system copy-on-write: a directory that holds a root file system, a disk image, or this system.

    Lists them, each with its permissions and its purpose; prints the one at PATH, if given; or writes them all with --output. The target
    is only looked at, never changed: `cowroot install` does that.
    """
    with _target(choose(root, image, partition)) as tree:
        inspection = inspect(tree)
        rendered = render(_settings(tree, config), inspection.target, inspection.grubenv)
    if output is not None:
        _write(rendered, output)
    if path is not None:
        _show(rendered, path)
    elif output is None:
        _list(rendered)


@contextmanager
def _target(choice: Choice) -> Iterator[Tree]:
    if choice.image is not None:
        with open_target(choice, writable=False) as target:
            yield target.tree
        return
    # Looking needs neither a mount nor a lock, and so no rights.
    root = choice.root or Path("/")
    try:
        tree = Tree(root)
    except OSError as error:
        raise TargetError(f"{root}: {error.strerror}", hint="--root takes the directory that is / in the target") from None
    with tree:
        yield tree


def _settings(tree: Tree, config: Path | None) -> Config:
    if config is not None:
        return Config.load(config)
    if tree.is_file(str(DEFAULT_PATH)):
        return Config.parse(tree.read_text(str(DEFAULT_PATH)), f"{tree.path}{DEFAULT_PATH}".replace("//", "/"))
    return Config.default()


def _list(rendered: list[Rendered]) -> None:
    width = max(len(each.path) for each in rendered)
    for each in rendered:
        mode = f"{each.mode:04o}" if isinstance(each, RenderedFile) else "link"
        click.echo(f"{mode}  {each.path:{width}}  {each.why}")


def _show(rendered: list[Rendered], path: str) -> None:
    by_path = {each.path: each for each in rendered}
    found = by_path.get(path)
    if found is None:
        close = difflib.get_close_matches(path, by_path, n=1, cutoff=0.3)
        raise CowrootError(
            f"{path} is not among the rendered files", hint=f"did you mean {close[0]}?" if close else "leave it out to list them"
        )
    click.echo(found.content if isinstance(found, RenderedFile) else f"{found.path} -> {found.target}\n", nl=False)


def _write(rendered: list[Rendered], output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConflictError(f"{output}: exists and is not an empty directory", hint="name a new one")
    for each in rendered:
        place = output / each.path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(each, RenderedFile):
            place.write_bytes(each.content)
            place.chmod(each.mode)
        else:
            os.symlink(each.target, place)
    click.echo(f"{len(rendered)} files below {output}")
