"""The real root is changed below a running union, or in boots that have it writable; then it is frozen again."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.t6_boot.conftest import Boot
from tests.t6_boot.image import Image


@pytest.mark.long
def test_a_disk_is_serviced_and_frozen_again(boot: Boot, appliance: Image, debs_disk: Path, work: Path) -> None:
    options = {"read_only": False, "changes": work / "disk.cow"}
    boot(appliance, "service-chroot", disks=[debs_disk], **options)
    thawed = boot(appliance, "service-thawed", **options)
    assert thawed.lines_with("cowroot: thawed: / is the real root")
    windowed = boot(appliance, "service-window", **options)
    assert windowed.lines_with("cowroot: thawed: / is the real root, and writable, until ")
    boot(appliance, "service-frozen", **options)
