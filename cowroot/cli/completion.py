"""How a word of the command line may end: what the scripts in completions/ ask when somebody presses Tab.

They call `cowroot` with `_COWROOT_COMPLETE=line_complete` and get one line for each candidate: kind (`plain`, or `file` and `dir`, which
the shell completes itself), value and help, separated by tabs. click finds the parameter; the functions here know the values.
"""

from __future__ import annotations

import os
import shlex

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class


@add_completion_class
class LineComplete(ShellComplete):
    """The same questions and answers for every shell.

    COMP_LINE: the command line up to the cursor. COMP_WORD: where the shell replaces less than the last word of it (bash, which parts words
    at = and :), what it replaces; candidates then go without what stands before.
    """

    name = "line"
    source_template = ""  # the scripts are files of their own
    _word = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        words = _words(line)
        self._word = "" if line[-1:].isspace() or len(words) < 2 else words.pop()
        return words[1:], self._word

    def format_completion(self, item: CompletionItem) -> str:
        word = self._word
        if not str(item.value).startswith(word):  # click has taken --OPTION= off
            word = word.partition("=")[2]
        part = os.environ.get("COMP_WORD", word)
        skip = len(word) - len(part) if word.endswith(part) else 0
        return f"{item.type}\t{item.value[skip:]}\t{item.help or ''}"


def _words(line: str) -> list[str]:
    """The words of a command line that is not complete: its last quote may still be open."""
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:
        words.append(lexer.token)
    return words


def directory(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A directory, which the shell itself completes."""
    return [CompletionItem(incomplete, type="dir")]


def directories(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Directories separated by colons."""
    return _directories(incomplete, incomplete.rpartition(":")[2])


def mount_options(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What follows -o, option by option."""
    from cowroot.fuse.options import DIRECTORIES, ENGINES, FLAGS, ON_OFF, SWITCHES, WHITEOUTS, WITH_VALUE

    option = incomplete.rpartition(",")[2]
    name, given, value = option.partition("=")
    if not given:
        names = [*(f"{each}=" for each in (*WITH_VALUE, *ON_OFF)), *SWITCHES, *FLAGS]
        return _ending(incomplete, option, names)
    if name in DIRECTORIES:
        return _directories(incomplete, value.rpartition(":")[2] if name == "lowerdir" else value)
    values = {"engine": ENGINES, "whiteouts": WHITEOUTS, **dict.fromkeys(ON_OFF, ("on", "off"))}
    return _ending(incomplete, value.rpartition(":")[2], values.get(name, ()))


def kernel_parameter(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A setting as a kernel parameter."""
    from cowroot.config import SETTINGS

    name, given, value = incomplete.partition("=")
    known = {each.parameter: each for each in SETTINGS if each.parameter}
    if given:
        choices = known[name].choices if name in known else ()
        return [CompletionItem(each) for each in _ending(incomplete, value, choices)]
    return [CompletionItem(f"{each}=", help=known[each].doc.split(". ")[0]) for each in known if each.startswith(name)]


def _ending(incomplete: str, part: str, candidates: tuple[str, ...] | list[str]) -> list[str]:
    """Those of the candidates that `part`, the end of `incomplete`, begins; each with what stands before it."""
    head = incomplete[: len(incomplete) - len(part)]
    return [head + each for each in candidates if each.startswith(part)]


def _directories(incomplete: str, part: str) -> list[str]:
    parent, slash, begun = part.rpartition("/")
    place = os.path.expanduser(parent) or slash or "."
    try:
        names = os.listdir(place)
    except OSError:
        return []
    found = [each for each in sorted(names) if each.startswith(begun) and (begun or each[0] != ".") and os.path.isdir(f"{place}/{each}")]
    return _ending(incomplete, part, [f"{parent}{slash}{each}/" for each in found])
