"""Boot the appliance with its own kernel, put it to sleep under file load and wake it up, again and again.

``python -m tests.t6_boot.sleeps --times 20``: suspend to RAM, by systemd; QEMU wakes the machine. The console of a boot that went wrong
stays in .cache/sleeps/.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.t6_boot import by_hand, image, qemu
from tests.t6_boot.image import Image
from tests.t6_boot.machine import Ended, attend


@contextlib.contextmanager
def woken(monitor: Path) -> Iterator[None]:
    """A machine that sleeps is woken up a second later, over QEMU's socket for orders (QMP)."""
    ended = threading.Event()
    thread = threading.Thread(target=_wake, args=(monitor, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _wake(monitor: Path, ended: threading.Event) -> None:
    while not monitor.exists():  # QEMU makes it
        if ended.wait(0.1):
            return
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(monitor))
        with connection.makefile("rw") as lines:
            _order(lines, "qmp_capabilities")
            while not ended.wait(0.5):
                try:
                    if _order(lines, "query-status")["status"] == "suspended":
                        time.sleep(1)
                        _order(lines, "system_wakeup")
                except (OSError, ValueError):  # the machine has ended
                    return


def _order(lines: Any, name: str) -> Any:
    lines.write(json.dumps({"execute": name}) + "\n")
    lines.flush()
    while True:
        answer = json.loads(lines.readline())  # ValueError at the end of the connection
        if "return" in answer or "error" in answer:
            return answer.get("return")


def sleep(appliance: Image, place: Path, engine: str, times: int) -> Ended:
    """Boot, and sleep ``times`` times; return how it ended. Raises BootError."""
    monitor = place / "monitor"
    parameters = [f"cowroot.engine={engine}", f"test.times={times}"]
    with qemu.start_kernel(appliance, "sleep", place, parameters=parameters, monitor=monitor) as machine, woken(monitor):
        return attend(machine, limit=900, ending_limit=300)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--engine", choices=("direct", "fusepy"), default="direct")
    options = parser.parse_args(arguments)
    return by_hand.run("sleeps", lambda place: sleep(image.installed(), place, options.engine, options.times), "sleeps|suspend_stats/")


if __name__ == "__main__":
    sys.exit(main())
