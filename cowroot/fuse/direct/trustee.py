"""Descriptors that the keeper holds for a server, so that the next one has them.

Of what has been removed, nothing on the disk leads to the object: it is there for as long as somebody has a descriptor of it. Everything
else of a server's a successor opens again.
"""

from __future__ import annotations

import _socket
import contextlib
import os
from collections.abc import Container
from typing import Optional

from cowroot.fuse.keeper import GIVE_BACK, KEEP
from cowroot.fuse.messages import send


class Trustee:
    """`kept`: by the node's number, the descriptors that the keeper had when this server was started, until somebody takes them up."""

    def __init__(self) -> None:
        self.kept: dict[int, int] = {}
        self._keeper: Optional[_socket.socket] = None
        self._entrusted: set[int] = set()

    def begin(self, keeper: Optional[_socket.socket], kept: dict[int, int]) -> None:
        """`keeper` is the connection with it, `kept` what it has."""
        self._keeper, self.kept = keeper, dict(kept)
        self._entrusted = set(kept)

    def give_back_others(self, known: Container[int]) -> None:
        """Of nodes that are not `known` a predecessor had no use any more, and was killed before it said so."""
        for number in [number for number in self.kept if number not in known]:
            self.give_back(number)

    def keep(self, number: int, fd: int) -> None:
        """Have the keeper hold what node `number` is reached by."""
        if number not in self._entrusted and self._keeper is not None:
            self._entrusted.add(number)
            with contextlib.suppress(OSError):  # it is gone, and nobody will follow us
                send(self._keeper, b"%s %d" % (KEEP, number), fd)

    def give_back(self, number: int) -> None:
        """Nobody can ask for the node any more."""
        if number in self._entrusted and self._keeper is not None:
            self._entrusted.discard(number)
            if number in self.kept:
                os.close(self.kept.pop(number))
            with contextlib.suppress(OSError):
                send(self._keeper, b"%s %d" % (GIVE_BACK, number))
