"""Idle processors are kept from sleeping while requests follow each other closely.

Each request takes two wake-ups, of the daemon and of whoever asked. As a rule these two are on different processors, of which one is idle
while the other works, and an idle processor sleeps. To wake a virtual one takes tens of microseconds, several times what an answer takes;
real ones in their deeper states are no better. While somebody holds a latency of nought, the kernel lets idle processors look for work in
a loop instead (Documentation/power/pm_qos_interface.rst in Linux's sources).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import struct
import time
from typing import Optional

DEVICE = "/dev/cpu_dma_latency"  # root's alone; what is asked for there holds for as long as it is open
LAP = 16  # requests
_MOST_SECONDS = 0.004  # that a lap takes in a rush
_IDLE_SECONDS = 0.02  # without such a lap, after which a rush is over
# microseconds; the second is the kernel's own value for "no matter" (PM_QOS_CPU_LATENCY_DEFAULT_VALUE in include/linux/pm_qos.h)
_NONE_AT_ALL, _ANY = struct.pack("=i", 0), struct.pack("=i", 2_000_000_000)


class Latency:
    """What the daemon asks of idle processors.

    Arguments: `wanted`: ask at all; `path`: the kernel's device; `fd`: a descriptor of that, or -1 for none, where it was opened before.
    Where that cannot be opened, or there is but one processor, nothing is ever asked.
    """

    def __init__(self, wanted: bool, path: str = DEVICE, fd: Optional[int] = None) -> None:
        self.fd = -1 if fd is None else fd
        self._then = 0.0
        self._quick_laps = 0
        self._held = False
        if fd is None and wanted and len(os.sched_getaffinity(0)) > 1:
            with contextlib.suppress(OSError):
                self.fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    @property
    def is_possible(self) -> bool:
        return self.fd >= 0

    def begin(self) -> None:
        """Requests are answered from now on, in this process. Another one may have been killed in a rush."""
        self._ask(_ANY)

    def lap(self) -> None:
        """LAP requests have come since this was last called. If that was quick, it is a rush."""
        now = time.monotonic()
        if now - self._then < _MOST_SECONDS:
            self._quick_laps += 1
            if not self._held and self.is_possible:
                self._hold()
        self._then = now

    def _hold(self) -> None:
        # A thread that looks on from time to time costs a request nothing. It alone lets go, so this need not be locked.
        with contextlib.suppress(RuntimeError):  # there is no room for a thread
            _thread.start_new_thread(self._let_go_in_time, ())
            self._held = True
            self._ask(_NONE_AT_ALL)

    def _let_go_in_time(self) -> None:
        before = -1
        while before != self._quick_laps:
            before = self._quick_laps
            time.sleep(_IDLE_SECONDS)
        self._ask(_ANY)
        self._held = False

    def _ask(self, microseconds: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self.fd, microseconds)
