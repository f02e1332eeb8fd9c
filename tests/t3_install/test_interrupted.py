"""Whatever ends an installation, the next one (or an uninstallation) finds its way, and nothing stays mounted, attached or running."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cowroot.install import journal, payload, plan
from cowroot.install.installation import install
from cowroot.install.manifest import drift, read_manifest
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from cowroot.install.tree import Tree
from tests.t3_install.debian import make_debian
from tests.t3_install.disks import content, loop_devices, make_disk
from tests.t3_install.fake import Script, count_steps, run_killed, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installing mounts an overlay, which needs root")

_SLOW_TOOL = Script("#!/bin/sh\necho waiting\nwhile :; do read -t 1 x </dev/zero || :; done\n")


def put_in(root: Path) -> str:
    return install(Choice(root=root), None, lambda _: None).done


def take_out(root: Path) -> str:
    return uninstall(Choice(root=root), lambda _: None).done


@pytest.fixture(autouse=True)
def little_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few files stand for all: this is about the steps, and there should be no more of them than it takes."""
    few = [item for item in payload.payload((3, 13)) if item.path.count("/") < 5 and not item.path.endswith(".j2")]
    monkeypatch.setattr(plan, "payload", lambda _: few)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_debian(tmp_path / "root")


def _steps_of_install(root: Path) -> int:
    steps = count_steps(lambda: put_in(root))
    take_out(root)
    return steps


def test_killed_anywhere_then_uninstalled_is_as_before(root: Path) -> None:
    before = snapshot(root)
    steps = _steps_of_install(root)
    assert snapshot(root) == before
    # Every step of the changing itself is killed in test_journal; here is the whole way, from the first mount on.
    for step in sorted({*range(0, steps, max(1, steps // 20)), *range(steps - 6, steps)}):
        run_killed(step, lambda: put_in(root))
        take_out(root)
        assert snapshot(root) == before, f"killed at step {step} of {steps}"


def test_killed_anywhere_then_installed_is_complete(root: Path) -> None:
    before = snapshot(root)
    steps = _steps_of_install(root)
    for step in random.Random(7).sample(range(steps // 2, steps), 12):
        run_killed(step, lambda: put_in(root))
        put_in(root)
        manifest = read_manifest(root)
        assert manifest
        assert drift(root, manifest) == []
        assert not (root / journal.JOURNAL.lstrip("/")).exists()
        take_out(root)
        assert snapshot(root) == before, f"killed at step {step} of {steps}"


def test_an_uninstall_that_was_killed_is_completed(root: Path) -> None:
    before = snapshot(root)
    step = 0
    while True:
        put_in(root)
        ended = run_killed(step, lambda: take_out(root))
        with Tree(root) as tree:
            begun = journal.read_journal(tree) is not None
        if begun:
            assert take_out(root) == "uninstalled"
        else:
            take_out(root)
        assert snapshot(root) == before, f"killed at step {step}"
        if ended:
            break
        step += 37


def test_dry_run_says_that_something_was_interrupted_and_leaves_it(root: Path) -> None:
    step = 0
    while not (root / journal.JOURNAL.lstrip("/")).exists():
        step += 40
        run_killed(step, lambda: put_in(root))
    before = snapshot(root)
    planned = install(Choice(root=root), None, lambda _: None, dry_run=True)
    assert "an interrupted install is undone first" in planned.text
    planned = uninstall(Choice(root=root), lambda _: None, dry_run=True)
    assert "an interrupted install is undone first" in planned.text
    assert snapshot(root) == before


def _start(disk: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cowroot", "install", "--image", str(disk)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_while_it_works_on_an_image(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.img", make_debian(tmp_path / "tree"))
    before = content(disk, tmp_path / "mnt")
    seed = random.Random(11)
    for _ in range(8):
        process = _start(disk)
        time.sleep(seed.uniform(0.2, 2.0))
        process.kill()
        process.communicate()
        uninstall(Choice(image=disk), lambda _: None)
        assert content(disk, tmp_path / "mnt") == before
    assert install(Choice(image=disk), None, lambda _: None).done == "installed"
    assert loop_devices(disk) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_a_tool_runs_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    disk = make_disk(tmp_path / "disk.img", make_debian(tmp_path / "tree", {"/usr/sbin/update-initramfs": _SLOW_TOOL}))
    before = content(disk, tmp_path / "mnt")
    process = _start(disk)
    assert process.stderr
    for line in process.stderr:
        if "waiting" in line:
            break
    process.send_signal(number)
    assert process.wait(timeout=30) == 130
    process.communicate()
    assert loop_devices(disk) == []
    assert content(disk, tmp_path / "mnt") == before


def test_a_tool_does_not_outlive_a_killed_installation(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.img", make_debian(tmp_path / "tree", {"/usr/sbin/update-initramfs": _SLOW_TOOL}))
    process = _start(disk)
    assert process.stderr
    for line in process.stderr:
        if "waiting" in line:
            break
    process.kill()
    process.communicate()  # ends when the last one that could write to the pipe is gone
    assert loop_devices(disk) == []
