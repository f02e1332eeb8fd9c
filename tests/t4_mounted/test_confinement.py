"""What a serving daemon can no longer do, and that it needs what it kept."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cowroot.fuse import confinement
from cowroot.fuse.confinement import CAPABILITIES, KEEPING, MACHINES
from tests.t4_mounted.mounted import Stage, cowroot, process_exists, wait_until

HEADERS = {"x86_64": "asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
MS_REMOUNT = 32
CLONE_NEWUSER = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def facts(process: Path) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())


def outcome(action: Callable[[], object]) -> str:
    """Do it in a process of its own, confined as a server is. Returns what it said: "done", or the name of the errno."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "broken"
        try:
            action()
            said = "done"
        except OSError as e:
            said = errno.errorcode[e.errno or 0]
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def system_call(name: str, *arguments: object, spared: frozenset[str] = frozenset()) -> Callable[[], None]:
    def call() -> None:
        confinement.refuse_system_calls(spared)
        if getattr(libc, name)(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_the_numbers_are_the_kernels(machine: str) -> None:
    places = [*Path("/usr/include").glob(HEADERS[machine]), *Path("/usr/include").glob(f"*/{HEADERS[machine]}")]
    if not places:
        pytest.skip(f"no {HEADERS[machine]} on this machine (linux-libc-dev)")
    known = {name: int(number) for name, number in re.findall(r"#define\s+__NR_(\w+)\s+(\d+)\b", places[0].read_text())}
    _, seccomp, clone, refused = MACHINES[machine]
    named = {"seccomp": seccomp, "clone": clone, "clone3": 435, **refused}
    assert {name: known[name] for name in named} == named


@pytest.mark.parametrize("engine", ["fusepy", "direct"])
def test_a_serving_daemon_is_confined(stage: Stage, engine: str) -> None:
    kept = sum(1 << number for number in CAPABILITIES.values()) & confinement.capabilities()
    point = stage.mount(f"engine={engine}")
    for _ in range(2):
        (point / "file").write_text("served")
        server = stage.status()["server"]
        tasks = list(Path(f"/proc/{server}/task").iterdir())
        assert len(tasks) >= 2
        tasks.append(Path(f"/proc/{stage.pid}"))  # the keeper, where there is one
        for task in tasks:
            found = facts(task)
            assert [int(found[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")] == [kept, kept, kept, 0, 0]
            if os.uname().machine in MACHINES:
                assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        if engine == "direct":  # the next is, too
            os.kill(server, signal.SIGKILL)
            wait_until(lambda before=server: stage.status()["server"] != before, "another server goes on")  # type: ignore[misc]
    status = stage.status()
    assert status["capabilities"] == [name for name, number in CAPABILITIES.items() if kept >> number & 1]
    assert status["system_calls"] == "filtered" or os.uname().machine not in MACHINES


def filters(process: int) -> int:
    return int(facts(Path(f"/proc/{process}")).get("Seccomp_filters", 0))  # Linux 5.9


@pytest.mark.skipif(os.uname().machine not in MACHINES, reason="no numbers are known of this machine's system calls")
def test_a_restart_adds_no_filter(stage: Stage) -> None:
    stage.mount("engine=direct")
    for _ in range(2):
        status = stage.status()
        assert (filters(status["pid"]), filters(status["server"])) in ((1, 2), (0, 0))
        cowroot("daemon", "restart", stage.point)
    os.kill(stage.pid, signal.SIGTERM)  # unmounting is the newer version's, too
    wait_until(lambda: not os.path.ismount(stage.point), "unmounted")
    stage.wait_for_end()


@pytest.mark.parametrize("process", ["pid", "server"])
def test_a_signal_to_either_process_unmounts(stage: Stage, process: str) -> None:
    """The server may not; it has the keeper do it."""
    point = stage.mount("engine=direct")
    with open(point / "file", "w+") as file:
        os.kill(stage.status()[process], signal.SIGTERM)
        wait_until(lambda: not os.path.ismount(point), "unmounted")
        file.write("still served")
        file.flush()
        assert process_exists(stage.pid)
    stage.wait_for_end()
    assert (stage.upper / "file").read_text() == "still served"


@pytest.mark.skipif(os.uname().machine not in MACHINES, reason="no numbers are known of this machine's system calls")
@pytest.mark.parametrize(
    "action",
    [
        system_call("execv", b"/bin/true", (ctypes.c_char_p * 2)(b"true", None)),
        system_call("fork"),
        system_call("vfork"),
        system_call("socket", socket.AF_INET, socket.SOCK_STREAM, 0),
        system_call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0),
        system_call("mount", b"none", b"/", None, MS_REMOUNT, None),
        system_call("umount2", b"/nowhere", 0),
        system_call("chroot", b"/"),
        system_call("ptrace", 0, 0, 0, 0),
        system_call("unshare", 0),
        system_call("setns", -1, 0),
        system_call("reboot", 0),
        system_call("syscall", 0x40000000 + 59),  # execve by its number for x32
        # not a keeper's either
        system_call("execv", b"/bin/true", (ctypes.c_char_p * 2)(b"true", None), spared=KEEPING),
        system_call("mount", b"none", b"/", None, MS_REMOUNT, None, spared=KEEPING),
        system_call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0, spared=KEEPING),
        system_call("syscall", MACHINES.get(os.uname().machine, (0, 0, 0, {}))[2], CLONE_NEWUSER | signal.SIGCHLD, 0, spared=KEEPING),
    ],
)
def test_what_reaches_beyond_files_is_refused(action: Callable[[], None]) -> None:
    assert outcome(action) == "EPERM"


@pytest.mark.skipif(os.uname().machine not in MACHINES, reason="no numbers are known of this machine's system calls")
def test_what_serving_needs_is_not_refused(tmp_path: Path) -> None:
    def use() -> None:
        confinement.refuse_system_calls(confinement.ALONE)
        thread = threading.Thread(target=(tmp_path / "file").write_text, args=("written",))
        thread.start()
        thread.join()
        if libc.umount2(b"/nowhere", 0) and ctypes.get_errno() != errno.ENOENT:
            raise OSError(ctypes.get_errno(), "umount2")
        os.kill(os.getppid(), 0)

    assert outcome(use) == "done"
    assert (tmp_path / "file").read_text() == "written"


@pytest.mark.skipif(os.uname().machine not in MACHINES, reason="no numbers are known of this machine's system calls")
def test_what_keeping_needs_is_not_refused(tmp_path: Path) -> None:
    def use() -> None:
        confinement.refuse_system_calls(KEEPING)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if not child:
            confinement.refuse_system_calls()
            theirs.send(b"refused" if libc.umount2(b"/nowhere", 0) and ctypes.get_errno() == errno.EPERM else b"not refused")
            os._exit(0)
        assert ours.recv(64) == b"refused"
        assert os.waitpid(child, 0) == (child, 0)
        assert libc.umount2(b"/nowhere", 0) and ctypes.get_errno() == errno.ENOENT

    assert outcome(use) == "done"


def test_a_program_gets_no_more_than_the_daemon_has() -> None:
    """One that is executed with the keeper's rights, say."""
    lines = ["import os; from cowroot.fuse import confinement", "confinement.give_up_capabilities()", "os.execv('/bin/cat', ['cat', path])"]
    script = "; ".join(["path = '/proc/self/status'", *lines])
    said = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout
    bits = int(re.findall(r"CapPrm:\s*(\w+)", said)[0], 16)
    assert not bits & ~sum(1 << number for number in CAPABILITIES.values())


def lease(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)


SETS_CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)  # struct vfs_cap_data: net_bind_service, permitted and effective
NEEDED: dict[str, Callable[[Path], object]] = {
    "chown": lambda theirs: os.chown(theirs, 2000, 2000),
    "dac_override": lambda theirs: theirs.write_text("changed"),
    "fowner": lambda theirs: os.chmod(theirs, 0o600),
    "sys_admin": lambda theirs: os.setxattr(theirs, "trusted.overlay.opaque", b"y"),
    "mknod": lambda theirs: os.mknod(theirs.with_name("device"), 0o020600, os.makedev(1, 3)),
    "lease": lease,
    "setfcap": lambda theirs: os.setxattr(theirs, "security.capability", SETS_CAPABILITY),
}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file that belongs to somebody else."""
    path = tmp_path / "theirs"
    path.write_text("")
    path.chmod(0o604)
    os.chown(path, 1000, 1000)
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
@pytest.mark.parametrize("name", sorted(NEEDED))
def test_each_capability_is_needed(theirs: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def attempt() -> None:
        confinement.give_up_capabilities()
        NEEDED[name](theirs)

    monkeypatch.setattr(confinement, "CAPABILITIES", {other: number for other, number in CAPABILITIES.items() if other != name})
    assert outcome(attempt) in ("EPERM", "EACCES")
    monkeypatch.undo()
    assert outcome(attempt) == "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_set_group_id_needs_a_capability(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bit is left out without a word."""

    def attempt() -> None:
        confinement.give_up_capabilities()
        os.chmod(theirs, 0o2755)

    monkeypatch.setattr(confinement, "CAPABILITIES", {name: number for name, number in CAPABILITIES.items() if name != "fsetid"})
    assert outcome(attempt) == "done"
    assert theirs.stat().st_mode & 0o7777 == 0o755
    monkeypatch.undo()
    assert outcome(attempt) == "done"
    assert theirs.stat().st_mode & 0o7777 == 0o2755
