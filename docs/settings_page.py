"""Writes docs/reference/settings.md from the table of settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cowroot.config import DEFAULT_PATH, SECTIONS, SETTINGS, Setting, settings_below

PAGE = Path(__file__).resolve().parent / "reference" / "settings.md"

_TOP = f"""\
# Settings

<!-- Written by `make docs` from the table in cowroot/config/settings.py: change it there. -->

cowroot reads its settings from `{DEFAULT_PATH}`, a YAML file. What the file does not name has its default; an empty file is fine.
A key that does not exist, one that stands there twice, a value of the wrong type or one that cannot be: each is an error with file, line
and a hint, and then nothing is changed. `cowroot config check` looks for such errors, `cowroot config show` says which settings are in
force and where each comes from, `cowroot config default` prints a file with every default and explanation.

The initrd holds a copy of the settings. After a change, run `update-initramfs -u -k all` (or `cowroot install` again).

## On the kernel command line

A setting with a parameter can be given for one boot, in GRUB's editor or in `GRUB_CMDLINE_LINUX`: `cowroot.size=512M`, and `cowroot=off` to
boot the real root. It overrides the file; of several the last one wins. A list is written with commas:
`cowroot.on_failure=tmpfs,shell`. A value with a space is written in double quotes: `cowroot.upper="LABEL=my data"`.

## Overview

| key | kernel parameter | default |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = "".join(f"| [`{each.key}`](#{_anchor(each.key)}) | {_code(each.parameter)} | {_default(each)} |\n" for each in SETTINGS)
    return _TOP + rows + "".join(_settings())


def _settings() -> Iterator[str]:
    for title, doc, prefix in [("At the top level", "", ""), *((f"Below `{each.key}:`", f"{each.doc}\n\n", each.key) for each in SECTIONS)]:
        yield f"\n## {title}\n\n{doc}"
        yield "\n".join(_setting(each) for each in settings_below(prefix))


def _setting(setting: Setting) -> str:
    parameter = f"`{setting.parameter}=`" if setting.parameter else "none: it matters only when cowroot is installed"
    return (
        f"### `{setting.key}`\n\n{setting.doc}\n\n"
        f"- Value: {setting.kind.describe()}\n- Default: {_default(setting)}\n- Kernel parameter: {parameter}\n"
    )


def _default(setting: Setting) -> str:
    text = setting.kind.write(setting.default)
    return f"`{text}`" if text else "none"


def _code(text: str) -> str:
    return f"`{text}=`" if text else "–"


def _anchor(key: str) -> str:
    return key.replace(".", "")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
