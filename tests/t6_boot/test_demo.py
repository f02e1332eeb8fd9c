"""`make demo` itself: BIOS, GRUB, a disk that refuses writes, a reboot, the image's checksum. The demo judges, this reads its verdict."""
from __future__ import annotations

import subprocess
import sys

import pytest

from tests.t6_boot.conftest import BOOT_LIMIT
from tests.t6_boot.image import CHECKOUT, Image
from tests.t6_boot.machine import PATIENCE


@pytest.mark.long
def test_the_demo(plain: Image, appliance: Image) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=4 * BOOT_LIMIT * PATIENCE,
    )
    assert run.returncode == 0, run.stdout
    summary = run.stdout.partition("What was proven")[2]
    print(summary)
    assert "the image file is the same to the byte" in summary
