"""Settings on the kernel command line: `cowroot=off`, `cowroot.size=512M`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from cowroot.config.config import Config
from cowroot.config.kinds import BadValue, shorten
from cowroot.config.settings import SETTINGS
from cowroot.errors import ConfigError

_BY_PARAMETER = {setting.parameter: setting for setting in SETTINGS if setting.parameter}


def apply_parameters(config: Config, cmdline: str) -> Config:
    """`config` with what the kernel command line `cmdline` (as in /proc/cmdline) says in place of it. The last of several wins.

    Parameters that are not cowroot's are ignored. Raises ConfigError that names the parameter: unknown, or a bad value.
    """
    last: dict[str, str] = {}
    for word in _words(cmdline):
        name, separator, text = word.partition("=")
        # The kernel takes a dash in a parameter's name for an underscore (kernel/params.c, dash2underscore).
        # With dracut, what is meant for the initrd begins with rd.
        name = name.replace("-", "_").removeprefix("rd.")
        if name != "cowroot" and not name.startswith("cowroot."):
            continue
        if name not in _BY_PARAMETER:
            near = difflib.get_close_matches(name, _BY_PARAMETER, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the parameters are {', '.join(_BY_PARAMETER)}"
            raise ConfigError(f"kernel parameter {shorten(name)} is unknown", hint=hint)
        if not separator:
            raise ConfigError(f"kernel parameter {name} has no value", hint=f"write {name}={_example(name)}")
        last[name] = text
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, text in last.items():
        setting = _BY_PARAMETER[name]
        try:
            values[setting.key] = setting.kind.read(text)
        except BadValue as bad:
            raise ConfigError(f"kernel parameter {name} {bad.problem}", hint=bad.hint) from None
        sources[setting.key] = f"{name}="
    return config.with_values(values, sources)


def _example(name: str) -> str:
    setting = _BY_PARAMETER[name]
    return "off" if name == "cowroot" else setting.kind.write(setting.default)


def _words(cmdline: str) -> Iterator[str]:
    """The parameters as the kernel parts them: at white space outside double quotes, which are then gone (lib/cmdline.c, next_arg)."""
    word, quoted, begun = "", False, False
    for character in cmdline:
        if character == '"':
            quoted, begun = not quoted, True
        elif character.isspace() and not quoted:
            if begun:
                yield word
            word, begun = "", False
        else:
            word, begun = word + character, True
    if begun:
        yield word
