"""What the reserve says before it is whole."""

from __future__ import annotations

from pathlib import Path

from cowroot.union.layers import Layer
from cowroot.union.reserve import Reserve


def test_with_plenty_of_room_nothing_is_tight_while_it_is_being_taken(tmp_path: Path) -> None:
    """Files that are opened just after the mount pass through: what is said then would hold for as long as the room lasts."""
    reserve = Reserve(Layer(str(tmp_path), "work"), "0")
    reserve.lacking = True
    assert not reserve.is_tight()


def test_with_little_room_it_is(tmp_path: Path) -> None:
    reserve = Reserve(Layer(str(tmp_path), "work"), "0")
    reserve.size = 1 << 60
    assert reserve.is_tight()
