"""Writes man/: one page for `cowroot`, one for each verb, and cowroot.yaml(5), from the commands' help and the table of settings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from cowroot import __version__, errors
from cowroot.cli.main import VERBS, cli
from cowroot.config import DEFAULT_PATH, SECTIONS, Config, Setting, settings_below

FOLDER = Path(__file__).resolve().parents[1] / "man"

# When what the pages say last changed in a way that a reader should know of; goes up with a release.
DATE = "2026-11-20"


def pages() -> dict[str, str]:
    """Every page by the name of its file."""
    context = click.Context(cli, info_name="cowroot", **cli.context_settings)
    written = {"cowroot.1": _main_page(context), "cowroot.yaml.5": _settings_page()}
    for verb in VERBS:
        command = cli.get_command(context, verb.name)
        assert command is not None, f"{verb.module} has no command"
        written[f"cowroot-{verb.name}.1"] = _verb_page(command, click.Context(command, info_name=verb.name, parent=context), verb.help)
    return written


def _main_page(context: click.Context) -> str:
    page = _Page("cowroot", 1, "boot a Linux image copy-on-write from a read-only disk")
    page.section("SYNOPSIS")
    page.line(r"\fBcowroot\fR [\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]")
    page.section("DESCRIPTION")
    page.help(cli.help or "")
    page.section("COMMANDS")
    for verb in VERBS:
        page.item(f"\\fBcowroot {verb.name}\\fR", f"{verb.help} See {{cowroot-{verb.name}(1)}}.")
    page.options(cli, context)
    page.section("EXIT STATUS")
    page.item(r"\fB0\fR", "All is well.")
    for code, meaning in _exit_codes():
        page.item(f"\\fB{code}\\fR", meaning)
    page.section("ENVIRONMENT")
    page.item(r"\fBCOWROOT_TRACEBACK\fR", "If set, an unexpected failure also prints where in the program it happened.")
    page.section("FILES")
    page.item(rf"\fI{DEFAULT_PATH}\fR", "The settings, see {cowroot.yaml(5)}.")
    page.see_also(*(f"cowroot-{verb.name}(1)" for verb in VERBS), "cowroot.yaml(5)")
    return page.text()


def _verb_page(command: click.Command, context: click.Context, summary: str) -> str:
    page = _Page(f"cowroot-{context.info_name}", 1, summary[0].lower() + summary[1:].rstrip("."))
    page.section("SYNOPSIS")
    if isinstance(command, click.Group):
        for name, child, below in _children(command, context):
            page.line(_synopsis(f"cowroot {context.info_name} {name}", child, below), broken=True)
    else:
        page.line(_synopsis(f"cowroot {context.info_name}", command, context))
    page.section("DESCRIPTION")
    page.help(command.help or "")
    if isinstance(command, click.Group):
        for name, child, below in _children(command, context):
            page.subsection(f"cowroot {context.info_name} {name}")
            page.help(child.help or "")
            page.options(child, below, below_verb=True)
    else:
        page.options(command, context)
    page.help(command.epilog or "")
    page.see_also("cowroot(1)", "cowroot.yaml(5)")
    return page.text()


def _settings_page() -> str:
    page = _Page("cowroot.yaml", 5, "settings of cowroot")
    page.section("SYNOPSIS")
    page.line(rf"\fI{DEFAULT_PATH}\fR")
    page.section("DESCRIPTION")
    page.help(
        "What / consists of, as YAML. What the file does not name has its default. An unknown key, one that stands there twice, a value of "
        "the wrong type or one that cannot be is an error, and then nothing is changed: `cowroot config check` finds them.\n\n"
        "Most settings have a kernel parameter too, which overrides the file for one boot: `cowroot=off` boots the real root. Of several "
        "the last one wins. A list is written with commas, a value with a space in double quotes.\n\n"
        "The initrd holds a copy of the settings: after a change, run `update-initramfs -u -k all`."
    )
    page.section("SETTINGS")
    for setting in settings_below(""):
        page.setting(setting)
    for section in SECTIONS:
        page.subsection(f"Below {section.key}:")
        page.help(section.doc)
        for setting in settings_below(section.key):
            page.setting(setting)
    page.section("EXAMPLE")
    page.help("Every setting with its default:")
    page.verbatim(line for line in Config.default().to_yaml().splitlines() if line.strip() and not line.lstrip().startswith("#"))
    page.see_also("cowroot(1)", "cowroot-config(1)")
    return page.text()


def _exit_codes() -> Iterator[tuple[int, str]]:
    meanings: dict[int, list[str]] = {}

    def collect(kind: type[errors.CowrootError]) -> None:
        if kind.exit_code not in meanings:
            meanings[kind.exit_code] = [(kind.__doc__ or "").split("\n")[0]]
        for each in kind.__subclasses__():
            if each.__module__ == errors.__name__:
                collect(each)

    collect(errors.CowrootError)
    meanings[1] = ["A failure for which there is no other number."]
    meanings[2].append("Or the command line is wrong.")
    return ((code, " ".join(meanings[code])) for code in sorted(meanings))


def _children(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    for name in group.list_commands(context):
        child = group.get_command(context, name)
        if child is not None and not child.hidden:
            yield name, child, click.Context(child, info_name=name, parent=context)


def _synopsis(words: str, command: click.Command, context: click.Context) -> str:
    pieces = " ".join(_argument(piece) for piece in command.collect_usage_pieces(context))
    return f"\\fB{_escape(words)}\\fR {pieces}"


def _argument(piece: str) -> str:
    return re.sub(r"[A-Z][A-Z_]*", lambda match: f"\\fI{match[0]}\\fR", _escape(piece))


def _escape(text: str) -> str:
    """Text as roff takes it: backslashes, hyphens that are meant as such, and what is not ASCII."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "".join(each if ord(each) < 128 else f"\\[u{ord(each):04X}]" for each in text)


