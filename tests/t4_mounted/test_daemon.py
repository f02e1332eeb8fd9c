"""The process behind a union: what it has to survive, and how it presents itself."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cowroot.fuse import confinement
from tests.t4_mounted.mounted import Stage, run, wait_until
from tests.t4_mounted.soak import soak

CAP_SYS_NICE = 23  # linux/capability.h
CAP_SYS_RESOURCE = 24
CAP_IPC_LOCK = 14


def state(pid: int) -> str:
    """The letter of the process's state: R, S, T (stopped) …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_systemd_knows_it_by_its_name(stage: Stage) -> None:
    """killall.c of systemd spares processes of root whose command line begins with @."""
    stage.mount()
    assert Path(f"/proc/{stage.pid}/cmdline").read_bytes().startswith(b"@cowroot\0")


def test_when_stopped_it_goes_on_by_itself(stage: Stage) -> None:
    """systemd-shutdown stops every process and then needs files of the root: nobody else would wake the daemon."""
    point = stage.mount()
    for round_ in range(5):
        os.kill(stage.pid, signal.SIGSTOP)
        (point / f"file{round_}").write_text("served")
        wait_until(lambda: state(stage.pid) != "T", "running again")


def test_it_stops_and_goes_on_under_load(stage: Stage) -> None:
    """The timer's signal must not interrupt a request in the middle."""
    point = stage.mount()
    for number in range(300):
        if number % 30 == 0:
            os.kill(stage.pid, signal.SIGSTOP)
        path = point / f"file{number}"
        path.write_bytes(b"x" * 100000)
        assert path.stat().st_size == 100000
        if number % 3:
            path.unlink()
    assert len(os.listdir(point)) == 100


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE])
def test_what_serves_a_root_is_not_ended_by_a_signal(stage: Stage, number: signal.Signals) -> None:
    point = stage.mount("boot")
    os.kill(stage.pid, number)
    (point / "file").write_text("served")
    assert os.path.ismount(point)
    ignored = next(line for line in Path(f"/proc/{stage.pid}/status").read_text().splitlines() if line.startswith("SigIgn:"))
    assert int(ignored.split()[1], 16) >> (number - 1) & 1


def test_what_a_root_daemon_asks_of_the_kernel(stage: Stage) -> None:
    stage.mount()
    status = Path(f"/proc/{stage.pid}/status").read_text()
    may_raise = confinement.capabilities() >> CAP_SYS_RESOURCE & 1  # root in a container may lack it
    assert Path(f"/proc/{stage.pid}/oom_score_adj").read_text() == ("-1000\n" if may_raise else "0\n")
    assert "\nUmask:\t0000\n" in status
    limits = Path(f"/proc/{stage.pid}/limits").read_text()
    files = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert files.split()[3] == files.split()[4]
    assert not may_raise or int(files.split()[3]) >= 1 << 20


def test_it_goes_before_those_who_wait_for_it(stage: Stage) -> None:
    """On a busy machine each request would have to queue, behind those who are busy."""
    stage.mount()
    if not confinement.capabilities() >> CAP_SYS_NICE & 1:
        pytest.skip("root lacks CAP_SYS_NICE here")
    tasks = [int(task) for task in os.listdir(f"/proc/{stage.pid}/task")]
    assert {os.getpriority(os.PRIO_PROCESS, task) for task in tasks} == {-10}
    autogroup = Path(f"/proc/{stage.pid}/autogroup")
    if autogroup.exists():  # CONFIG_SCHED_AUTOGROUP
        assert autogroup.read_text().endswith(" nice -10\n")
        assert not Path("/proc/self/autogroup").read_text().endswith(" nice -10\n")


def test_it_works_on_after_everything_has_moved(stage: Stage) -> None:
    """As at boot: the union moves onto the new root, and its layers' paths lead elsewhere."""
    (stage.lower / "file").write_text("below\n")
    stage.mount()
    goal = stage.base / "root"
    goal.mkdir()
    script = f"""
        mount --make-rprivate / && mount --move {stage.point} {goal} &&
        mv {stage.lower} {stage.base}/l && mv {stage.upper} {stage.base}/u && mv {stage.work} {stage.base}/w &&
        mkdir {stage.lower} {stage.upper} &&
        cat {goal}/file && echo new > {goal}/new && setfattr -n user.a -v b {goal}/file && ls {goal} && rm {goal}/file && cat {goal}/new
    """
    assert run("unshare", "-m", "sh", "-ec", script).stdout.split() == ["below", "file", "new", "new"]
    assert (stage.base / "u" / "new").read_text() == "new\n"


