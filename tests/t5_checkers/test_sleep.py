"""What systemd-sleep runs before and after, with real control groups: who is stopped, and that all go on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.boot.templates import ORIGIN, render_template

HIERARCHIES = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not HIERARCHIES, reason="makes control groups, of the second kind: only root can")

SERVICES = ("init.scope", "user.slice", "system.slice/one.service", "system.slice/two.service")
OWN = "system.slice/systemd-suspend.service"
# The groups become all that there is, at the place where they are on a system with systemd.
_RUN = """
echo $$ >"$1/cgroup.procs"
exec unshare --mount --cgroup --propagation private sh -c '
mount -t cgroup2 none /sys/fs/cgroup
echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
[ -z "$4" ] || sleep "$4" &
sh "$2" "$3" suspend
' sh "$2" "$3" "$4" "$5"
"""


class Groups:
    """Control groups of a machine, and processes in them."""

    def __init__(self, top: Path, place: Path) -> None:
        self.top, self.place = top, place
        self.processes = []
        for name in (*SERVICES, OWN):
            (top / name).mkdir(parents=True)
        for name in SERVICES:
            process = subprocess.Popen(["sleep", "100"])
            (top / name / "cgroup.procs").write_text(str(process.pid))
            self.processes.append(process)
        text = render_template("systemd", "sleep.j2", origin=ORIGIN)
        mounts = place / "mounts"
        mounts.write_text("/dev/vda1 / fuse.cowroot rw 0 0\n")
        self.script = place / "script"
        self.script.write_text(text.replace("/proc/mounts", str(mounts)).replace("/run/cowroot", str(place)))

    def run(self, when: str, others: str = "") -> str:
        """Run the script, beside another program that takes so many seconds; return what it says."""
        command = ["sh", "-c", _RUN, "sh", str(self.top), OWN, str(self.script), when, others]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=60)
        return done.stdout

    def stopped(self) -> set[str]:
        """Those whose processes are all stopped."""
        return {name for name in (*SERVICES, OWN) if "frozen 1\n" in (self.top / name / "cgroup.events").read_text()}

    def remove(self) -> None:
        for name in SERVICES:
            (self.top / name / "cgroup.freeze").write_text("0")
        for process in self.processes:
            process.kill()
            process.wait()
        for name in (*SERVICES, OWN, "system.slice", ""):
            for _ in range(50):
                try:
                    (self.top / name).rmdir()
                    break
                except OSError:  # a process that was killed is still there
                    time.sleep(0.1)


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Groups]:
    groups = Groups(Path(HIERARCHIES[0]) / f"cowroot-test-{os.getpid()}", tmp_path)
    yield groups
    groups.remove()


def test_all_but_the_daemon_and_who_puts_it_to_sleep_are_stopped(groups: Groups) -> None:
    (groups.top / "user.slice/cgroup.freeze").write_text("1")  # as systemd does, and undoes itself
    assert groups.run("pre") == ""
    assert groups.stopped() == {"user.slice", "system.slice/one.service", "system.slice/two.service"}
    assert groups.run("post") == ""
    assert groups.stopped() == {"user.slice"}
    assert not (groups.place / "stopped").exists()


def test_others_that_run_before_sleeping_come_first(groups: Groups) -> None:
    began = time.monotonic()
    assert groups.run("pre", others="1.5") == ""
    assert time.monotonic() - began >= 1.5
    assert len(groups.stopped()) == 3
    groups.run("post")


def test_without_a_union_nothing_is_stopped(groups: Groups) -> None:
    (groups.place / "mounts").write_text("/dev/vda1 / ext4 rw 0 0\n")
    assert groups.run("pre") == ""
    assert groups.stopped() == set()
    assert groups.run("post") == ""