def _inline(text: str) -> str:
    """A paragraph: `code` in bold, {page(1)} as a reference."""
    text = _escape(text)
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return re.sub(r"\{([^}()]+)(\([15]\))\}", r"\\fB\1\\fR\2", text)


class _Page:
    """A manual page in the making."""

    def __init__(self, name: str, number: int, summary: str) -> None:
        self._lines = [
            r".\" Written by `make man` from the commands' help and the table of settings.",
            f'.TH {name.upper()} {number} {DATE} "cowroot {__version__}" "cowroot manual"',
        ]
        self.section("NAME")
        self.line(f"{_escape(name)} \\- {_escape(summary)}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def section(self, title: str) -> None:
        self._lines.append(f".SH {title}")

    def subsection(self, title: str) -> None:
        self._lines.append(f'.SS "{_escape(title)}"')

    def line(self, text: str, broken: bool = False) -> None:
        """A line of roff that is ready; `broken`: the next one begins a new line in the output too."""
        if broken and self._lines[-1][:3] != ".SH":
            self._lines.append(".br")
        self._lines.append(text)

    def item(self, term: str, text: str) -> None:
        self._lines += [".TP", term, *_fill(text)]

    def setting(self, setting: Setting) -> None:
        self.item(f"\\fB{_escape(setting.key)}\\fR", setting.doc)
        text = setting.kind.write(setting.default)
        default = f"`{text}`" if text else "none"
        facts = [f"Value: {setting.kind.describe()}", f"Default: {default}"]
        if setting.parameter:
            facts.append(f"Kernel parameter: `{setting.parameter}=`")
        for fact in facts:
            self._lines += [".br", *_fill(fact)]

    def help(self, text: str) -> None:
        """Help as click has it: paragraphs, and those that begin with a backspace character as they stand."""
        for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
            if paragraph.strip().startswith("\b"):
                self.verbatim(paragraph.replace("\b", "").strip("\n").splitlines())
            elif paragraph.strip():
                if self._lines[-1][:3] not in (".SH", ".SS"):
                    self._lines.append(".PP")
                self._lines += _fill(" ".join(paragraph.split()))

    def verbatim(self, lines: Iterator[str] | list[str]) -> None:
        self._lines += [".PP", ".nf", *(_protect(_escape(line)) for line in lines), ".fi"]

    def options(self, command: click.Command, context: click.Context, below_verb: bool = False) -> None:
        """The options in a section of their own; or, of a command below a verb, without one and without --help, which all have."""
        parameters = command.params if below_verb else command.get_params(context)
        records = [record for each in parameters if (record := each.get_help_record(context))]
        if records and not below_verb:
            self.section("OPTIONS")
        for names, text in records:
            self.item(re.sub(r"(\\-[-\\a-z]+)", r"\\fB\1\\fR", _argument(names)), text)

    def see_also(self, *names: str) -> None:
        self.section("SEE ALSO")
        pages = [re.sub(r"(.*)(\(\d\))", r"\\fB\1\\fR\2", _escape(name)) for name in sorted(names)]
        self._lines.append(", ".join(pages))


def _protect(line: str) -> str:
    """A line of text that begins like a request is still text."""
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _fill(text: str) -> list[str]:
    """A paragraph in lines that people who read the source, and `mandoc -T lint`, can bear."""
    lines = textwrap.wrap(_inline(text), width=78, break_long_words=False, break_on_hyphens=False)
    return [_protect(line) for line in lines]


def write() -> None:
    """Write every page, and remove those of commands that are gone."""
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for stale in {file.name for file in FOLDER.iterdir()} - set(written):
        (FOLDER / stale).unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    write()
