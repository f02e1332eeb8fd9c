"""Debian with sysvinit instead of systemd: what its scripts do to / at the begin and at the end."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.t6_boot.conftest import Boot
from tests.t6_boot.image import Image
from tests.t6_boot.test_boot import assert_unmounted


@pytest.mark.long
def test_sysvinit(boot: Boot, sysvinit_appliance: Image, upper_disk: Path, work: Path) -> None:
    """The shutdown's killing passes the daemon by, and its last script leaves the upper's device as if it had been unmounted.

    The third boot is in a maintenance window, and ends with that.
    """
    options = {"writable": [upper_disk], "parameters": ["cowroot.upper=LABEL=upper"], "read_only": False, "changes": work / "disk.cow"}
    ended = boot(sysvinit_appliance, "sysvinit", **options)
    assert ended.lines_with(r"cowroot: / is a union")
    assert_unmounted(upper_disk)
    boot(sysvinit_appliance, "sysvinit-again", **options)
    assert_unmounted(upper_disk)
    boot(sysvinit_appliance, "sysvinit-window", **options)


def test_sysvinit_keeps_a_root_without_a_union_read_only(boot: Boot, sysvinit_appliance: Image) -> None:
    parameters = ["cowroot.upper=LABEL=no-such-disk", "cowroot.wait=0", "cowroot.on_failure=read-only,shell"]
    boot(sysvinit_appliance, "sysvinit-read-only", read_only=False, parameters=parameters)
