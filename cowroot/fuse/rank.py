"""What a daemon's process is allowed, and how much it counts beside others."""

from __future__ import annotations

import contextlib
import os
import resource

from cowroot.fuse import kernel

PRECEDENCE = -10  # as a nice value


def prepare(own_session: bool) -> None:
    """Have this process go before others and outlive them, as far as its user may. Arguments: `own_session`: nobody else is in it."""
    os.umask(0)  # the callers' own masks count
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # only root may raise the hard limit
        hard = max(hard, 1 << 20) if os.geteuid() == 0 and hard != resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # that of who mounts is not that of everybody whose files are written
    with contextlib.suppress(OSError, ValueError):
        limit = resource.RLIM_INFINITY if os.geteuid() == 0 else resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("-1000" if os.geteuid() == 0 else "0")
    kernel.become_io_flusher()
    _take_precedence(own_session)


def _take_precedence(own_session: bool) -> None:
    """Go before others, if we are root: everybody who uses the union waits for us, and not only for their own share of a processor.

    Between sessions it is the autogroup's value that counts (sched(7)). In the foreground the session is not ours.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, PRECEDENCE)
    if own_session:
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as autogroup:
            autogroup.write(f"{PRECEDENCE}")
