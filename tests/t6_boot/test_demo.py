"""`make demo` itself: BIOS, GRUB, a disk that refuses writes, a reboot, the image's checksum. The demo judges, this reads its verdict."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from demo.login import Login
from tests.t6_boot.conftest import BOOT_LIMIT
from tests.t6_boot.image import CHECKOUT, Image
from tests.t6_boot.machine import PATIENCE, BootError, Machine


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


_LOGIN = """
for answer in "$@"; do
    printf 'appliance login: '; read -r user; printf 'Password: '; read -r password; echo; printf "$answer"
done
[ "$user $password" = 'root appliance' ] && exec bash --norc
"""


def test_a_login_that_took_too_long_is_tried_again(work: Path) -> None:
    slow = "login: timed out after 60 seconds\\n"
    with Machine(["bash", "-c", _LOGIN, "bash", slow, slow, "# "], work / "console.log") as machine:
        assert Login(machine, 60).run("echo $((40 + 2)); false") == ("42", 1)
    with Machine(["bash", "-c", _LOGIN, "bash", *4 * [slow]], work / "console.log") as machine, pytest.raises(BootError, match="4 logins"):
        Login(machine, 60)
