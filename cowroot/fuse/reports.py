"""What the daemon says: to whoever waits for it to mount, and to the kernel's log."""

from __future__ import annotations

import contextlib
import os
from typing import Any

COMPLAINTS_EACH = 10
_complaints: dict[str, int] = {}  # by place in the code


def say(text: str) -> None:
    """One line for whoever reads what the daemon says."""
    with contextlib.suppress(OSError):
        os.write(2, f"cowroot: {text}\n".encode(errors="replace"))


def complain(operation: str, error: BaseException) -> None:
    """One line about something that should not have happened, without importing anything: where, and what.

    A fault that comes with every request must not flood the kernel's log: each place is named a few times only.
    """
    place, trace = "", error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    times = _complaints[place] = _complaints.get(place, 0) + 1
    if times > COMPLAINTS_EACH:
        return
    text = " ".join(str(error).split())
    say(f"{operation}: {type(error).__name__}: {text} ({place})")


def complain_unraisable(unraisable: Any) -> None:
    """The same, for what Python can tell nobody else."""
    complain("callback", unraisable.exc_value or RuntimeError(str(unraisable.err_msg)))


def detach_output() -> None:
    """Let go of the starter's terminal or pipes: what is said later goes to the kernel's log, or nowhere."""
    try:
        log = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        log = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)


def tell(fd: int, *fields: str) -> None:
    """Report to whoever waits for the union: "mounted" and the device number; or "error", exit code, hint and message."""
    with contextlib.suppress(OSError):  # whoever waited has gone; the union is there all the same
        os.write(fd, "\0".join(fields).encode(errors="surrogateescape"))
    os.close(fd)
