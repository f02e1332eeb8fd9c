"""The command line: finding the verb, telling what went wrong, and `cowroot config`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cowroot import __version__
from cowroot.cli.main import VERBS, main, run
from cowroot.config import SETTINGS, Config
from cowroot.errors import ConflictError

COWROOT = [sys.executable, "-m", "cowroot"]


def test_the_table_of_verbs_is_the_modules_that_hold_a_command() -> None:
    folder = Path(sys.modules["cowroot.cli.main"].__file__ or "").parent
    holders = {f"cowroot.cli.{file.stem}" for file in folder.glob("*.py") if "\ndef command(" in file.read_text()}
    assert holders == {verb.module for verb in VERBS}


def test_help_lists_every_verb_and_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert f"  {verb.name} " in out
        assert verb.help in " ".join(out.split())
    assert "Examples:" in out
    assert "Exit codes" in out


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: cowroot {verb} ")
    assert "\\b" not in out, "click's mark for a block as it stands is a backspace character, not two characters"
    assert err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cowroot {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "err"),
    [
        (["confg"], "cowroot: error: there is no command 'confg'\nhint: did you mean `cowroot config`?\n"),
        (["--frob"], "cowroot: error: no such option: --frob\nhint: see `cowroot --help`\n"),
        (["config", "check", "a", "b"], "cowroot: error: got unexpected extra argument (b)\nhint: see `cowroot config check --help`\n"),
    ],
)
def test_wrong_usage(argv: list[str], err: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr() == ("", err)


def _failing(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


def test_a_known_failure_is_a_message_a_hint_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_failing(ConflictError("somebody is at work", hint="wait")), [], "mount.fuse.cowroot") == 5
    assert capsys.readouterr() == ("", "mount.fuse.cowroot: error: somebody is at work\nhint: wait\n")


def test_an_unknown_failure_is_one_line_and_the_way_to_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COWROOT_TRACEBACK", raising=False)
    assert run(_failing(ValueError("two\nlines")), [], "cowroot") == 1
    err = capsys.readouterr().err
    assert err.splitlines() == [
        "cowroot: error: unexpected ValueError: two lines",
        "hint: run it again with COWROOT_TRACEBACK=1 in the environment to see where it comes from",
    ]
    monkeypatch.setenv("COWROOT_TRACEBACK", "1")
    assert run(_failing(ValueError("two\nlines")), [], "cowroot") == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_failing(KeyboardInterrupt()), [], "cowroot") == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_number_that_a_command_returns_or_exits_with_is_the_exit_code() -> None:
    @click.command()
    def returns() -> int:
        return 11

    @click.command()
    @click.pass_context
    def exits(ctx: click.Context) -> None:
        ctx.exit(12)

    assert run(returns, [], "cowroot") == 11
    assert run(exits, [], "cowroot") == 12


@pytest.mark.parametrize("arguments", [["config", "default"], ["--help"]])
def test_a_reader_that_goes_away_is_no_news(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        run = subprocess.run([*COWROOT, *arguments], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(write)
    assert (run.returncode, run.stderr) == (1, b"")


def test_output_that_nobody_takes() -> None:
    run = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *COWROOT, "config", "default"], stderr=subprocess.PIPE, check=False, timeout=60)
    assert (run.returncode, run.stderr) == (0, b"")
    with open("/dev/full", "wb") as full:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        command = [*COWROOT, "config", "default"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60, env=buffered)
    assert run.returncode == 1
    assert run.stderr.startswith(b"cowroot: error: unexpected OSError: [Errno 28] No space left on device\n")


def test_any_name_of_a_file_can_be_told(tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/caf\xe9.yaml"
    Path(os.fsdecode(file)).touch()
    run = subprocess.run([*COWROOT, "config", "check", file], capture_output=True, check=False, timeout=60)
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.endswith(b"/caf\\udce9.yaml: fine\n")


def test_starting_up_imports_neither_yaml_nor_jinja2_nor_any_verb() -> None:
    script = "import sys, cowroot.cli.main as m; m.main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(eval(run.stderr))
    assert not loaded & {"yaml", "jinja2", "fuse", *(verb.module for verb in VERBS)}


def test_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("engine: fusepy\n")
    assert main(["config", "check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: fine\n", "")
    file.write_text("\nupper:\n  sise: 1G\n")
    assert main(["config", "check", str(file)]) == 2
    assert capsys.readouterr() == ("", f"cowroot: error: {file}:3: unknown setting 'upper.sise'\nhint: did you mean size?\n")
    assert main(["config", "check", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err


def test_config_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("engine: fusepy\n")
    arguments = ["config", "show", str(file), "--cmdline", "quiet cowroot.size=512M"]
    assert main(arguments) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [setting.key for setting in SETTINGS]
    assert ["engine", "fusepy", f"{file}:1"] in rows
    assert ["upper.size", "512M", "cowroot.size="] in rows
    assert ["on_failure", "tmpfs,read-only,shell", "default"] in rows
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["upper.size"] == {"value": "512M", "source": "cowroot.size="}
    assert shown["upper.wait"] == {"value": 30, "source": "default"}
    assert shown["on_failure"]["value"] == ["tmpfs", "read-only", "shell"]
    assert shown["enabled"]["value"] is True


def test_config_show_names_a_bad_parameter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").touch()
    assert main(["config", "show", str(tmp_path / "c.yaml"), "--cmdline", "cowroot.wait=soon"]) == 2
    assert capsys.readouterr().err.startswith("cowroot: error: kernel parameter cowroot.wait is 'soon', not a number of seconds\n")


def test_config_default_is_a_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "default"]) == 0
    assert Config.parse(capsys.readouterr().out, "default") == Config.default()


def test_config_shell_prints_all_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text('upper:\n  device: "LABEL=it\'s"\n')
    assert main(["config", "shell", str(file)]) == 0
    assert "COWROOT_UPPER_DEVICE='LABEL=it'\\''s'\n" in capsys.readouterr().out
    file.write_text("upper:\n  device: tmpfs\n  size: 0\n")
    assert main(["config", "shell", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{file}:3: upper.size" in err
