"""The boot with Upstart, from the end of the initramfs to the start of mountall: order, pivot, and what happens when it cannot be done."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.config import Config
from tests.t2_render.test_upstart import BAD, GOOD, VERSIONS, files
from tests.t5_checkers.initramfs import attach, detach, make_file_system
from tests.t5_checkers.upstart import REAL, Booted, Machine, build_machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as a boot does: only root can")

MARKED = "#cowroot: the real root, below the union: LABEL=root / ext4 errors=remount-ro 0 1"


def make(
    place: Path, form: str = "pre-start", upstart: str = "1.12.1", changes: dict[str, str | None] | None = None, real: bool = False
) -> Iterator[Machine]:
    """A machine that is unchanged at the end."""
    config = Config.default().with_values({"upstart.form": form}, {})
    machine = build_machine(place, config, upstart=upstart, changes=changes, real=real)
    before = machine.sha256()
    yield machine
    assert machine.sha256() == before, "the disk was written"
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    yield from make(tmp_path_factory.mktemp("pre-start"))


@pytest.fixture(scope="module")
def with_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    yield from make(tmp_path_factory.mktemp("job"), "job")


def test_process_1_and_mountall_find_themselves_in_the_union(machine: Machine) -> None:
    booted = machine.boot()
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    assert booted.boot["root_device"].startswith("/dev/loop")
    # Upstart is told of its jobs' new place before mountall starts; mountall that is started once more changes nothing.
    starts = f"mountall: starts with {MARKED}"
    assert booted.steps == ["initctl: reload-configuration", starts, starts]
    mounts = booted.mounts
    assert mounts["/"][0] == "fuse.cowroot"
    assert "rw" in mounts["/"][1]
    assert "ro" in mounts["/run/cowroot/lower"][1]
    assert {place: mounts[place][0] for place in ("/proc", "/sys", "/dev", "/run")} == {
        "/proc": "proc", "/sys": "sysfs", "/dev": "tmpfs", "/run": "tmpfs",
    }  # fmt: skip
    # Nothing of the old root is in sight but the layers, and the way there has left no trace.
    assert not [place for place in mounts if place.startswith("/.cowroot")]
    assert ".cowroot" not in booted.sections["top"].split()
    assert booted.sections["fstab"].splitlines()[0] == MARKED
    # What mountall wrote is in the upper.
    assert set(booted.sections["upper"].split()) == {"fstab", "mountall.log"}


def test_a_shutdown_is_told_which_processes_to_leave_alone(machine: Machine) -> None:
    assert_all_are_left_alone(machine.boot())


def assert_all_are_left_alone(booted: Booted) -> None:
    """The file for the shutdown names the daemon's processes, all of them and no others."""
    words = booted.sections["omit"].split()
    pids = {word for word in words if word.isdigit()}
    assert pids
    assert {f"/proc/{pid}/cmdline" for pid in pids} == set(words) - pids


def test_a_release_without_run(tmp_path: Path) -> None:
    """Before 11.10 there is no /run: things are mounted below /dev first, and there is a /run when the union is there."""
    for machine in make(tmp_path / "old", upstart="0.6.5-8", changes={"/run": None}):
        booted = machine.boot()
        assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
        assert booted.boot["upper_directory"] == "/run/cowroot/upper"
        assert booted.mounts["/"][0] == "fuse.cowroot"
        assert booted.mounts["/run"][0] == "tmpfs"
        assert [place for place in booted.mounts if place.startswith("/dev/")] == ["/dev/console"]
        assert_all_are_left_alone(booted)
        assert booted.steps[0] == "initctl: reload-configuration"


def test_an_upper_on_a_disk(machine: Machine, tmp_path: Path) -> None:
    make_file_system(tmp_path / "upper.img", 16, f"upper{os.getpid()}")
    device = attach(tmp_path / "upper.img")
    try:
        booted = machine.boot(f"cowroot.upper=LABEL=upper{os.getpid()}", device=os.path.basename(device))
    finally:
        detach(device)
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    assert booted.boot["upper_device"] == device
    assert booted.mounts["/run/cowroot/upper"][0] == "ext4"
    stages = [line.split()[0] for line in booted.sections["shutdown"].splitlines() if len(line.split()) == 2]
    assert stages == ["initrd", "shutdown"]
    assert "rw" in booted.mounts["/run/cowroot/upper"][1]
    assert "ro" in booted.left["/run/cowroot/upper"][1]


def test_off_is_the_real_root(machine: Machine) -> None:
    booted = machine.boot("cowroot=off")
    assert booted.boot["rung"] == "off"
    assert booted.steps[-1] == "mountall: starts with LABEL=root / ext4 errors=remount-ro 0 1"
    assert booted.mounts["/"][0] == "ext4"


def test_a_union_in_memory_where_the_upper_is_missing(machine: Machine) -> None:
    booted = machine.boot("cowroot.upper=LABEL=nowhere cowroot.wait=0")
    assert booted.boot["rung"] == "tmpfs"
    assert booted.boot["reasons"] == ["LABEL=nowhere did not appear in 0 seconds"]
    assert booted.mounts["/"][0] == "fuse.cowroot"


