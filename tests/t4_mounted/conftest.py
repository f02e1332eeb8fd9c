"""Real mounts: they need root and /dev/fuse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, staged


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    reason = "mounting needs root" if os.geteuid() else "there is no /dev/fuse" if not os.path.exists("/dev/fuse") else ""
    for item in items:
        if reason and os.fspath(item.path).startswith(here) and "stage" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Directories for a union, not mounted yet; other users may look into them, as they may not with `tmp_path`."""
    with staged() as prepared:
        yield prepared


@pytest.fixture
def union(stage: Stage) -> Path:
    """A mounted union over a small lower tree."""
    (stage.lower / "file").write_text("below\n")
    (stage.lower / "directory").mkdir()
    (stage.lower / "directory" / "inner").write_text("inner\n")
    os.link(stage.lower / "file", stage.lower / "linked")
    return stage.mount()
