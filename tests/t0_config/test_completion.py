"""Pressing Tab: what cowroot answers a shell, and what bash, zsh and fish make of it, each on a terminal of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pexpect
import pytest

from cowroot.cli.main import VERBS
from cowroot.fuse.options import DIRECTORIES, ENGINES, MountOptions

TOP = Path(__file__).resolve().parents[2]
SCRIPTS = TOP / "completions"


def _ask(line: str, **environment: str) -> list[list[str]]:
    """The candidates for the end of a command line: kind, value, help."""
    done = subprocess.run(
        [sys.executable, "-m", "cowroot"],
        env={**os.environ, "_COWROOT_COMPLETE": "line_complete", "COMP_LINE": line, **environment},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        text=True,
    )
    return [each.split("\t") for each in done.stdout.splitlines() if each]


def _values(line: str, **environment: str) -> list[str]:
    return [value for _, value, _ in _ask(line, **environment)]


def test_verbs_come_with_their_help() -> None:
    assert _ask("cowroot ") == [["plain", verb.name, verb.help] for verb in VERBS]
    assert _values("cowroot un") == ["uninstall"]


def test_which_verb_is_asked_for_imports_none_of_them() -> None:
    script = "import sys, cowroot.cli.main as m\ntry: m.main([])\nfinally: print(sorted(sys.modules), file=sys.stderr)"
    environment = {**os.environ, "_COWROOT_COMPLETE": "line_complete", "COMP_LINE": "cowroot inst"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.startswith("plain\tinstall\t")
    assert not set(eval(run.stderr)) & {"yaml", "jinja2", *(verb.module for verb in VERBS)}


def test_options_and_kinds_of_arguments() -> None:
    assert "--image" in _values("cowroot install --")
    assert _ask("cowroot install --image /x") == [["file", "/x", ""]]
    assert _ask("cowroot install --image '/a b") == [["file", "/a b", ""]]
    assert _ask("cowroot mount ") == [["dir", "", ""]]
    assert _values("cowroot config ch") == ["check"]


def test_every_mount_option_that_is_offered_is_one() -> None:
    for word in _values("cowroot mount -o "):
        value = {"engine=": "auto", "protocol=": "7.31", "reserve=": "1%", "whiteouts=": "oci", "metacopy=": "on"}.get(word)
        if value is None:
            value = "on" if word in ("low_latency=", "lock_memory=") else "x"
        MountOptions.parse(f"lowerdir=/,upperdir=/u,workdir=/w,{word}{value if word.endswith('=') else ''}")


def test_values_of_mount_options(tmp_path: Path) -> None:
    for name in ("one", "other", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert _values("cowroot mount -o ro,engine=") == [f"ro,engine={each}" for each in ENGINES]
    assert _values("cowroot mount -o whiteouts=oci:ov") == ["whiteouts=oci:overlay"]
    for option in DIRECTORIES:
        assert _values(f"cowroot mount -o {option}={tmp_path}/") == [f"{option}={tmp_path}/{each}/" for each in ("one", "other")]
    assert _values(f"cowroot check --lower /:{tmp_path}/.") == [f"/:{tmp_path}/.hidden/"]
    assert _values("cowroot mount -o lowerdir=/nowhere/") == []


def test_values_of_kernel_parameters() -> None:
    assert "cowroot.engine=" in _values("cowroot config show --cmdline cowroot.e")
    assert _values("cowroot config show --cmdline cowroot.engine=d") == ["cowroot.engine=direct"]


def test_only_what_the_shell_replaces_is_answered() -> None:
    """bash takes words apart at = and :."""
    assert _values("cowroot mount -o ro,engine=d", COMP_WORD="d") == ["direct"]
    assert _values("cowroot mount -o engine=", COMP_WORD="") == list(ENGINES)
    assert _values("cowroot config show --cmdline=cowroot.engine=d", COMP_WORD="d") == ["direct"]


Shell = Callable[[Path], tuple[list[str], str]]
"""For a directory that is its: the command that starts it, and what it is told first."""


def _bash(home: Path) -> tuple[list[str], str]:
    return ["bash", "--norc", "--noprofile", "-i"], f"source {shlex.quote(str(SCRIPTS))}/cowroot.bash"


def _zsh(home: Path) -> tuple[list[str], str]:
    (home / "_cowroot").symlink_to(SCRIPTS / "cowroot.zsh")
    return ["zsh", "-f", "-i"], f"bindkey -e; fpath=({shlex.quote(str(home))} $fpath); autoload -Uz compinit; compinit -u -D"


def _fish(home: Path) -> tuple[list[str], str]:
    return ["fish", "--no-config", "-i"], f"source {shlex.quote(str(SCRIPTS))}/cowroot.fish"


@pytest.mark.parametrize("shell", [_bash, _zsh, _fish], ids=["bash", "zsh", "fish"])
def test_tab_in_a_shell(shell: Shell, tmp_path: Path) -> None:
    command, setup = shell(tmp_path)
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    work = tmp_path / "work"
    (work / "upper").mkdir(parents=True)
    (work / "disk.img").touch()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }
    terminal = pexpect.spawn(command[0], command[1:], cwd=work, env=environment, timeout=60, encoding="utf-8", dimensions=(24, 400))
    try:
        terminal.sendline(setup)
        # What Tab leaves on the line becomes the arguments of an echo.
        for typed, wanted in (
            ("unin", "cowroot uninstall"),
            ("install --ima", "cowroot install --image"),
            ("install --image dis", "cowroot install --image disk.img"),
            ("mount -o engine=di", "cowroot mount -o engine=direct"),
            ("mount -o ro,upperdir=up", "cowroot mount -o ro,upperdir=upper/"),
            ("config show --cmdline=cowroot.engine=di", "cowroot config show --cmdline=cowroot.engine=direct"),
            ("mount upp", "cowroot mount upper/"),
        ):
            terminal.send(f"cowroot {typed}\t")
            terminal.send("\x01echo '<<' \x05 '>>'\r")
            terminal.expect(r"\r\n[^\r\n]*<< (.*?)\s*>>")
            answer = terminal.match
            assert isinstance(answer, re.Match)
            assert answer[1].removesuffix("/") == wanted.removesuffix("/")  # zsh takes one off at the next space
    finally:
        terminal.close(force=True)