def test_without_fuse_the_real_root_is_read_only_and_mountall_keeps_it_so(machine: Machine) -> None:
    booted = machine.boot(without="fuse")
    assert booted.boot["rung"] == "read-only"
    assert booted.boot["reasons"][0] == "the kernel offers no /dev/fuse"
    assert booted.mounts["/"][0] == "ext4"
    assert "ro" in booted.mounts["/"][1]
    # mountall remounts a root that is read-only unless its line says that it shall be.
    lines = booted.sections["fstab"].splitlines()
    assert lines[0] == MARKED
    assert lines[-1] == f"{booted.boot['root_device']} / ext4 ro 0 0"
    assert booted.steps == [f"mountall: starts with {MARKED}"] * 2


def test_the_shell_is_the_last_rung(machine: Machine) -> None:
    booted = machine.boot("cowroot.on_failure=shell", without="fuse")
    assert booted.boot["rung"] == "shell"
    assert booted.steps[0] == "sulogin"


@pytest.mark.parametrize(("form", "steps"), [("pre-start", ["init: mountall is not started"]), ("job", ["init: the job cowroot failed"])])
def test_what_the_form_decides(machine: Machine, with_job: Machine, form: str, steps: list[str]) -> None:
    """With no rung left, and again when mountall is to be started once more."""
    booted = (machine if form == "pre-start" else with_job).boot("cowroot.on_failure=tmpfs", without="fuse")
    assert booted.boot["rung"] == "none"
    assert booted.mounts["/"][0] == "ext4"
    started = ["mountall: starts with LABEL=root / ext4 errors=remount-ro 0 1"] if form == "job" else []
    assert booted.steps == [*steps, *started] * 2


@pytest.mark.parametrize("form", ["pre-start", "job"])
def test_a_script_that_cannot_run(tmp_path: Path, form: str) -> None:
    for machine in make(tmp_path / form, form, changes={"/usr/lib/cowroot/boot/functions": None}):
        booted = machine.boot()
        assert ("mountall: starts" in "".join(booted.steps)) == (form == "job")
        assert booted.boot == {}


def test_the_job_brings_up_the_same_union(with_job: Machine) -> None:
    booted = with_job.boot()
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    assert booted.steps == ["initctl: reload-configuration", f"mountall: starts with {MARKED}", f"mountall: starts with {MARKED}"]
    assert booted.mounts["/"][0] == "fuse.cowroot"


real_upstart = pytest.mark.skipif(
    not (REAL["init"] and REAL["initctl"]), reason="no real Upstart: COWROOT_UPSTART_INIT and COWROOT_UPSTART_INITCTL name none"
)


@real_upstart
@pytest.mark.parametrize(("form", "upstart"), [("pre-start", "1.12.1"), ("pre-start", "0.6.5"), ("job", "1.12.1")])
def test_a_real_upstart_waits_and_goes_on_in_the_union(tmp_path: Path, form: str, upstart: str) -> None:
    for machine in make(tmp_path / "real", form, upstart, real=True):
        booted = machine.boot()
        assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
        assert booted.steps == [f"mountall: starts with {MARKED}", "initctl: late start/running"]
        assert booted.mounts["/"][0] == "fuse.cowroot"
        assert {"fstab", "mountall.log"} <= set(booted.sections["upper"].split())


@real_upstart
@pytest.mark.parametrize("form", ["pre-start", "job"])
def test_a_real_upstart_when_no_rung_is_left(tmp_path: Path, form: str) -> None:
    """mountall that does not start fails: what waits for its end sees that, and only then."""
    for machine in make(tmp_path / "real", form, real=True):
        booted = machine.boot("cowroot.on_failure=tmpfs", without="fuse")
        assert booted.boot["rung"] == "none"
        assert booted.mounts["/"][0] == "ext4"
        started = [step for step in booted.steps if step.startswith("mountall")]
        assert started == (["mountall: starts with LABEL=root / ext4 errors=remount-ro 0 1"] if form == "job" else [])


@real_upstart
def test_a_real_upstart_agrees_about_what_parses(tmp_path: Path) -> None:
    """What is rendered for every release and form, and the examples by which our own check is tested."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    good = {f"good{number}": text for number, text in enumerate(GOOD)}
    for release in VERSIONS:
        for form in ("pre-start", "job"):
            rendered = files(release, form)
            good.update(
                {f"{release}-{form}-{Path(path).stem}": file.content.decode() for path, file in rendered.items() if "/init/" in path}
            )
    bad = {f"bad{number}": text for number, (text, _) in enumerate(BAD)}
    for name, text in {**good, **bad}.items():
        (jobs / f"{name}.conf").write_text(text)
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--kill-child", "timeout", "5",
         REAL["init"], "--user", "--no-dbus", "--no-startup-event", "--debug", "--confdir", str(jobs)],
        env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert set(re.findall(rf"{jobs}/(\S+)\.conf:\d+: ", done.stdout)) == set(bad)
    assert set(re.findall(rf"Loading configuration file {jobs}/(\S+)\.conf", done.stdout)) == {*good, *bad}
