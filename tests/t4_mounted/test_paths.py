"""What the daemon opens while it serves: nothing by absolute path, nothing above a layer, and no link is followed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, wait_until

CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (?!\?)")
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
# Calls that take a path, each with what keeps it from following a link at its end; None: it is made only where something else, which is no
# link, was found before (chmod, truncate), or the call never follows.
CALLS = {
    "openat": "O_NOFOLLOW|O_EXCL", "openat2": "RESOLVE_BENEATH",
    "newfstatat": "AT_SYMLINK_NOFOLLOW|AT_EMPTY_PATH", "statx": "AT_SYMLINK_NOFOLLOW|AT_EMPTY_PATH",
    "utimensat": "AT_SYMLINK_NOFOLLOW", "fchownat": "AT_SYMLINK_NOFOLLOW", "lgetxattr": None, "lsetxattr": None, "llistxattr": None,
    "lremovexattr": None, "readlinkat": None, "mkdirat": None, "mknodat": None, "symlinkat": None, "linkat": None, "unlinkat": None,
    "renameat": None, "renameat2": None, "rename": None, "fchmodat": None, "fchmodat2": None, "truncate": None,
}  # fmt: skip
OWN = re.compile(r"(\.\./\.\./)?(self|\d+)/(status|statm|fd|cgroup|comm)")  # of /proc


def work(point: Path) -> None:
    """A bit of everything."""
    for directory, _, files in os.walk(point):
        for name in files:
            path = Path(directory, name)
            if path.is_symlink():
                os.readlink(path)
                os.chown(path, 1, 1, follow_symlinks=False)
            else:
                path.read_bytes()
            os.listxattr(path, follow_symlinks=False)
    with open(point / "deep/er/file", "r+") as file:
        file.write("changed")
        os.truncate(point / "deep/er/file", 3)
        os.setxattr(point / "deep/er/file", "user.a", b"b")
        os.unlink(point / "deep/er/file")
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())
    with open(point / "large", "r+") as file:
        file.write("changed in part")
    os.rename(point / "deep", point / "renamed")
    os.utime(point / "one", ns=(5, 5))
    os.link(point / "one", point / "three")
    os.symlink("/etc/passwd", point / "new link")
    os.mkdir(point / "new")
    os.mkfifo(point / "new/fifo")
    os.rename(point / "new", point / "newer")
    os.chmod(point / "renamed/er", 0o700)
    os.chown(point / "renamed/er", 5, 5)
    os.removexattr(point / "marked", "user.mark")
    subprocess.run(["rm", "-r", point / "renamed", point / "two", point / "out"], check=True)
    subprocess.run(["find", point, "-ls"], stdout=subprocess.DEVNULL, check=True)


@pytest.fixture
def tempting(stage: Stage) -> Stage:
    (stage.lower / "deep/er").mkdir(parents=True)
    for name in ("deep/er/file", "one", "marked"):
        (stage.lower / name).write_text("below")
    os.link(stage.lower / "one", stage.lower / "two")
    os.setxattr(stage.lower / "marked", "user.mark", b"x")
    (stage.lower / "large").write_bytes(b"x" * 300_000)
    for name, target in {"out": "/etc", "up": "../../../../etc", "loop": "loop", "deep/in": "../one"}.items():
        (stage.lower / name).symlink_to(target)
    return stage


@pytest.mark.parametrize("engine", ["fusepy", "direct", "direct,protocol=7.31"])
def test_no_path_leads_out_of_the_layers(tempting: Stage, engine: str) -> None:
    point = tempting.mount(f"engine={engine}")
    said = tempting.base / "calls"
    server = tempting.status()["server"]
    strace = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-e", "signal=none", "-o", str(said), "-p", str(server)]
    tracer = subprocess.Popen(strace, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: tracer_of(server) == tracer.pid, "traced")
        work(point)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
    found = [(match[1], match[2]) for match in map(CALL.match, said.read_text().splitlines()) if match]
    assert {"openat", "newfstatat", "renameat", "lsetxattr", "linkat", "symlinkat", "mkdirat"} <= {call for call, _ in found}
    assert [each for each in found if not is_harmless(*each)] == []


def tracer_of(pid: int) -> int:
    """Of the last of the process's threads."""
    last = max(os.listdir(f"/proc/{pid}/task"), key=int)
    return int(re.findall(r"TracerPid:\s(\d+)", Path(f"/proc/{pid}/task/{last}/status").read_text())[0])


def is_harmless(call: str, arguments: str) -> bool:
    if call not in CALLS:
        return False
    paths = PATH.findall(arguments)
    if call == "symlinkat":
        paths = paths[1:]  # the first is what the link says
    elif call in ("readlinkat", "lgetxattr", "lsetxattr", "llistxattr"):
        paths = paths[:1]  # then comes what was read or is written
    for path in paths:
        if OWN.fullmatch(path):
            return True
        if path.startswith("/") or ".." in path.split("/"):
            return False
    kept = CALLS[call]
    return kept is None or not paths or any(flag in arguments for flag in kept.split("|"))
