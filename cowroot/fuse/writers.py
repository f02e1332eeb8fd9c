"""Who wrote what is in the upper, for `cowroot usage`: the process and the service unit that opened a file for writing last.

The kernel tells with each request which thread asks. What that is called is read from /proc when the thread is first seen, and again some
time later, since numbers of threads are used again. Nothing there waits for a file system: not for names, nor for control groups.
"""

from __future__ import annotations

import os
import time
from itertools import islice
from typing import Any

from cowroot.union.syscalls import fd_directory

MOST_FILES = 32768  # remembered; then those that were written longest ago are forgotten, a part at a time
MOST_LABELS = 1024
MOST_THREADS = 4096
SECONDS = 10.0  # for which a thread is known
OTHERS = ("", "")  # the label of those for whom there is no number left
_UNITS = (".service", ".scope", ".socket", ".mount", ".swap")


class Writers:
    """The writers of one union's files, by inode number. Used by one thread at a time, but for `answer`."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}  # inode number: label
        self._labels = {OTHERS: 0}
        self._threads: dict[int, tuple[int, float]] = {}  # label, and until when it is good

    def note(self, ino: int, thread: int) -> None:
        """A file is open for writing, or has been copied up, for `thread`; 0: for nobody whom the kernel could tell."""
        known = self._threads.get(thread)
        if known is None or known[1] < time.monotonic():
            known = self._meet(thread)
        files = self._files
        files[ino] = known[0]
        if len(files) > MOST_FILES:
            for forgotten in list(islice(files, MOST_FILES // 4)):
                del files[forgotten]

    def _meet(self, thread: int) -> tuple[int, float]:
        if len(self._threads) >= MOST_THREADS:
            self._threads.clear()
        label = label_of(thread) if thread else OTHERS
        number = self._labels.get(label, 0)
        if not number and len(self._labels) < MOST_LABELS and label != OTHERS:
            number = self._labels[label] = len(self._labels)
        known = self._threads[thread] = number, time.monotonic() + SECONDS
        return known

    def answer(self, fs: int) -> dict[str, Any]:
        """For the control socket. `fs`: the number of the upper's file system in inode numbers (numbers.py).

        `labels`: unit and command; `files`: for each label the inode numbers, hexadecimal, as text.
        """
        files: list[list[str]] = [[] for _ in self._labels]
        for ino, label in self._files.copy().items():
            files[label].append(f"{ino:x}")
        return {"fs": fs, "labels": [list(label) for label in self._labels], "files": [" ".join(numbers) for numbers in files]}


def label_of(thread: int) -> tuple[str, str]:
    """The service unit and the command of a thread's process; "" for what cannot be told."""
    place = b"%s../../%d/" % (fd_directory(), thread)
    status = dict(line.split(b":\t", 1) for line in _read(place + b"status").split(b"\n")[:10] if b":\t" in line)
    process = status.get(b"Tgid", b"%d" % thread)
    command = status.get(b"Name", b"")
    if process != b"%d" % thread:
        command = _read(b"%s../../%s/comm" % (fd_directory(), process)).rstrip(b"\n") or command
    return unit_in(_read(place + b"cgroup").decode(errors="replace")), command.decode(errors="replace")


def unit_in(cgroups: str) -> str:
    """The innermost unit among the control groups of a process (cgroups(7)): systemd's, of either version."""
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            units = [part for part in path.split("/") if part.endswith(_UNITS)]
            if units:
                return units[-1]
    return ""


def _read(path: bytes) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:  # it has ended
        return b""
    finally:
        os.close(fd)
