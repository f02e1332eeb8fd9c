"""Random operations on the content of one large file: what fsx does, with several descriptors, mappings, names and remounts.

Large files are copied up block by block as they are written, so that offsets here are any, and mostly near block edges.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from tests.behaviour import calls
from tests.behaviour.session import Operation
from tests.behaviour.trees import File, Hardlink, Spec, Tree

SIZE = 600_000  # bytes, about; more than is copied up at once
NAMES = (b"f", b"g", b"d/h")
SLOTS = 4


def layers(seed: int) -> list[Tree]:
    """One large file with data, holes and perhaps a second name, and another to copy from."""
    chance = random.Random(f"data layers {seed}")

    def large() -> File:
        extents = [(chance.randrange(SIZE), chance.randrange(200), chance.choice((1, 4096, 100_000))) for _ in range(chance.randrange(6))]
        return File(extents=extents, size=chance.choice((SIZE, SIZE - 1, SIZE // 4096 * 4096, 200_000)))

    tree: dict[bytes, Spec] = {b"f": large(), b"other": large()}
    if chance.random() < 0.3:
        tree[b"g"] = Hardlink(b"f")
    return [tree]


class DataGenerator:
    """Yields operations. `lacks`: features (see `backends.FEATURES`) whose operations are left out."""

    def __init__(self, seed: int, lacks: frozenset[str]) -> None:
        self._chance = random.Random(f"data {seed}")
        chance, slot, offset, length, tag = self._chance, self._slot, self._offset, self._length, self._tag
        self._choices: list[tuple[int, Callable[[], Operation]]] = [
            (6, lambda: ("open", slot(), self._name(), self._flags(), 0o644)),
            (2, lambda: ("close", slot())),
            (12, lambda: ("pread", slot(), offset(), length())),
            (16, lambda: ("pwrite", slot(), offset(), tag(), length())),
            (3, lambda: ("write", slot(), tag(), length())),
            (3, lambda: ("read", slot(), length())),
            (4, lambda: ("truncate", self._target(), offset())),
            (2, lambda: ("fsync", slot())),
            (4, lambda: ("copy_range", slot(), offset(), slot(), offset(), length())),
            (3, lambda: ("map", chance.randrange(2), slot(), chance.random() < 0.7)),
            (5, lambda: ("map_read", chance.randrange(2), offset(), length())),
            (6, lambda: ("map_write", chance.randrange(2), offset(), tag(), length())),
            (3, lambda: ("stat", self._target(), True)),
            (2, lambda: ("chmod", self._target(), chance.choice((0o644, 0o600)))),
            (2, lambda: ("utimens", self._target(), 1, 1_234_567_890_123_456_789, True)),
            (1, lambda: ("rename", self._name(), self._name(), 0)),
            (1, lambda: ("link", self._name(), self._name())),
            (1, lambda: ("unlink", self._name())),
            (1, lambda: ("mkdir", b"d", 0o755)),
            (2, lambda: ("cat", self._name())),
            (1, lambda: ("remount",)),
        ]
        if "fallocate" not in lacks:
            self._choices.append((6, lambda: ("fallocate", slot(), self._mode(), offset(), length())))
        self._weights = [weight for weight, _ in self._choices]

    def next(self) -> Operation:
        return self._chance.choices(self._choices, self._weights)[0][1]()

    def _slot(self) -> int:
        return self._chance.randrange(SLOTS)

    def _name(self) -> bytes:
        return self._chance.choices((*NAMES, b"other"), (6, 2, 1, 2))[0]

    def _target(self) -> object:
        return self._slot() if self._chance.random() < 0.6 else self._name()

    def _flags(self) -> int:
        chance = self._chance
        flags = chance.choice((os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY))
        return flags | (os.O_APPEND if chance.random() < 0.1 else 0) | (os.O_TRUNC if chance.random() < 0.03 else 0)

    def _offset(self) -> int:
        chance = self._chance
        at = chance.randrange(SIZE + 50_000)
        return max(0, at // 4096 * 4096 + chance.choice((-1, 0, 0, 1))) if chance.random() < 0.5 else at

    def _length(self) -> int:
        return self._chance.choice((0, 1, 100, 4095, 4096, 4097, 8192, 50_000, self._chance.randrange(1, 200_000)))

    def _tag(self) -> int:
        return self._chance.randrange(200)

    def _mode(self) -> int:
        keep = calls.FALLOC_KEEP_SIZE
        return self._chance.choice((0, keep, keep | calls.FALLOC_PUNCH_HOLE, keep | calls.FALLOC_PUNCH_HOLE, calls.FALLOC_ZERO_RANGE))
