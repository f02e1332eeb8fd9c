"""The `cowroot` command: finds the verb, runs it, and turns every failure into one line, a hint and an exit code.

A verb's module is imported only when that verb is asked for: starting up is most of what a short command costs, and a boot runs some.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from cowroot import __version__
from cowroot.errors import CowrootError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

INTERRUPTED = 130


class Verb(NamedTuple):
    """A command: its name, the module that holds it as `command`, and what it does in a line."""

    name: str
    module: str
    help: str


# In the order in which a new user meets them.
VERBS: tuple[Verb, ...] = (
    Verb("install", "cowroot.cli.install", "Make an image or a system boot copy-on-write."),
    Verb("uninstall", "cowroot.cli.uninstall", "Undo an installation, to the byte."),
    Verb("status", "cowroot.cli.status", "Say whether / is a union, and as configured."),
    Verb("usage", "cowroot.cli.usage", "Show what fills the upper, and who wrote it."),
    Verb("watch", "cowroot.cli.watch", "Tell in time when the upper gets full."),
    Verb("doctor", "cowroot.cli.doctor", "Find out what would go wrong at the next boot."),
    Verb("chroot", "cowroot.cli.chroot", "Run a command, or a shell, on the real root."),
    Verb("thaw", "cowroot.cli.thaw", "Have the next boots without a union, to change the disk."),
    Verb("reset", "cowroot.cli.reset", "Have the upper emptied at the next boot."),
    Verb("render", "cowroot.cli.render", "Show the files that an installation would add."),
    Verb("mount", "cowroot.cli.mount", "Mount a union of directories."),
    Verb("daemon", "cowroot.cli.daemon", "Restart a union's daemon, with all that is open."),
    Verb("check", "cowroot.cli.check", "Check an upper layer, and repair it."),
    Verb("complete", "cowroot.cli.complete", "Make an upper stand for itself, for other overlayfs."),
    Verb("config", "cowroot.cli.config", "Check and show the settings."),
)

_EXAMPLES = """\
\b
Examples:
  cowroot install --image appliance.img   make an image boot copy-on-write
  cowroot status                          is / a union, and as configured?
  cowroot config check                    is cowroot.yaml right?

\b
Exit codes, for every command (status has more):
  0 fine   1 other failure   2 usage or settings   3 unusable target
  4 something that a boot needs is missing   5 conflict   6 mount failed
"""


class VerbGroup(click.Group):
    """The verbs of `VERBS`, each imported when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb.name for verb in VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for verb in VERBS:
            if verb.name == cmd_name:
                command: click.Command = importlib.import_module(verb.module).command
                return command
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], names, n=1)
            hint = f"did you mean `cowroot {close[0]}`?" if close else f"the commands are {', '.join(names)}"
            raise UnknownVerb(f"there is no command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click's, without importing every module for its help."""
        from click.shell_completion import CompletionItem

        verbs = [CompletionItem(verb.name, help=verb.help) for verb in VERBS if verb.name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table: click would import every module to ask it for its help."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name, verb.help) for verb in VERBS])


class UnknownVerb(CowrootError):
    """What stands where a command should is none."""

    exit_code = 2


@click.group(cls=VerbGroup, epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Turn a Linux image into an appliance: / becomes a copy-on-write union, and the disk below it stays as it is, byte for byte.

    `cowroot COMMAND --help` says more about each command.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cowroot` with the arguments `argv` (without the program's name; by default the process's own). The exit code."""
    if "_COWROOT_COMPLETE" in os.environ:  # a shell's question, which click answers
        importlib.import_module("cowroot.cli.completion")
    return run(cli, sys.argv[1:] if argv is None else argv, "cowroot")


def run(command: click.Command, argv: Sequence[str], program: str) -> int:
    """Run a click command as a program called `program`. The exit code; what a command returns as a whole number is its own.

    Whatever goes wrong ends here, as one line on stderr that begins with the program's name, and a hint where there is one.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may hold any bytes, and a locale may lack letters that our texts have. Neither is a reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result: Any = command.main(list(argv), prog_name=program, standalone_mode=False)
        # Here and not at exit, where Python could only complain about a reader that has gone.
        if sys.stdout is not None:  # as it is where the descriptor was closed before
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CowrootError as error:
        return _fail(program, error.message, error.hint, error.exit_code)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else program
        return _fail(program, _lower_first(error.format_message()), f"see `{path} --help`", 2)
    except click.ClickException as error:
        return _fail(program, error.format_message(), "", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        _let_go_of_output()  # whoever read it has seen enough
        return 1
    except Exception as error:
        _let_go_of_output()
        if os.environ.get("COWROOT_TRACEBACK"):
            traceback.print_exc()
        name = type(error).__name__
        text = " ".join(str(error).split())
        hint = "run it again with COWROOT_TRACEBACK=1 in the environment to see where it comes from"
        return _fail(program, f"unexpected {name}: {text}" if text else f"unexpected {name}", hint, 1)


def _let_go_of_output() -> None:
    """What cannot be written is given up. Python would try once more at exit, and then have an exit code of its own."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(program: str, message: str, hint: str, code: int) -> int:
    click.echo(f"{program}: error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")
