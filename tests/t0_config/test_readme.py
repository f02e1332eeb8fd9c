"""What README and docs tell people to type is accepted by the command line as it is, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import yaml

from cowroot.cli.main import VERBS, cli
from cowroot.config import SETTINGS, Config, apply_parameters
from cowroot.errors import CowrootError
from cowroot.fuse.options import MountOptions

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLES = CHECKOUT / "docs/examples"
PAGES = sorted([CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *(CHECKOUT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_TYPED = re.compile(r"^ *(?:[#$] )?(?:sudo )?(?:\S*/)?cowroot ((?:[a-z-]).*)$")
_PARAMETER = re.compile(r"^cowroot(?:\.[a-z_-]+)?=")
_OPERATORS = {";", "|", "||", "&&", "&", ">", ">>", "<"}


class Found(NamedTuple):
    """Something to look at, and where it stands."""

    text: str
    place: str


def _blocks(page: Path) -> Iterator[tuple[str, str, int]]:
    """The fenced blocks of a page: language, content, the line where the content begins."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        yield match[2], match[3], text.count("\n", 0, match.start(3)) + 1


def _place(page: Path, line: int) -> str:
    return f"{page.relative_to(CHECKOUT)}:{line}"


def typed_commands() -> Iterator[Found]:
    for page in PAGES:
        for language, block, first in _blocks(page):
            for number, line in enumerate(block.splitlines(), first):
                match = _TYPED.match(line)
                if match and language in ("", "console", "sh"):
                    yield Found(match[1], _place(page, number))


def example_commands() -> Iterator[Found]:
    """What the examples run: in scripts, and in quotes or behind a key in the builders' own files."""
    for file in sorted(EXAMPLES.rglob("*")):
        if file.is_file() and file.name != "cowroot.yaml":
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if not line.lstrip().startswith("#"):
                    for match in re.finditer(r"(?:^|[ \"])cowroot ((?:install|doctor)\b(?:[^\",]|\"[$\w/.-]+\")*)", line):
                        yield Found(match[1], _place(file, number))


def inline_code() -> Iterator[Found]:
    for page in PAGES:
        for number, line in enumerate(_FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text()).splitlines(), 1):
            for code in re.findall(r"`([^`]+)`", line):
                yield Found(code, _place(page, number))


COMMANDS = [*typed_commands(), *example_commands()]
MENTIONED = [each for each in inline_code() if re.match(r"cowroot [a-z-]", each.text)]
PARAMETERS = [each for each in inline_code() if _PARAMETER.match(each.text) and "…" not in each.text and not each.text.endswith("=")]


def _words(line: str) -> list[str]:
    """The words of one command: up to what a shell would take for its end."""
    words = shlex.split(line, comments=True)
    return next((words[:number] for number, word in enumerate(words) if word in _OPERATORS), words)


def _parse(command: click.Command, words: list[str], parent: click.Context | None, name: str) -> click.Context:
    """Have click parse a command line, sub-commands too, and run nothing."""
    context = command.make_context(name, list(words), parent=parent)
    if isinstance(command, click.Group):
        verb, child, rest = command.resolve_command(context, [*context.protected_args, *context.args])
        assert child is not None
        assert verb is not None
        return _parse(child, rest, context, verb)
    return context


def test_there_are_commands_to_look_at() -> None:
    """The patterns above have not gone blind."""
    assert {each.text.split()[0] for each in COMMANDS} >= {"install", "mount", "status", "check", "render"}
    assert len(COMMANDS) > 15
    assert len(PARAMETERS) > 10


@pytest.mark.parametrize("found", COMMANDS, ids=lambda found: found.place)
def test_a_command_to_type_is_one(found: Found) -> None:
    words = _words(found.text)
    if words in (["--version"], ["--help"]):
        return
    try:
        context = _parse(cli, words, None, "cowroot")
    except (click.ClickException, CowrootError) as error:
        pytest.fail(f"{found.place}: cowroot {found.text}: {error}")
    options = context.params.get("options")
    if options:
        MountOptions.parse(",".join(options))


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("cowroot.yaml")), ids=lambda file: file.parent.name)
def test_the_settings_of_an_example_are_right(file: Path) -> None:
    Config.load(file)


@pytest.mark.parametrize("builder", ["debos", "live-build", "mkosi", "packer"])
def test_an_example_installs_cowroot(builder: str) -> None:
    assert [found for found in example_commands() if f"/{builder}/" in found.place and found.text.startswith("install ")]


@pytest.mark.parametrize("found", MENTIONED, ids=lambda found: f"{found.place} {found.text}")
def test_a_command_that_is_mentioned_exists(found: Found) -> None:
    words = found.text.split()[1:]
    if words[0] == "COMMAND" or words[0].startswith("-"):
        return
    verbs = {verb.name for verb in VERBS}
    assert words[0] in verbs, f"{found.place}: there is no `cowroot {words[0]}`"
    context = click.Context(cli)
    command = cli.get_command(context, words[0])
    if isinstance(command, click.Group) and words[1:]:
        command = command.get_command(context, words[1])
    assert command is not None, f"{found.place}: {found.text}"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
    for word in words[1:]:
        assert not word.startswith("-") or word in known, f"{found.place}: `cowroot {words[0]}` has no option {word}"


@pytest.mark.parametrize("found", PARAMETERS, ids=lambda found: f"{found.place} {found.text}")
def test_a_kernel_parameter_is_one(found: Found) -> None:
    if "banana" in found.text:  # the example of one that cannot be
        return
    apply_parameters(Config.default(), found.text)


def test_settings_that_are_mentioned_exist() -> None:
    keys = {setting.key for setting in SETTINGS}
    sections = {key.partition(".")[0] for key in keys if "." in key}
    for found in inline_code():
        match = re.fullmatch(rf"((?:{'|'.join(sections)})\.\w+)(?:: .*)?", found.text)
        if match:
            assert match[1] in keys, f"{found.place}: there is no setting {match[1]}"


def test_examples_of_settings_are_right() -> None:
    examples = [(block, _place(page, line)) for page in PAGES for language, block, line in _blocks(page) if language == "yaml"]
    assert examples
    for text, place in examples:
        if text.startswith("- hosts:"):
            for role in yaml.safe_load(text)[0].get("roles", []):
                Config.parse(yaml.safe_dump(role["cowroot_settings"]), place)
        else:
            Config.parse(re.sub(r"^ {3}", "", text, flags=re.MULTILINE), place)


def test_make_targets_that_are_mentioned_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    lines = [Found(line, place) for place, line in _lines_in_blocks()]
    for found in [*inline_code(), *lines]:
        match = re.match(r"make ([a-z][a-z -]*)", found.text)
        if match:
            assert set(match[1].split()) <= targets, f"{found.place}: {found.text}"


def _lines_in_blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for _, block, first in _blocks(page):
            for number, line in enumerate(block.splitlines(), first):
                yield _place(page, number), line.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.relative_to(CHECKOUT)}: {target} leads nowhere"
        if anchor and other.suffix == ".md":
            assert anchor in {_anchor(title) for title in re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)}, f"{page}: {target}"


def _anchor(title: str) -> str:
    """What GitHub and its like make of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_every_page_can_be_found() -> None:
    """The index names every page of docs/."""
    index = (CHECKOUT / "docs/README.md").read_text()
    for page in (CHECKOUT / "docs").rglob("*.md"):
        name = str(page.relative_to(CHECKOUT / "docs"))
        assert name == "README.md" or f"({name})" in index, f"docs/README.md does not name {name}"
