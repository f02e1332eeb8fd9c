"""Installing onto an EFI system partition takes a kernel with FAT. User Mode Linux has one: the tests of that run there, on this machine's
files, which it can only read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.t6_boot import uml
from tests.t6_boot.conftest import BOOT_LIMIT
from tests.t6_boot.image import CHECKOUT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the files of this machine are read as root")

_INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/run TMPDIR=/run PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
for module in {modules}; do insmod "$module"; done
cd {checkout}
{python} -m pytest -q -p no:cacheprovider --basetemp=/run/pytest tests/t3_install/test_boot_menus.py -k to_the_byte
echo "ENDED $?"
busybox halt -f
"""


def test_installing_onto_an_efi_system_partition(work: Path) -> None:
    init = work / "init"
    init.write_text(_INIT.format(modules=" ".join(map(str, uml.fat_modules())), checkout=CHECKOUT, python=sys.executable))
    init.chmod(0o755)
    said = uml.run_on_these_files(init, work, BOOT_LIMIT)
    assert "ENDED 0" in said, said
    assert "1 passed" in said, said
