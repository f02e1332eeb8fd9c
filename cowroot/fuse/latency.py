"""Idle processors are kept from sleeping while requests follow each other closely.

Each request takes two wake-ups, of the daemon and of whoever asked. As a rule these two are on different processors, of which one is idle
while the other works, and an idle processor sleeps. To wake a virtual one takes tens of microseconds, several times what an answer takes;
real ones in their deeper states are no better. While somebody holds a latency of nought, the kernel lets idle processors look for work in
a loop instead (Documentation/power/pm_qos_interface.rst in Linux's sources).
"""

from __future__ import annotations

import contextlib
import os
import struct
import time

DEVICE = "/dev/cpu_dma_latency"  # root's alone; a request for as long as it is open
LAP = 16  # requests
IDLE_MILLISECONDS = 2  # without a request, after which processors may sleep again
_MOST_SECONDS = 0.004  # that a lap of a busy program takes
# microseconds; the second is the kernel's own value for "no matter" (PM_QOS_CPU_LATENCY_DEFAULT_VALUE in include/linux/pm_qos.h)
_NONE_AT_ALL, _ANY = struct.pack("=i", 0), struct.pack("=i", 2_000_000_000)


class Latency:
    """What the daemon asks of idle processors: `held` while they are not to sleep.

    Arguments: `wanted`: ask at all; `path`: the kernel's device. Where that cannot be opened, or there is but one processor, nothing is
    ever asked.
    """

    def __init__(self, wanted: bool, path: str = DEVICE) -> None:
        self.held = False
        self._fd = -1
        self._then = 0.0
        if wanted and len(os.sched_getaffinity(0)) > 1:
            with contextlib.suppress(OSError):
                self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    @property
    def is_possible(self) -> bool:
        return self._fd >= 0

    def lap(self) -> None:
        """LAP requests have come since this was last called: hold while that is quick, let go when it is not."""
        now = time.monotonic()
        quick = now - self._then < _MOST_SECONDS
        self._then = now
        if quick != self.held:
            self._ask(quick)

    def let_go(self) -> None:
        """No request has come for a while; or who held it was killed."""
        self._ask(False)

    def _ask(self, held: bool) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.write(self._fd, _NONE_AT_ALL if held else _ANY)
                self.held = held
