"""The control socket: what it tells, whom it lets in, and that nobody can stop it from answering the next."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

import cowroot
from cowroot.errors import MountError
from cowroot.fuse import control
from tests.t4_mounted.mounted import COWROOT, Stage, process_exists, run, wait_until


def test_status(stage: Stage) -> None:
    (stage.lower / "file").write_text("below")
    point = stage.mount()
    with open(point / "file") as file:
        file.read()
        status = stage.status()
    assert (status["engine"], status["version"], status["mountpoint"]) == ("fusepy", cowroot.__version__, str(point))
    assert status["pid"] == stage.pid
    assert status["open_files"] == 1
    assert status["nodes"] == 2
    assert 1 << 20 < status["rss"] < 1 << 27
    assert status["requests"]["lookup"] == 1
    assert [(layer["kind"], layer["path"]) for layer in status["layers"]] == [
        ("lower", str(stage.lower)), ("upper", str(stage.upper)), ("work", str(stage.work)),
    ]  # fmt: skip
    space = os.statvfs(stage.upper)
    assert status["layers"][1]["size"] == space.f_blocks * space.f_frsize
    assert status["layers"][1]["filesystem"] == run("stat", "-f", "-c", "%T", stage.upper).stdout.strip().replace("ext2/ext3", "ext4")
    major, minor = status["protocol"].split(".")
    assert (major, int(minor) >= 19) == ("7", True)
    assert {"atomic_o_trunc", "big_writes"} <= set(status["features"])
    assert status["missing_features"]["passthrough"] == "libfuse 2 cannot"
    assert not status["missing_features"].keys() & status["features"]


def test_what_is_not_in_force_is_told_to_people_too(stage: Stage) -> None:
    stage.mount()
    lines = [line.split(maxsplit=1) for line in run(*COWROOT, "status", stage.point).stdout.splitlines() if line.startswith("  ")]
    rows = dict(lines)
    assert rows["engine"].startswith("fusepy, FUSE protocol 7.")
    assert rows["without"] == "no_opendir_support, passthrough, readdirplus: libfuse 2 cannot"


def test_only_its_user_may_ask(stage: Stage) -> None:
    stage.mount()
    path = control.socket_of(str(stage.point))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_socket_of_a_later_mount_is_left_alone(stage: Stage) -> None:
    """The kernel gives a device number to the next mount before the daemon of the last one has ended."""
    directory = stage.base / "control"
    stage.mount(f"control={directory}")
    device = os.stat(stage.point).st_dev
    path = directory / f"{os.major(device)}:{os.minor(device)}.sock"
    pid = control.ask(path)["pid"]
    later = directory / "later"
    later.touch()
    later.rename(path)
    run("umount", stage.point)
    wait_until(lambda: not process_exists(pid), "the daemon has ended")
    assert path.exists()


def test_a_directory_of_ones_own(stage: Stage) -> None:
    directory = stage.base / ("long" * 30) / "control"
    stage.mount(f"control={directory}")
    (name,) = os.listdir(directory)
    device = os.stat(stage.point).st_dev
    assert name == f"{os.major(device)}:{os.minor(device)}.sock"
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o755


def test_the_socket_goes_with_the_mount(stage: Stage) -> None:
    stage.mount()
    path = control.socket_of(str(stage.point))
    stage.unmount()
    assert not path.exists()
    with pytest.raises(MountError) as caught:
        control.ask(path)
    assert "findmnt" in caught.value.hint


def test_an_unknown_question(stage: Stage) -> None:
    stage.mount()
    with pytest.raises(MountError, match="unknown question 'frob'; known: status"):
        control.ask(control.socket_of(str(stage.point)), "frob")


@pytest.mark.parametrize("nonsense", [b"", b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"ask": {}}\n', b"\xff\n", b"{" * 100000 + b"\n"])
def test_nonsense_is_answered_and_the_next_is_too(stage: Stage, nonsense: bytes) -> None:
    stage.mount()
    with socket.socket(socket.AF_UNIX) as connection:
        os.chdir(control.socket_of(str(stage.point)).parent)
        connection.connect(control.socket_of(str(stage.point)).name)
        connection.sendall(nonsense)
        connection.shutdown(socket.SHUT_WR)
        assert b'"error"' in connection.recv(65536)
    assert stage.status()["pid"] == stage.pid


def test_who_hangs_up_disturbs_nobody(stage: Stage) -> None:
    point = stage.mount()
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(control.socket_of(str(point))))
    assert stage.status()["pid"] == stage.pid


def test_questions_wait_for_no_request(stage: Stage) -> None:
    """And requests for no question: the thread has nothing to lock."""
    point = stage.mount()
    for number in range(20):
        Path(point, f"file{number}").write_text("x")
        assert stage.status()["requests"]["create"] == number + 1
