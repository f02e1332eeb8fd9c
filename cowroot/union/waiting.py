"""What takes as long as there is data, for an engine that would rather not have all others wait for it.

A call that would exceed `Tree.patience` raises Wait before it has changed anything. The engine runs that, while it makes other calls, and
then makes the call again.
"""

from __future__ import annotations

import sys

from cowroot.union.node import Node

WITHOUT_END = sys.maxsize  # bytes: the patience of an engine that does one thing at a time


class Wait(Exception):
    """Something that has to be done before the call, about `node`.

    `prepare` and `finish` are calls of the union like any other, `run` is made at any time between them, in any thread. `finish` has to
    be called in every case, with whether `run` came to its end. All raise OSError where the call cannot succeed.
    """

    long = True  # it takes as long as there is data; or just as long as a disk
    settles = True  # afterwards it is done for good; or the call, made again, may come upon it again, and should be patient then

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.node = node

    def prepare(self) -> None:
        """Hold what `run` is going to need."""

    def run(self) -> None:
        """Do it. Nothing is touched that another call could touch."""

    def finish(self, done: bool) -> None:
        """Have the union know of it."""
