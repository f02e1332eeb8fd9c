"""Writes what the Ansible role and the Puppet module know of the settings: argument specification and type, from the table of settings.

What they say is the form of a value: a switch, a number, a word out of some, a list, rules. What a value may be beyond that, cowroot says
itself, when it is given the settings.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cowroot.config import SECTIONS, Setting, settings_below

_HERE = Path(__file__).resolve().parent
DEFAULTS = _HERE / "ansible/cowroot/defaults/main.yml"
ARGUMENTS = _HERE / "ansible/cowroot/meta/argument_specs.yml"
TYPE = _HERE / "puppet/cowroot/types/settings.pp"

_WRITTEN = "Written by `make provisioning`, from the table in cowroot/config/settings.py and from provisioning/settings_types.py"

# What the role takes besides the settings.
_ROLE_OPTIONS: dict[str, Any] = {
    "cowroot_state": {
        "type": "str",
        "default": "present",
        "choices": ["present", "absent"],
        "description": "Whether the machine boots copy-on-write. absent: every byte that cowroot changed is put back.",
    },
    "cowroot_source": {
        "type": "str",
        "default": "",
        "description": [
            "Where cowroot comes from: a wheel (….whl), a Debian package (….deb) or a checkout (any other path with a slash).",
            "All of these are on the controller. Or the name of a package that the machine can fetch.",
            "Empty: the machine has the command cowroot.",
            "A wheel or checkout of the version that is installed already is not installed again.",
        ],
    },
    "cowroot_pip_arguments": {
        "type": "list",
        "elements": "str",
        "default": [],
        "description": "Arguments for pip, which fetches what a wheel stands on, such as --index-url=….",
    },
    "cowroot_packages": {
        "type": "list",
        "elements": "str",
        "default": ["libfuse2", "python3-venv"],
        "description": "Packages that the machine needs for it. The default is right for Debian and Ubuntu.",
    },
    "cowroot_on_union": {
        "type": "str",
        "default": "refuse",
        "choices": ["refuse", "chroot"],
        "description": [
            "What is done where / is a union and the disk below it is not as wanted. refuse: the role fails and says so.",
            "chroot: the disk is changed by `cowroot chroot`, for the next boot.",
        ],
    },
    "cowroot_doctor": {
        "type": "bool",
        "default": True,
        "description": "Whether the role fails where `cowroot doctor` finds that the next boot would not be as configured.",
    },
}


def argument_specification() -> str:
    """The whole meta/argument_specs.yml."""
    settings = {
        "type": "dict",
        "default": {},
        "description": "The content of /etc/cowroot/cowroot.yaml. What is not named has its default.",
        "options": _options(""),
    }
    main = {
        "short_description": "Have a machine boot copy-on-write",
        "description": "Installs cowroot, with its settings, or takes it out.",
        "options": {**_ROLE_OPTIONS, "cowroot_settings": settings},
    }
    return _yaml({"argument_specs": {"main": main}})


def role_defaults() -> str:
    """The whole defaults/main.yml."""
    return _yaml({**{name: each["default"] for name, each in _ROLE_OPTIONS.items()}, "cowroot_settings": {}})


def _yaml(content: dict[str, Any]) -> str:
    return f"---\n# {_WRITTEN}.\n" + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """YAML as ansible-lint wants it: the items of a list are indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _options(section: str) -> dict[str, Any]:
    options = {_name(setting): _option(setting) for setting in settings_below(section)}
    if not section:
        options.update({each.key: {"type": "dict", "description": each.doc, "options": _options(each.key)} for each in SECTIONS})
    return options


def _option(setting: Setting) -> dict[str, Any]:
    option: dict[str, Any] = {"type": _form(setting)}
    if setting.kind.takes_list:
        option["elements"] = "str"
    if setting.choices:
        option["choices"] = list(setting.choices)
    return {**option, "description": [setting.doc, f"Value: {setting.kind.describe()}.", _default(setting)]}


def _form(setting: Setting) -> str:
    if setting.kind.takes_pairs:
        return "dict"
    if setting.kind.takes_list:
        return "list"
    if isinstance(setting.default, bool):
        return "bool"
    return "int" if isinstance(setting.default, int) else "str"


def _default(setting: Setting) -> str:
    text = setting.kind.write(setting.default)
    return f"Default: {text}." if text else "Default: none."


def _name(setting: Setting) -> str:
    return setting.key.rpartition(".")[2]


def puppet_type() -> str:
    """The whole types/settings.pp."""
    lines = [
        "# @summary The content of /etc/cowroot/cowroot.yaml.",
        "#",
        f"# {_WRITTEN}.",
        "type Cowroot::Settings = Struct[{",
        *_members("", "  "),
        "}]",
    ]
    return "\n".join(lines) + "\n"


def _members(section: str, indent: str) -> Iterator[str]:
    for setting in settings_below(section):
        yield from _comment(f"{setting.doc} {_default(setting)}", indent)
        yield f"{indent}Optional['{_name(setting)}'] => {_puppet_form(setting)},"
    if not section:
        for each in SECTIONS:
            yield from _comment(each.doc, indent)
            yield f"{indent}Optional['{each.key}'] => Struct[{{"
            yield from _members(each.key, f"{indent}  ")
            yield f"{indent}}}],"


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(text, width=120, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False, break_on_hyphens=False)


def _puppet_form(setting: Setting) -> str:
    word = f"Enum[{', '.join(map(repr, setting.choices))}]" if setting.choices else "String[1]"
    form = _form(setting)
    if form == "dict":
        return "Hash[String[1], String[1]]"
    if form == "list":
        return f"Array[{word}]"
    # A size without a unit is a number to YAML, and so to Hiera.
    plain = word if setting.choices else f"Variant[{word}, Integer]"
    return {"bool": "Boolean", "int": "Integer"}.get(form, plain)


def files() -> dict[Path, str]:
    """Every file that is written from the table, with its content."""
    return {DEFAULTS: role_defaults(), ARGUMENTS: argument_specification(), TYPE: puppet_type()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
