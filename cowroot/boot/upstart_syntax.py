"""Whether a file of Upstart's would parse: init(5), as far as every version from 0.6 on agrees about it.

A job's file that does not parse is not loaded, an override that does not is ignored, and nobody is told but init's log. This check is
stricter than Upstart: what passes here is read by each version; what does not may still be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cowroot.errors import PreflightError

# Number of arguments that a stanza takes at least, and at most (None: any number). Those of 0.6, and what came later.
_ARGUMENTS: dict[str, tuple[int, int | None]] = {
    "instance": (1, None), "description": (1, 1), "author": (1, 1), "version": (1, 1), "usage": (1, 1), "env": (1, 1), "export": (1, None),
    "start": (2, None), "stop": (2, None), "emits": (1, None), "expect": (1, 1), "task": (0, 0), "kill": (2, 2), "respawn": (0, 3),
    "normal": (2, None), "console": (1, 1), "umask": (1, 1), "nice": (1, 1), "oom": (1, 2), "limit": (3, 3), "chroot": (1, 1),
    "chdir": (1, 1), "session": (0, 0), "service": (0, 0), "setuid": (1, 1), "setgid": (1, 1), "debug": (1, 1), "manual": (0, 0),
    "reload": (2, 2), "apparmor": (2, 2), "cgroup": (1, None),
}  # fmt: skip
_PROCESSES = ("pre-start", "post-start", "pre-stop", "post-stop")
_WORDS: dict[str, tuple[str, ...]] = {
    "start": ("on",),
    "stop": ("on",),
    "expect": ("fork", "daemon", "stop", "none"),
    "console": ("none", "output", "owner", "log", "default"),
    "kill": ("timeout", "signal"),
    "normal": ("exit",),
    "reload": ("signal",),
    "apparmor": ("load", "switch"),
}
_TOKEN = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')+""", re.DOTALL)


class Stanza(NamedTuple):
    """One stanza: its words (for a script, up to the word `script`), and the line of the file that it begins on, from 1."""

    words: tuple[str, ...]
    line: int


def stanzas_of(text: str) -> set[str]:
    """Return the names of the stanzas in a job's file that `check_stanzas` has passed."""
    return {stanza.words[0] for stanza in _parse(text, "")}


def check_stanzas(text: str, path: str) -> None:
    """Raise PreflightError, with `path` and a line number, unless every version of Upstart would take `text` for a job's file."""
    for stanza in _parse(text, path):
        name, arguments = stanza.words[0], stanza.words[1:]
        if name in _PROCESSES or name in ("exec", "script"):
            _check_process(stanza, path)
            continue
        if name not in _ARGUMENTS:
            raise _bad(path, stanza.line, f"there is no stanza {name!r}")
        least, most = _ARGUMENTS[name]
        if len(arguments) < least or (most is not None and len(arguments) > most):
            raise _bad(path, stanza.line, f"{name} has {len(arguments)} arguments")
        if name in _WORDS and arguments[0] not in _WORDS[name]:
            raise _bad(path, stanza.line, f"{name} cannot be {arguments[0]!r}")
        if name in ("start", "stop") and sum(word.count("(") - word.count(")") for word in arguments) != 0:
            raise _bad(path, stanza.line, "a parenthesis has no counterpart")


def _check_process(stanza: Stanza, path: str) -> None:
    words = stanza.words if stanza.words[0] in ("exec", "script") else stanza.words[1:]
    if not words or words[0] not in ("exec", "script"):
        raise _bad(path, stanza.line, f"{stanza.words[0]} is followed by neither exec nor script")
    if words[0] == "exec" and len(words) < 2:
        raise _bad(path, stanza.line, "exec of nothing")
    if words[0] == "script" and len(words) > 1:
        raise _bad(path, stanza.line, "something stands after script")


def _parse(text: str, path: str) -> Iterator[Stanza]:
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        first, line = number + 1, lines[number]
        number += 1
        # A backslash at its end continues a line, and so does a parenthesis that is open (libnih's configuration files).
        while number < len(lines) and (line.endswith("\\") or _open(line)):
            line = (line[:-1] if line.endswith("\\") else line) + " " + lines[number]
            number += 1
        words = _words(line, path, first)
        if not words:
            continue
        yield Stanza(words, first)
        if words[-1] == "script" and words[0] in (*_PROCESSES, "script") and len(words) <= 2:
            while number < len(lines) and lines[number].split() != ["end", "script"]:
                number += 1
            if number == len(lines):
                raise _bad(path, first, "the script has no `end script`")
            number += 1


def _open(line: str) -> bool:
    words = line.split()
    return bool(words) and words[0] in ("start", "stop") and line.split("#")[0].count("(") > line.split("#")[0].count(")")


def _words(line: str, path: str, number: int) -> tuple[str, ...]:
    words: list[str] = []
    position = 0
    while True:
        position += len(line[position:]) - len(line[position:].lstrip())
        if position >= len(line) or line[position] == "#":
            return tuple(words)
        match = _TOKEN.match(line, position)
        if not match:
            raise _bad(path, number, "a quotation mark has no counterpart")
        words.append(match.group())
        position = match.end()
        if position < len(line) and not line[position].isspace():
            raise _bad(path, number, "a quotation mark has no counterpart")


def _bad(path: str, line: int, what: str) -> PreflightError:
    return PreflightError(
        f"{path}:{line}: {what}; Upstart may ignore the whole file", hint="see init(5), and `init-checkconf` where there is one"
    )
