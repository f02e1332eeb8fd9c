"""The helper that umount(8) runs for the type fuse.cowroot.

umount(2) returns before the daemon has heard of it. Whoever goes on to unmount the disk of a layer would be told that it is busy.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Optional

from cowroot.fuse import control
from cowroot.mountinfo import mounts

_PATIENCE = 10.0  # seconds for it to end: it goes on for as long as somebody elsewhere has the union mounted or a file of it open


def umount_helper(arguments: Optional[Sequence[str]] = None) -> int:
    """/sbin/umount.fuse.cowroot MOUNTPOINT [-flnrv] [-N NAMESPACE] [-t TYPE], as umount(8) calls it. The exit code is umount's.

    The unmounting itself is umount's too, which knows what an ordinary user may and what an mtab needs. Here is only the waiting.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    pid = None if any(word.startswith("-") and "l" in word for word in words) else _daemon_of(words)
    pidfd = _pidfd(pid) if pid is not None else None
    code = subprocess.run(["umount", "-i", *words], check=False).returncode
    if code == 0 and pid is not None and not _ended(pid, pidfd):
        sys.stderr.write(f"umount.fuse.cowroot: unmounted, but process {pid} still serves files that are open elsewhere\n")
    return code


def _daemon_of(words: Sequence[str]) -> Optional[int]:
    """The process that will end with the mount among `words`; None if that is not known, or if it is mounted in another place, too."""
    table = mounts()
    devices = [mount.device for mount in table if mount.point in words]
    if not devices or [mount.device for mount in table].count(devices[-1]) > 1:
        return None
    try:
        return control.process_behind(control.socket_for(devices[-1]))
    except OSError:
        return None


def _pidfd(pid: int) -> Optional[int]:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # before Linux 5.3
        return None


def _ended(pid: int, pidfd: Optional[int]) -> bool:
    if pidfd is not None:
        return bool(select.select([pidfd], [], [], _PATIENCE)[0])
    deadline = time.monotonic() + _PATIENCE
    while os.path.exists(f"/proc/{pid}"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
