"""What the tests' own machines have to bear: others that boot from the same image at the same time."""
from __future__ import annotations

import fcntl
from pathlib import Path

from tests.t6_boot import qemu
from tests.t6_boot.image import Image


def test_an_image_that_another_machine_has_locked_is_booted(plain: Image, work: Path) -> None:
    with plain.disk.open("rb") as read:
        fcntl.lockf(read, fcntl.LOCK_SH)  # as User Mode Linux does with a read-only disk
        with qemu.start(plain, work) as machine:
            machine.wait_for("GNU GRUB", 60)
