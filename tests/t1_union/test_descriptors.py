"""More open files than the process may have descriptors."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from tests.t1_union.conftest import ROOT, Bench

LIMIT = 200
FILES = 3 * LIMIT


@pytest.fixture(autouse=True)
def _few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_all_are_served(bench: Bench) -> None:
    """Of the lower, copied up, new, copied up in part, without a name: whatever was closed is opened again."""
    for number in range(FILES):
        (bench.lower / str(number)).write_bytes(b"%d" % number if number % 4 else b"%d" % number + b"x" * 200_000)
    union = bench.union
    handles = [union.open_file(bench.node(str(number)), os.O_RDWR) for number in range(FILES)]
    for number in range(FILES):
        _, handle = union.create(union.root, b"new%d" % number, 0o644, os.O_RDWR, ROOT)
        handles.append(handle)
    for round_ in range(2):
        for number, handle in enumerate(handles):
            assert union.write(handle, b"%d" % (number + round_), 10) == len(str(number + round_))
            if number < FILES and number % 5 == 0 and not round_:
                union.unlink(union.root, str(number).encode())
        for number, handle in enumerate(handles):
            assert union.read(handle, 20, 10).startswith(b"%d" % (number + round_))
            if number < FILES:
                assert union.read(handle, len(str(number)), 0) == b"%d" % number
        assert len(os.listdir("/proc/self/fd")) < LIMIT
    for handle in handles:
        union.release(handle)
    assert len(os.listdir("/proc/self/fd")) < 50


def test_a_copy_between_two_that_take_turns(bench: Bench) -> None:
    """Opening one closes another, which must not be the one that is copied from."""
    union = bench.union
    union.tree.descriptors._most = 2
    (bench.lower / "source").write_bytes(b"source")
    for name in ("one", "two"):
        (bench.lower / name).touch()
    source, one, two = (union.open_file(bench.node(name), os.O_RDWR) for name in ("source", "one", "two"))
    for target, other in ((one, two), (two, one)):
        assert union.write(target, b"______", 0) == union.write(other, b"______", 0) == 6
        assert union.copy_range(source, 0, target, 0, 6) == 6
        assert union.read(target, 10, 0) == b"source"
    for handle in (source, one, two):
        union.release(handle)
