"""How the daemon starts: what it imports, and the form of its start that the boot script uses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fuse
import pytest

import cowroot
from cowroot.fuse.messages import as_json
from tests.t4_mounted.mounted import Stage, process_exists, run, wait_until

ENTRY = Path(cowroot.__file__).parent / "fuse/entry.py"
# Whatever of the standard library a serving daemon may have imported, on any Python from 3.9 to 3.13. Each name costs every boot
# something: what belongs here has to be needed for answering requests, or be what the interpreter and `typing` cannot do without.
NEEDED = frozenset((
    "array", "bisect", "collections.abc", "contextlib", "ctypes", "ctypes._endian", "errno", "fcntl", "gc", "itertools", "mmap", "operator",
    "os", "resource", "select", "signal", "stat", "struct", "sys", "time", "types", "typing", "_bisect", "_ctypes", "_signal", "_socket",
    "_struct", "_thread", "fuse", "__future__",
))  # fmt: skip
BROUGHT_ALONG = frozenset((
    "abc", "codecs", "collections", "copyreg", "encodings", "encodings.aliases", "encodings.ascii", "encodings.latin_1", "encodings.utf_8",
    "enum", "functools", "genericpath", "heapq", "io", "keyword", "marshal", "posix", "posixpath", "re", "re._casefix", "re._compiler",
    "re._constants", "re._parser", "reprlib", "sre_compile", "sre_constants", "sre_parse", "warnings", "zipimport", "linecache", "_abc",
    "_codecs", "_collections", "_collections_abc", "_frozen_importlib_external", "_functools", "_heapq", "_io", "_locale", "_operator",
    "_sre", "_stat", "_typing", "_warnings", "_weakref", "_bootlocale",
))  # fmt: skip


@pytest.fixture
def named(tmp_path: Path) -> dict[str, str]:
    """An environment in which the interpreter is found as @cowroot, as the boot script lays it out."""
    (tmp_path / "@cowroot").symlink_to(os.path.realpath(sys.executable))
    return {"PATH": f"{os.environ['PATH']}:{tmp_path}", "LC_ALL": "C", "PYTHONPATH": "/nonexistent"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """cowroot with fusepy beside it, as an image has it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "cowroot").symlink_to(Path(cowroot.__file__).parent)
    (home / "fuse.py").symlink_to(fuse.__file__)
    return home


@pytest.mark.parametrize("engine", ["fusepy", "direct"])
def test_nothing_is_imported_that_serving_does_not_need(stage: Stage, engine: str) -> None:
    command = [
        sys.executable, "-X", "importtime", "-I", "-S", "-B", str(ENTRY), "--modules", str(Path(fuse.__file__).parent),
        stage.options(f"engine={engine}"), str(stage.point),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        wait_until(lambda: os.path.ismount(stage.point), "mounted")
        assert list(stage.point.iterdir()) == []
        stage.status()
        run("umount", stage.point)
        said = daemon.stderr.read()
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")} - {"imported package"}
    assert "cowroot.union.union" in imported
    others = {name for name in imported if name.partition(".")[0] != "cowroot"}
    assert others - NEEDED - BROUGHT_ALONG == set()
    assert not {name for name in imported if name.startswith(("cowroot.cli", "cowroot.install", "cowroot.config", "cowroot.boot"))}


def start(stage: Stage, named: dict[str, str], home: Path, *more: str, seconds: int = 20) -> subprocess.CompletedProcess[str]:
    # entry.py is told where it is by its own path, which is not followed here
    entry = home / "cowroot/fuse/entry.py"
    command = ["@cowroot", "-I", "-S", "-B", entry, "--boot", seconds, stage.options(*more), stage.point]
    return run("/bin/sh", "-c", 'exec "$@"', "sh", *command, check=False, env=named)


@pytest.mark.parametrize("engine", ["fusepy", "direct"])
def test_a_boot_starts_one_interpreter_by_the_name_that_systemd_spares(
    stage: Stage, named: dict[str, str], home: Path, engine: str
) -> None:
    done = start(stage, named, home, f"engine={engine}", "boot")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    status = stage.status()
    assert status["engine"] == engine
    pid = status["pid"]
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert command[0] == b"@cowroot"
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGTERM)  # what serves a root is not ended so
    (stage.point / "new").write_text("new")
    assert (stage.upper / "new").read_text() == "new"
    run("umount", stage.point)
    wait_until(lambda: not process_exists(pid), "the daemon has ended")


def test_a_boot_is_told_why_there_is_no_union(stage: Stage, named: dict[str, str], home: Path) -> None:
    stage.work.rmdir()
    done = start(stage, named, home, "boot")
    assert done.returncode == 6
    assert str(stage.work) in done.stderr.splitlines()[0]
    assert not os.path.ismount(stage.point)


def test_a_boot_is_told_that_cowroot_is_broken(stage: Stage, named: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "broken/cowroot/fuse"
    place.mkdir(parents=True)
    shutil.copy(ENTRY, place)
    done = start(stage, named, tmp_path / "broken", "boot")
    assert done.returncode == 1
    assert done.stderr.startswith("ImportError: cannot import name 'daemon'")
    assert len(done.stderr.splitlines()) == 1


def test_a_start_that_takes_too_long_is_ended(stage: Stage, named: dict[str, str], home: Path) -> None:
    done = start(stage, named, home, "boot", seconds=0)
    assert done.returncode == 1
    assert done.stderr == "the daemon had not mounted the union after 0 seconds\n"
    assert not os.path.ismount(stage.point)


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -7, 2.5, "", 'quote " backslash \\ newline \n', "€ 😀", "\udc80", [], {}, {"a": [1, {"b": None}], "c": (1, 2)}],
)
def test_the_daemons_own_json_means_the_same_to_everybody(value: object) -> None:
    assert json.loads(as_json(value)) == json.loads(json.dumps(value))
