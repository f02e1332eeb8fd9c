"""The Ansible role and the Puppet module: what they change, that a second time they change nothing, and what they refuse."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.t3_install.fake import snapshot
from tests.t3_install.provisioned import Machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installing mounts an overlay, which needs root")

# The rules are not in the order of the alphabet: the first that fits decides.
SETTINGS = {"engine": "fusepy", "upper": {"size": "40%"}, "mounts": {"/srv": "read-only", "/home": "pass"}}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_role(machine: Machine) -> None:
    before = snapshot(machine.root)
    changed, failed, text = machine.ansible("--check", settings=SETTINGS)
    assert (changed, failed) == (1, 0), text
    assert snapshot(machine.root) == before

    changed, failed, text = machine.ansible(settings={"upper": {"sise": "40%"}})
    assert (changed, failed) == (0, 1)
    assert "cowroot_settings.upper.sise. Supported parameters include: create," in text

    changed, failed, text = machine.ansible(settings=SETTINGS)
    assert (changed, failed) == (1, 0), text
    assert "size: 40%" in machine.settings.read_text()
    assert machine.settings.read_text().index("/srv") < machine.settings.read_text().index("/home")
    changed, failed, text = machine.ansible(settings=SETTINGS)
    assert (changed, failed) == (0, 0), text

    machine.become_union()
    before_refusal = snapshot(machine.root)
    changed, failed, text = machine.ansible(settings={})
    assert (changed, failed) == (0, 1), text
    assert "the disk below it is to be changed" in text
    assert snapshot(machine.root) == before_refusal
    assert machine.chrooted() == ""

    changed, failed, text = machine.ansible(settings={}, on_union="chroot")
    assert (changed, failed) == (1, 0), text
    assert machine.chrooted() == "cowroot install --json --config /dev/stdin\n"
    assert "size" not in machine.settings.read_text()
    machine.leave_union()

    changed, failed, text = machine.ansible(state="absent")
    assert (changed, failed) == (1, 0), text
    assert snapshot(machine.root) == before


def test_the_module(machine: Machine) -> None:
    before = snapshot(machine.root)
    settings = "settings => { engine => 'fusepy', upper => { size => '40%' }, mounts => { '/srv' => 'read-only' } }"
    code, text = machine.puppet(settings, "--noop")
    assert re.search(r"Exec\[cowroot install\]/returns: .*\(noop\)", text), text
    assert snapshot(machine.root) == before

    code, text = machine.puppet("settings => { upper => { sise => '40%' } }")
    assert code == 1
    assert "parameter 'settings' entry 'upper' unrecognized key 'sise'" in text

    code, text = machine.puppet(settings)
    assert code == 2, text
    assert "size: 40%" in machine.settings.read_text()
    assert machine.puppet(settings)[0] == 0

    machine.become_union()
    code, text = machine.puppet("settings => {}")
    assert code == 4
    assert "the disk below it is to be changed" in text
    machine.leave_union()

    code, text = machine.puppet("ensure => absent")
    assert code == 2, text
    assert snapshot(machine.root) == before
