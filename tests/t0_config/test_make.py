"""The make targets: listed, and climbing every rung."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def _make(*arguments: str) -> str:
    # Not the variables of the `make test` that perhaps runs this.
    run = subprocess.run(
        ["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "-u", "MFLAGS", "make", "--no-print-directory", *arguments],
        cwd=TOP,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return run.stdout.decode()


def test_make_alone_lists_every_target() -> None:
    targets = re.findall(r"^\.PHONY: (\S+)$", (TOP / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  make (\S+) +\S", _make(), re.MULTILINE) == targets


def test_the_ladder_has_every_folder_with_tests_fast_to_slow() -> None:
    folders = {f"{file.parent.relative_to(TOP)}/" for file in (TOP / "tests").rglob("test_*.py")}
    climbed = re.search(r"for rung in (.*?) ?;", _make("--dry-run", "test"))
    assert climbed
    rungs = climbed[1].split()
    assert set(rungs) == folders
    numbered = [rung for rung in rungs if rung != "tests/behaviour/"]
    assert numbered == sorted(numbered)


def test_the_list_of_packages_is_sorted() -> None:
    names = (TOP / "tests/packages.txt").read_text().split()
    assert names == sorted(set(names))
