"""Unions without a mount, over real directories on tmpfs and ext4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cowroot.union import Caller, LayerSpec, Node, Union

ROOT = Caller(0, 0, 0o022)


class Bench:
    """A place with layers, and the union over them; short ways to say what a test does."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.lower = base / "lower"
        self.upper = base / "upper"
        self.work = base / "work"
        for directory in (self.lower, self.upper, self.work):
            directory.mkdir()
        self.lowers = [self.lower]
        self.metacopy = True
        self._union: Union | None = None

    @property
    def union(self) -> Union:
        if self._union is None:
            self._union = Union.open(LayerSpec([str(low) for low in self.lowers], str(self.upper), str(self.work), metacopy=self.metacopy))
        return self._union

    def remount(self) -> Union:
        self.close()
        return self.union

    def freeze(self, place: Path | None = None) -> Union:
        """Have what is the upper be the topmost lower, below a new upper in `place`, a new directory where that is not given."""
        self.close()
        place = place or self.base / f"above{len(self.lowers)}"
        place.mkdir(exist_ok=True)
        self.lowers.insert(0, self.upper)
        self.upper, self.work = place / "upper", place / "work"
        self.upper.mkdir()
        self.work.mkdir()
        return self.union

    def close(self) -> None:
        if self._union is not None:
            self._union.close()
            self._union = None

    def node(self, path: str) -> Node:
        """Walk to a node, from the root of the union."""
        node = self.union.root
        for part in filter(None, path.split("/")):
            node = self.union.lookup(node, part.encode())
        return node

    def names(self, path: str = "") -> list[str]:
        """What a directory shows, sorted."""
        handle = self.union.opendir(self.node(path))
        return sorted(entry.name.decode() for entry in self.union.readdir(handle) if entry.name not in (b".", b".."))

    def read(self, path: str) -> bytes:
        handle = self.union.open_file(self.node(path), 0)
        try:
            return self.union.read(handle, 1 << 25, 0)
        finally:
            self.union.release(handle)

    def write(self, path: str, data: bytes, offset: int = 0) -> None:
        handle = self.union.open_file(self.node(path), 1)
        try:
            assert self.union.write(handle, data, offset) == len(data)
        finally:
            self.union.release(handle)


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    made: list[Bench] = []

    def make() -> Bench:
        base = tmp_path / str(len(made))
        base.mkdir()
        made.append(Bench(base))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[[], Bench]) -> Bench:
    return make_bench()
