"""Several threads, of which one at a time reads from the kernel: what takes long is done by a thread that has stepped aside.

One thread leads. It reads a request, answers it, reads the next, as if there were no other. Before something that may take long (a read
from the disk, a sync, a copy) it steps aside: the next thread leads, a new one if all are busy, and this one does the call, replies by
itself, and queues to lead again. So the call begins at once, and nobody waits for it but who asked for it. Threads come into being when
they are first needed; most mounts have one for all their life.

Rules:

- `lock` is for everything that threads share: the union, its nodes and handles, the session. The leader has it while it answers, who has
  stepped aside does not.
- Aside, a thread touches its own request and descriptors that it has duplicated before, nothing else. If it has to change the union after
  all, it takes the lock again, and then nothing that it knew from before holds.
- Nobody waits for another while having the lock.
"""

from __future__ import annotations

import _thread
import sys
from typing import Callable

from cowroot.fuse.direct.request import Request

# What threads step aside for, and how many may at once, so that none of these can keep the others from their threads
READING, WRITING, COPYING = range(3)
MOST = (8, 4, 4)
ALL = 1 + sum(MOST)  # threads, at the most
_SWITCH_SECONDS = 0.0005  # after which the interpreter may pass from one thread to the next: 0.005 is long for a request


class TooManyError(Exception):
    """As many threads as may are doing such things: the request has to wait, before anything of it is done."""


class Threads:
    """Who leads, and who is aside.

    Arguments: `serve(request)` is what a thread does, with a request of its own, until the mount ends; `make_request()`: such a request.
    """

    def __init__(self, serve: Callable[[Request], None], make_request: Callable[[], Request]) -> None:
        self._serve = serve
        self._make_request = make_request
        self.lock = _thread.allocate_lock()
        self._turn = _thread.allocate_lock()  # to lead
        self._count = 1  # threads; with one that leads, never more than are allowed aside
        self._waiting = 0  # for the turn
        self._coming: set[Request] = set()  # of threads that were started, and count as waiting before they are
        self._unused: list[Request] = []  # of threads that could not be started
        self._aside = [0] * len(MOST)

    def take_turn(self, request: Request) -> None:
        """Wait until this thread leads."""
        with self.lock:
            if request in self._coming:
                self._coming.discard(request)
            else:
                self._waiting += 1
        self._turn.acquire()
        with self.lock:
            self._waiting -= 1
        request.leading = True

    def step_aside(self, request: Request, kind: int) -> None:
        """Give up the lock, and the lead: what follows may take its time. Raises TooManyError, and then nothing has changed.

        Where the system has no room for another thread, nothing changes either: then all wait for what follows.
        """
        if self._aside[kind] >= MOST[kind]:
            raise TooManyError
        if request.leading and not self._waiting and not self._start():
            return
        request.aside = kind
        self._aside[kind] += 1
        request.locked = False
        if request.leading:
            request.leading = False
            self._turn.release()
        self.lock.release()

    def _start(self) -> bool:
        if self._count == 1:
            sys.setswitchinterval(_SWITCH_SECONDS)
        request = self._unused.pop() if self._unused else self._make_request()
        try:
            _thread.start_new_thread(self._serve, (request,))
        except RuntimeError:
            self._unused.append(request)
            return False
        # Already now: who steps aside before it has come so far would start one more, and more than there are slots in the end.
        self._coming.add(request)
        self._waiting += 1
        self._count += 1
        return True

    def come_back(self, request: Request) -> None:
        """Take the lock, after having stepped aside, and be no longer aside."""
        if request.locked:
            return
        self.lock.acquire()
        request.locked = True
        if request.aside is not None:
            self._aside[request.aside] -= 1
            request.aside = None

    def end_turn(self, request: Request) -> None:
        """Let the next thread lead, if this one still does."""
        if request.leading:
            request.leading = False
            self._turn.release()
