"""What people run: git, apt, Python, a compiler."""

from __future__ import annotations

import os
import sys

from benchmarks import lowers
from benchmarks.stage import run
from benchmarks.turn import Turn
from benchmarks.workloads import TOOLS, Row, workload

_MODULES = (
    "argparse, asyncio, concurrent.futures, csv, decimal, email.message, http.client, json, logging, sqlite3, unittest, xml.dom.minidom"
)
_GIT = ("git", "-c", "safe.directory=*")


@workload(Row("git-status", "git status", TOOLS), lower="repository")
def git_status(turn: Turn) -> None:
    """`git status` of 3,000 files, first and second time: the first compares contents, since the copy has other inode numbers."""
    place = turn.point / "repository"
    with turn.timed("git-status", 2):
        for _ in range(2):
            run(*_GIT, "-C", place, "status", "--porcelain")


@workload(Row("git-clone", "git clone", TOOLS), lower="repository")
def git_clone(turn: Turn) -> None:
    """A clone within the union, objects packed and 3,000 files checked out."""
    with turn.timed("git-clone", 1):
        run(*_GIT, "clone", "-q", "--no-local", turn.point / "repository", turn.point / "clone")


@workload(Row("apt-install", f"apt-get install {lowers.PACKAGE}", TOOLS), lower="debian", rounds=2)
def apt_install(turn: Turn) -> None:
    """Install a package that is in apt's cache, in a chroot on the union of a minimal Debian."""
    command = ("apt-get", "install", "--yes", "--no-download", "--no-install-recommends", lowers.PACKAGE)
    with turn.timed("apt-install", 1):
        run("chroot", turn.point, *command, DEBIAN_FRONTEND="noninteractive", PATH="/usr/sbin:/usr/bin:/sbin:/bin")


@workload(
    Row("python-cold", "python -c import, cold", TOOLS),
    Row("python-warm", "python -c import, warm", TOOLS),
    lower="library",
    changes=False,
)
def python_import(turn: Turn) -> None:
    """A dozen modules of Python's library, which lies in the union; then five times more."""
    home = os.fspath(turn.point / "python")
    turn.forget_all()
    for row, times in (("python-cold", 1), ("python-warm", 5)):
        with turn.timed(row, times):
            for _ in range(times):
                run(sys.executable, "-B", "-s", "-S", "-c", f"import {_MODULES}", PYTHONHOME=home)


@workload(Row("compile", "compile a C project", TOOLS), lower="project")
def compile_project(turn: Turn) -> None:
    """make of twenty C files, two at a time."""
    with turn.timed("compile", 1):
        run("make", "-s", "-j2", "-C", turn.point / "project", "program")
