"""`cowroot usage`: what fills the upper, and who wrote it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cowroot.fuse.writers import MOST_FILES, Writers, unit_in
from tests.t4_mounted.mounted import Stage, cowroot

WRITE = "import sys; open(sys.argv[1], 'r+b' if sys.argv[3:] else 'wb').write(bytes(int(sys.argv[2])))"


def write(command: Path, path: Path, size: int, *how: str) -> None:
    subprocess.run([command, "-I", "-S", "-c", WRITE, path, str(size), *how], check=True)


@pytest.fixture(params=["direct", "fusepy"])
def point(stage: Stage, request: pytest.FixtureRequest) -> Path:
    (stage.lower / "below").write_bytes(bytes(50_000))
    (stage.lower / "large").write_bytes(os.urandom(4 << 20))
    (stage.lower / "gone").touch()
    return stage.mount(f"engine={request.param}")


def asked(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cowroot("usage", "--json", *arguments).stdout)
    return found


def test_paths_and_writers(stage: Stage, point: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        shutil.copy(os.path.realpath(sys.executable), tmp_path / name)
    (point / "d/e").mkdir(parents=True)
    write(tmp_path / "one", point / "d/e/big", 3 << 20)
    write(tmp_path / "one", point / "d/small", 8192)
    write(tmp_path / "other", point / "below", 10, "within")  # copies it up
    write(tmp_path / "other", point / "large", 4096, "within")  # a block of it
    (point / "gone").unlink()
    found = asked(point)
    sizes = {os.path.relpath(place["path"], point): place["bytes"] for place in found["paths"]}
    assert list(sizes)[:2] == ["d/e/big", "below"]
    assert sizes["d/e/big"] == 3 << 20
    assert 4096 <= sizes["large"] < 65536  # what was copied of it
    assert "d" not in sizes  # nearly all of it is in one file
    assert (found["total"]["files"], found["total"]["whiteouts"]) == (4, 1)
    writers = {writer["command"]: writer for writer in found["writers"]}
    assert writers["one"]["files"] == 2 and writers["one"]["bytes"] >= 3 << 20
    assert writers["other"]["files"] == 2 and writers["other"]["bytes"] < 1 << 20
    # a directory alone, for people
    text = cowroot("usage", point / "d", "-n", "1").stdout
    assert "3.0 MiB" in text and "one" in text and "other" not in text
    # the last who opens a file for writing
    write(tmp_path / "other", point / "d/e/big", 1, "within")
    assert asked(point / "d/e")["writers"][0]["command"] == "other"


def test_what_was_removed_but_is_open(stage: Stage, point: Path) -> None:
    with (point / "log").open("wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        (point / "log").unlink()
        assert asked(point)["removed"]["bytes"] == 1 << 20
        assert "removed, but still open: 1.0 MiB" in cowroot("usage", point).stdout


def test_elsewhere(tmp_path: Path) -> None:
    done = cowroot("usage", tmp_path, check=False)
    assert done.returncode == 1 and "is not in a union" in done.stderr


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/ssh.service\n", "ssh.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service/inner\n", "x.service"),
        ("12:pids:/other.service\n1:name=systemd:/system.slice/cron.service\n", "cron.service"),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_the_unit(cgroups: str, unit: str) -> None:
    assert unit_in(cgroups) == unit


def test_memory_has_a_bound() -> None:
    writers = Writers()
    for ino in range(3 * MOST_FILES):
        writers.note(ino, os.getpid() if ino % 2 else 0)
    files = [number for numbers in writers.answer(1)["files"] for number in numbers.split()]
    assert MOST_FILES // 2 < len(files) <= MOST_FILES
    assert f"{3 * MOST_FILES - 1:x}" in files
