"""All targets, by name."""

from __future__ import annotations

import random
from typing import Callable

from tests.fuzz import layers, protocol, questions, records, settings

TARGETS: dict[str, Callable[[random.Random], None]] = {
    "layers": layers.layers,
    "questions": questions.questions,
    "records": records.records,
    "requests": protocol.requests,
    "settings": settings.settings,
}
