"""Debian with sysvinit instead of systemd: what its scripts do to / at the begin and at the end."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.t6_boot.conftest import Boot
from tests.t6_boot.image import Image
from tests.t6_boot.test_boot import assert_unmounted


@pytest.mark.long
def test_sysvinit(boot: Boot, sysvinit_appliance: Image, upper_disk: Path) -> None:
    """The shutdown's killing passes the daemon by. Its unmounting does the upper, too, whose journal has all that was written."""
    ended = boot(sysvinit_appliance, "sysvinit", writable=[upper_disk], parameters=["cowroot.upper=LABEL=upper"])
    assert ended.lines_with(r"cowroot: / is a union")
    replayed = subprocess.run(["e2fsck", "-p", str(upper_disk)], stdout=subprocess.PIPE, check=False, text=True)
    assert replayed.returncode in (0, 1), replayed.stdout
    assert_unmounted(upper_disk)
    written = subprocess.run(["debugfs", "-R", "cat /cowroot/upper/etc/new", str(upper_disk)], stdout=subprocess.PIPE, check=True)
    assert written.stdout == b"new\n"


def test_sysvinit_keeps_a_root_without_a_union_read_only(boot: Boot, sysvinit_appliance: Image) -> None:
    parameters = ["cowroot.upper=LABEL=no-such-disk", "cowroot.wait=0", "cowroot.on_failure=read-only,shell"]
    boot(sysvinit_appliance, "sysvinit-read-only", read_only=False, parameters=parameters)
