"""The random sequences in their short form; `python -m tests.behaviour.sequences` runs as many as one likes."""

from __future__ import annotations

import itertools
import os

import pytest

from tests.behaviour import generate, generate_data, lockstep
from tests.behaviour.backends import BACKENDS, Disk
from tests.behaviour.lockstep import Departure
from tests.behaviour.sequences import Laboratory, script
from tests.behaviour.shrink import smallest
from tests.behaviour.trees import File

_numbers = itertools.count()


def depart(
    disk: Disk, backend: str, seed: int, length: int, upper_on: str = "", profile: str = "tree", freezes: int = 0
) -> Departure | None:
    base = os.path.join(disk.root, b"sequence%d" % next(_numbers))
    layers = generate_data.layers(seed) if profile == "data" else generate.layers(seed)
    return lockstep.run(base, BACKENDS[backend], layers, None, seed, length, upper_on, profile, freezes=freezes)


def explained(seed: int, found: Departure) -> str:
    return f"seed {seed}: {found}\n{script(generate.layers(seed), found)}"


# How much each backend's share may be in a few seconds: remounting is what takes long where there is a daemon.
SHARES = {"twin": (20, 300), "core": (60, 300), "fusepy": (4, 200), "direct": (4, 200)}


def test_no_sequence_departs_from_the_copy(disk: Disk, against_copy: str) -> None:
    count, length = SHARES.get(against_copy, (4, 200))
    for seed in range(count):
        found = depart(disk, against_copy, seed, length)
        assert not found, explained(seed, found)


def test_no_content_departs_from_the_copy(disk: Disk, against_copy: str) -> None:
    """Large files, copied up in part."""
    count, length = SHARES.get(against_copy, (4, 200))
    for seed in range(2000, 2000 + count // 2):
        found = depart(disk, against_copy, seed, length, profile="data")
        assert not found, f"seed {seed}: {found}"


def test_nor_with_an_upper_on_tmpfs(disk: Disk) -> None:
    """Which has no holes that could tell what was copied up, nor all modes of fallocate."""
    for seed in range(1000, 1040):
        found = depart(disk, "core", seed, 300, "tmpfs")
        assert not found, explained(seed, found)


@pytest.mark.parametrize("form", ["core-oci", "core-marked"])
def test_nor_with_whiteouts_of_another_form(disk: Disk, form: str) -> None:
    """The layers' whiteouts are those of OCI images, or empty files with an attribute; the upper's are devices, as always."""
    for seed in range(1100, 1130):
        found = depart(disk, form, seed, 100)
        assert not found, explained(seed, found)


@pytest.mark.parametrize("backend", ["dying", "dying-7.39"])
def test_nor_where_the_server_is_killed(disk: Disk, backend: str) -> None:
    for seed in range(3000, 3003):
        found = depart(disk, backend, seed, 200)
        assert not found, explained(seed, found)


@pytest.mark.parametrize(
    ("backend", "upper_on", "profile", "seeds"),
    [
        ("core", "", "tree", range(4000, 4010)),
        ("core", "tmpfs", "tree", range(4100, 4110)),
        ("core", "tmpfs", "data", range(4200, 4208)),
        ("fusepy", "", "tree", range(4300, 4302)),
        ("direct", "tmpfs", "tree", range(4400, 4402)),
        ("dying", "", "data", range(4500, 4501)),
    ],
)
def test_nor_where_the_upper_becomes_a_lower(disk: Disk, backend: str, upper_on: str, profile: str, seeds: range) -> None:
    """Twice, in between: what is shown stays the same, and goes on as before below a new upper."""
    for seed in seeds:
        found = depart(disk, backend, seed, 150, upper_on, profile, freezes=2)
        assert not found, f"seed {seed}: {found}"


def test_the_kernels_overlayfs_is_told_from_the_copy(disk: Disk) -> None:
    """The check can fail: overlayfs has known departures, and these sequences find them."""
    assert any(depart(disk, "overlayfs", seed, 300) for seed in range(60))


def test_a_departure_shrinks() -> None:
    """From 60 calls to the two that matter: overlayfs has no answer to a change through a descriptor whose lower file is gone."""
    laboratory = Laboratory(BACKENDS["overlayfs"])
    try:
        noise = [("stat", b"f", True), ("readdir", b""), ("mkdir", b"x", 0o755), ("rmdir", b"x"), ("cat", b"f")]
        layers = [{b"f": File(data=b"x"), b"other": File(), b"d/e": File()}]
        found = laboratory.run(layers, [*noise * 6, ("open", 0, b"f", 0, 0), *noise[1:4], ("unlink", b"f"), ("chmod", 0, 0o600), *noise])
        assert found
        smaller, best = laboratory.shrink(layers, found)
    finally:
        laboratory.close()
    assert [operation[0] for operation in best.operations] == ["open", "unlink", "chmod"]
    assert smaller == [{b"f": File(data=b"x")}]


def test_shrinking_keeps_what_is_needed() -> None:
    needed = {3, 50, 97}
    assert smallest(range(100), lambda some: needed <= set(some)) == sorted(needed)
