"""A few cases of each kind of input that nobody meant to send; `python -m tests.fuzz` tries more."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS

CASES = {"layers": 8, "questions": 15, "records": 60, "requests": 12, "settings": 6}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_random_input(target: str) -> None:
    for seed in range(CASES[target]):
        TARGETS[target](random.Random(f"{target} {seed}"))
