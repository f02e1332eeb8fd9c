"""Where the template folders are, and how a template becomes text."""

from __future__ import annotations

from pathlib import Path

import jinja2

from cowroot.errors import CowrootError

ORIGIN = "Written by cowroot; `cowroot install` writes it again."
"""The header of every file that is rendered."""

_PACKAGE = Path(__file__).resolve().parents[1]


def template_root(family: str) -> Path:
    """Return the folder of a family (`initramfs-hooks`, `systemd`, `grub`, …).

    An installed package carries it as cowroot/templates/<family>; a source checkout has it at its top. Raises CowrootError if it is in
    neither place.
    """
    for place in (_PACKAGE / "templates" / family, _PACKAGE.parent / family):
        if place.is_dir():
            return place
    raise CowrootError(f"the templates of {family} are missing from {_PACKAGE}", hint="install cowroot again: its files are incomplete")


def render_template(family: str, name: str, **values: object) -> str:
    """Return the template `name` of a family with `values` filled in. A name that nobody gave a value is an error, not empty text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_root(family)),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.get_template(name).render(**values)
