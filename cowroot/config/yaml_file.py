"""YAML text -> the scalars and lists in it, each with its line.

PyYAML composes the text into nodes that know where they stand; nothing is constructed from them, so no tag can make an object and no
alias can be expanded into a million of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from cowroot.config.kinds import Written, shorten
from cowroot.config.settings import SECTIONS, SETTINGS
from cowroot.errors import ConfigError

# Settings fill a screen or two. Whoever points at /dev/zero or at an image gets an answer, not a machine without memory.
LARGEST_FILE = 1 << 18

_KEYS = {setting.key: setting for setting in SETTINGS}
_SECTIONS = {section.key for section in SECTIONS}
_TYPES = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null", "str", "timestamp", "value", "merge", "seq", "map")}


@dataclass(frozen=True)
class Line:
    """A setting as a file has it: where (`FILE:LINE`, from 1 as editors count) and what."""

    place: str
    written: Written


def read_text(path: Path) -> str:
    """The text of the settings file at `path`. Raises ConfigError: not there, unreadable, too large, not UTF-8."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, not a settings file", hint=f"name the file in it: {path}/cowroot.yaml") from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint=f"`cowroot config default > {path}` writes one to begin with") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(data) > LARGEST_FILE:
        raise ConfigError(f"{path}: is larger than {LARGEST_FILE >> 10} KiB, so it is no settings file", hint="is this the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8", hint="save the file in UTF-8") from None


def read_lines(text: str, source: str) -> dict[str, Line]:
    """The settings in `text` by key. `source` names the text in messages. Raises ConfigError for all that is not a tree of known keys."""
    return _Text(text, source).lines()


def is_plain(text: str) -> bool:
    """Whether YAML reads `text`, written without quotes as a value, as that same text."""
    try:
        root = yaml.compose(f"key: {text}\n", Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return False
    value = root.value[0][1] if isinstance(root, yaml.MappingNode) else None
    return isinstance(value, yaml.ScalarNode) and value.value == text and value.style is None and not _is_null(value)


class _Text:
    """A text at work, so that whatever is wrong in it can be placed."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source

    def lines(self) -> dict[str, Line]:
        try:
            root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise self.not_yaml(error) from None
        except RecursionError:
            raise ConfigError(f"{self.source}: is nested too deeply", hint="settings have two levels at most") from None
        lines: dict[str, Line] = {}
        if root is not None and not _is_null(root):
            if not isinstance(root, yaml.MappingNode):
                kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
                raise ConfigError(f"{self.place(root)}: is {kind}, not settings", hint="write `key: value` lines, such as `enabled: true`")
            self.read_level(root, "", lines)
        return lines

    def line(self, index: int) -> int:
        """The number of the line that holds character `index`, as editors count: YAML's own count also takes U+2028 for a line's end."""
        return self.text.count("\n", 0, index) + 1

    def place(self, node: yaml.Node) -> str:
        return f"{self.source}:{self.line(node.start_mark.index)}"

    def read_level(self, mapping: yaml.MappingNode, prefix: str, lines: dict[str, Line]) -> None:
        seen: dict[str, int] = {}
        for key_node, value in mapping.value:
            place = self.place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{place}: a list or a section stands where the name of a setting should", hint="write `key: value`")
            name = key_node.value
            key = prefix + name
            if "." in name or (key not in _KEYS and key not in _SECTIONS):
                raise ConfigError(f"{place}: unknown setting {shorten(key)}", hint=_nearest(key, prefix))
            if name in seen:
                raise ConfigError(
                    f"{place}: {key} stands here for the second time, first on line {seen[name]}",
                    hint="remove one of the two; neither wins",
                )
            seen[name] = self.line(key_node.start_mark.index)
            if key in _KEYS:
                lines[key] = Line(place, self.written(value, key, place))
            elif isinstance(value, yaml.MappingNode):
                self.read_level(value, key + ".", lines)
            elif not _is_null(value):
                members = ", ".join(name[len(key) + 1 :] for name in sorted(_KEYS) if name.startswith(key + "."))
                raise ConfigError(
                    f"{place}: {key} is {self.written(value, key, place)}, not a section",
                    hint=f"below `{key}:`, indented, write any of {members}",
                )

    def written(self, node: yaml.Node, key: str, place: str) -> Written:
        if node.tag not in _TYPES:
            raise ConfigError(f"{self.place(node)}: the tag {shorten(node.tag)} means nothing here", hint="remove it")
        if isinstance(node, yaml.SequenceNode):
            return Written("list", "", tuple(self.items(node, key)))
        if isinstance(node, yaml.MappingNode):
            return Written("mapping", "", tuple(self.pairs(node, key)) if key in _KEYS and _KEYS[key].kind.takes_pairs else ())
        if _is_null(node):
            raise ConfigError(f"{place}: {key} has no value", hint="write one after the colon, or remove the line to have the default")
        return Written(node.tag.rpartition(":")[2], node.value)

    def items(self, sequence: yaml.SequenceNode, key: str) -> Iterator[str]:
        for item in sequence.value:
            if not isinstance(item, yaml.ScalarNode) or _is_null(item):
                raise ConfigError(f"{self.place(item)}: {key} holds something that is not a word", hint="write a plain list: [one, two]")
            yield item.value

    def pairs(self, mapping: yaml.MappingNode, key: str) -> Iterator[str]:
        for left, right in mapping.value:
            for node in (left, right):
                if not isinstance(node, yaml.ScalarNode) or _is_null(node):
                    raise ConfigError(f"{self.place(left)}: {key} holds something that is not a pair of words", hint="write `one: two`")
            yield f"{left.value}:{right.value}"

    def not_yaml(self, error: yaml.YAMLError) -> ConfigError:
        if isinstance(error, yaml.reader.ReaderError):
            line, character = self.line(error.position), ord(self.text[error.position])
            return ConfigError(f"{self.source}:{line}: character U+{character:04X} may not stand in YAML", hint="remove it")
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            mark = error.problem_mark
            problem = error.problem or error.context or "not YAML"
            hint = "indent with spaces" if "'\\t'" in problem else "`cowroot config default` shows the form"
            return ConfigError(f"{self.source}:{self.line(mark.index)}: column {mark.column + 1}: {problem}", hint=hint)
        return ConfigError(f"{self.source}: not YAML: {error}", hint="`cowroot config default` shows the form")


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _nearest(key: str, prefix: str) -> str:
    """The hint for an unknown `key` below `prefix`: what was probably meant, else what there is."""
    name = key.rpartition(".")[2]
    here = [each[len(prefix) :] for each in sorted({*_KEYS, *_SECTIONS}) if each.startswith(prefix) and "." not in each[len(prefix) :]]
    elsewhere = {each.rpartition(".")[2]: each.rpartition(".")[0] for each in sorted(_KEYS)}
    if name not in elsewhere:
        close = difflib.get_close_matches(name, here, n=1) or difflib.get_close_matches(name, elsewhere, n=1)
        if not close:
            return f"the settings here are {', '.join(here)}"
        name = close[0]
    if name in here:
        return f"did you mean {name}?"
    return f"did you mean {name} below `{elsewhere[name]}:`?" if elsewhere[name] else f"did you mean {name} at the top level, not indented?"
