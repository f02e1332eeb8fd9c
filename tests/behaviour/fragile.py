"""A daemon whose server is killed at the worst moments: just before and just after the system calls that change something.

Run as a script in place of cowroot/fuse/entry.py, with the chance of a kill per call (1 in so many) before the daemon's own arguments.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sys
from typing import Any, Callable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

CHANGING = (
    "open", "mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename", "chmod", "chown", "setxattr", "removexattr", "ftruncate",
    "pwrite", "copy_file_range", "write", "writev", "readv",
)  # fmt: skip


def explosive(call: Callable[..., Any], one_in: int, keeper: int, dice: random.Random) -> Callable[..., Any]:
    """The same call, but whoever makes it may not live to see what came of it. The keeper does."""

    def lit(*arguments: Any, **options: Any) -> Any:
        if os.getpid() == keeper:
            return call(*arguments, **options)
        if not dice.randrange(2 * one_in):
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **options)
        if not dice.randrange(2 * one_in):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return lit


def main() -> None:
    from cowroot.fuse import daemon
    from cowroot.union import syscalls

    one_in = int(sys.argv[1])
    process = os.getpid()
    dice = random.Random(int.from_bytes(os.urandom(8), "little"))

    os.register_at_fork(after_in_child=lambda: dice.seed(os.urandom(8)))
    for name in CHANGING:
        setattr(os, name, explosive(getattr(os, name), one_in, process, dice))
    libc: Any = syscalls._libc
    libc.renameat2 = explosive(libc.renameat2, one_in, process, dice)
    fcntl.ioctl = explosive(fcntl.ioctl, one_in, process, dice)
    daemon.main(sys.argv[2:])


if __name__ == "__main__":
    main()
