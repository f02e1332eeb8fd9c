"""The checks that run in guests are shell like any other: a mistake in one must not first show in a machine."""
from __future__ import annotations

import subprocess

from tests.t6_boot.guest import CHECKS

# They are parts of one script: what one of them sets, another reads, and the check itself is read when it is known which.
_ACROSS_FILES = "SC2034,SC2154,SC2317"


def test_shellcheck() -> None:
    checks = sorted(CHECKS.iterdir())
    assert len(checks) > 5
    run = subprocess.run(
        ["shellcheck", "--shell=bash", "--severity=warning", f"--exclude={_ACROSS_FILES}", *map(str, checks)],
        stdout=subprocess.PIPE, text=True, check=False,
    )
    assert run.returncode == 0, run.stdout
