"""Little memory, for a daemon and a program with a large mapping together: neither waits for the other for ever."""

from __future__ import annotations

import pytest

from tests.t4_mounted.memory import attempt, is_possible
from tests.t4_mounted.mounted import Stage


@pytest.mark.parametrize("engine", ["direct", "fusepy"])
def test_more_is_mapped_than_there_is_memory(stage: Stage, engine: str) -> None:
    if not is_possible():
        pytest.skip("no memory control group can be made here")
    outcome = attempt(stage, engine, mib=96, limit=64)
    assert outcome.ended and not outcome.killed and outcome.whole
