"""Mounts that follow each other without a pause."""

from __future__ import annotations

from tests.t4_mounted.mounted import Stage, run


def test_mounting_again_at_once(stage: Stage) -> None:
    """umount(8) returns before the daemon knows, which has the work directory for itself until then."""
    for turn in range(5):
        stage.mount()
        (stage.point / f"turn{turn}").touch()
        run("umount", stage.point)
    stage.mount()
    assert len(list(stage.point.iterdir())) == 5
