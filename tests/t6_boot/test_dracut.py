"""Debian whose initrds are made by dracut: the same union, by the same functions, before systemd in the initrd goes on."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.t6_boot.conftest import Boot
from tests.t6_boot.image import Image
from tests.t6_boot.test_boot import assert_unmounted


@pytest.mark.long
def test_dracut_with_an_upper_on_a_disk(boot: Boot, dracut_appliance: Image, upper_disk: Path) -> None:
    """systemd in the initrd, and out of it again; the upper outlives a reboot."""
    parameters = ["rd.cowroot.upper=LABEL=upper"]
    ended = boot(dracut_appliance, "upper-write", writable=[upper_disk], parameters=parameters)
    assert ended.lines_with(r"cowroot: / is a union")
    assert_unmounted(upper_disk)
    boot(dracut_appliance, "upper-read", writable=[upper_disk], parameters=parameters)
    assert_unmounted(upper_disk)


def test_dracut_leaves_the_union_out_for_one_boot(boot: Boot, dracut_appliance: Image) -> None:
    boot(dracut_appliance, "off", read_only=False, parameters=["cowroot=off"])
