"""A directory on a disk that fails on command, or is slow: shown by a FUSE file system of the tests' own (faulty_server.py)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CHANGING = (
    "setattr", "symlink", "mknod", "mkdir", "unlink", "rmdir", "rename", "rename2", "link", "write", "fsync", "fsyncdir", "setxattr",
    "removexattr", "create", "fallocate", "copy_file_range", "tmpfile",
)  # fmt: skip
# Of these, what needs room. A rename may, where a directory has to grow; the union counts on that not to be so in its work directory.
ALLOCATING = ("symlink", "mknod", "mkdir", "rename2", "link", "write", "setxattr", "create", "fallocate", "copy_file_range", "tmpfile")
READING = ("lookup", "getattr", "readlink", "open", "read", "statfs", "getxattr", "listxattr", "opendir", "readdir", "lseek")
ALL = CHANGING + READING


class FaultyDisk:
    """The directory `directory`, shown at `point` by a server that can be commanded. A context that leaves nothing mounted."""

    def __init__(self, directory: Path, point: Path) -> None:
        self.directory, self.point = directory, point
        for each in (directory, point):
            each.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> FaultyDisk:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            sys.executable,
            "-m",
            "tests.t4_mounted.faulty_server",
            os.fspath(self.directory),
            os.fspath(self.point),
            str(theirs.fileno()),
        ]
        root = Path(__file__).resolve().parent.parent.parent
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=root, start_new_session=True)
        theirs.close()
        self._control.settimeout(30)
        self._control.recv(64)
        return self

    def __exit__(self, *_exception: object) -> None:
        with contextlib.suppress(OSError):
            self.heal()
        subprocess.run(["umount", "-l", self.point], check=False)
        try:
            self._process.wait(20)  # it ends with the last user of the mount
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control.close()

    def _tell(self, **words: Any) -> dict[str, int]:
        self._control.send(json.dumps(words).encode())
        answer: dict[str, int] = json.loads(self._control.recv(1 << 16))
        return answer

    def fail(self, requests: Sequence[str] = ALL, number: int = errno.EIO, sparing: int = 0, times: int = -1) -> None:
        """From now on such requests fail with the errno `number`: not the first `sparing` of them, then `times` (-1: all)."""
        self._tell(fail=list(requests), errno=number, sparing=sparing, times=times)

    def hold(self, *requests: str) -> None:
        """From now on such requests are not answered, until `heal`; others are."""
        self._tell(hold=requests)

    def heal(self) -> None:
        """All is well again, and what was held is answered."""
        self._tell(fail=[], errno=0, sparing=0, times=0, hold=[])

    @property
    def failed(self) -> int:
        """How many requests have failed since `fail` was said."""
        return self._tell()["failed"]

    @property
    def waiting(self) -> int:
        """How many requests are held."""
        return self._tell()["waiting"]

    @contextlib.contextmanager
    def failing(self, requests: Sequence[str] = ALL, number: int = errno.EIO, sparing: int = 0, times: int = -1) -> Iterator[None]:
        self.fail(requests, number, sparing, times)
        try:
            yield
        finally:
            self._tell(fail=[], errno=0, sparing=0, times=0)
