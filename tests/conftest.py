"""What holds for every rung."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests import workers

# No test depends on how fast a machine is. A ladder that is climbed twice finds the same; `--hypothesis-profile=explore` goes and
# looks for what nobody has seen yet.
settings.register_profile("ladder", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=3000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ladder")


def pytest_configure(config: pytest.Config) -> None:
    workers.interrupt_once()
    if hasattr(config, "workerinput"):
        workers.own_mounts()
    elif config.getoption("dist", "no") != "no":
        config.pluginmanager.register(workers.Controller())
