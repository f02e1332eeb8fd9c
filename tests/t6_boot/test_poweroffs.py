"""The short form of the endurance run: power-off under load ends by itself, with its upper in memory and on a disk, on both engines."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.t6_boot.conftest import ENDING_LIMIT
from tests.t6_boot.image import Image
from tests.t6_boot.poweroffs import endure


@pytest.mark.long
def test_power_off_under_load_is_clean_each_time(appliance: Image, work: Path) -> None:
    assert endure(appliance, 4, ENDING_LIMIT, work) == 4
