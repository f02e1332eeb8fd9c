"""A daemon with a fault that no server survives: looking up the name `poison`. Run as a script, with the daemon's own arguments."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Optional

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent.parent))

from cowroot.fuse import daemon
from cowroot.union import Node, Union


def main() -> None:
    sound = Union.find

    def find(self: Union, parent: Node, name: bytes) -> Optional[Node]:
        if name == b"poison":
            os.kill(os.getpid(), signal.SIGSEGV)
        return sound(self, parent, name)

    Union.find = find  # type: ignore[method-assign]
    daemon.main(sys.argv[1:])


if __name__ == "__main__":
    main()