def test_it_needs_nothing_of_where_it_was_started(stage: Stage) -> None:
    """Started in a root that is taken away afterwards, with its /proc, its /dev and its Python."""
    (stage.lower / "file").write_text("below")
    stage.mount("boot")
    root = Path(f"/proc/{stage.pid}/cwd")
    assert os.readlink(root).endswith("/fd")
    mapped = Path(f"/proc/{stage.pid}/maps").read_text()
    assert str(stage.base) not in mapped
    for fd in os.listdir(f"/proc/{stage.pid}/fd"):
        assert not os.readlink(f"/proc/{stage.pid}/fd/{fd}").startswith(str(stage.point)), "it holds its own mount"
    assert (stage.point / "file").read_text() == "below"


def test_an_aborted_connection_ends_the_daemon(stage: Stage) -> None:
    point = stage.mount()
    connections = stage.base / "connections"
    connections.mkdir()
    run("mount", "-t", "fusectl", "none", connections)
    try:
        (connections / str(os.minor(os.stat(point).st_dev)) / "abort").write_text("1")
    finally:
        run("umount", connections)
    stage.wait_for_end()
    with pytest.raises(OSError):
        os.listdir(point)


def test_a_fault_of_ours_is_an_io_error_and_one_line(stage: Stage) -> None:
    """It ends neither the daemon nor the others' requests, and does not flood the log."""
    script = """
        import sys
        from cowroot.fuse import daemon
        from cowroot.union import Union
        Union.statfs = lambda self: 1 // 0
        daemon.main(sys.argv[1:])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), stage.options("engine=fusepy"), str(stage.point)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: os.path.ismount(stage.point), "mounted")
        for _ in range(30):
            with pytest.raises(OSError) as caught:
                os.statvfs(stage.point)
            assert caught.value.errno == errno.EIO
        (stage.point / "file").write_text("served")
        run("umount", stage.point)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    lines = said.splitlines()
    assert 1 <= len(lines) <= 10
    assert all(line.startswith("cowroot: statfs: ZeroDivisionError: integer division or modulo by zero (") for line in lines)


@pytest.mark.parametrize("engine", ["direct", "fusepy"])
def test_it_stays_as_it_was_under_load(stage: Stage, engine: str) -> None:
    figures = soak(stage, 4, engine)
    assert figures["failures"] == []
    assert figures["rounds"] > 10


@pytest.mark.skipif(not confinement.capabilities() >> CAP_IPC_LOCK & 1, reason="root lacks CAP_IPC_LOCK here")
@pytest.mark.parametrize("engine", ["direct", "fusepy"])
def test_its_memory_is_locked_where_that_is_asked_for(stage: Stage, engine: str) -> None:
    """In each process, and in a server that comes later; what is asked for afterwards is locked too, or the daemon would end."""
    point = stage.mount(f"engine={engine}", "lock_memory=on")
    for generation in range(2):
        status = stage.status()
        assert status["locked"]
        assert "ipc_lock" in status["capabilities"]
        for pid in {status["pid"], status["server"]}:
            facts = Path(f"/proc/{pid}/status").read_text()
            locked = next(int(line.split()[1]) for line in facts.splitlines() if line.startswith("VmLck:"))  # KiB
            assert locked > 10_000
        for number in range(500):
            (point / f"{generation}-{number}").write_bytes(b"x" * 1000)
        if engine == "direct":
            os.kill(status["server"], signal.SIGKILL)
            wait_until(lambda before=generation: stage.status()["generation"] > before, "another server goes on")  # type: ignore[misc]


def test_its_memory_is_not_locked_otherwise(stage: Stage) -> None:
    stage.mount("engine=direct")
    assert not stage.status()["locked"]
    assert "\nVmLck:\t       0 kB\n" in Path(f"/proc/{stage.pid}/status").read_text()
