"""The keeper: a process that does nothing but start another server when one has died.

It holds the descriptor of /dev/fuse, and with it the mount: the kernel takes a FUSE file system for dead when that is closed everywhere,
not when a process ends. Requests wait meanwhile; to programs it is a pause. Everything that serving needs was imported and opened before
the first server was forked, so a successor reads nothing from any file system, least of all from the one that stands still.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Callable

HASTY_SECONDS = 0.5  # a server that lives no longer than that
HASTY_DEATHS = 10  # so many in succession, and it is better to take it slowly
PAUSE_SECONDS = 0.25


def keep(serve: Callable[[int], None], say: Callable[[str], None]) -> None:
    """Have a process call `serve(generation)` until one returns; each that dies before is followed by another.

    Arguments: `say(text)` is told of each that died, and why.
    """
    generation, hasty = 0, 0
    while True:
        born = time.monotonic()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                serve(generation)
                code = 0
            finally:
                # not the interpreter's tidying up: a thread may be in the middle of something, and nothing is left to save
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return
        generation += 1
        # Who is killed from outside is not to blame; who dies of itself again and again should not take all the processor for it.
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        hasty = hasty + 1 if time.monotonic() - born < HASTY_SECONDS and not killed else 0
        say(f"server {pid} {_cause(status)}; another one goes on")
        if hasty >= HASTY_DEATHS:
            time.sleep(PAUSE_SECONDS)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with code {os.WEXITSTATUS(status)}"
