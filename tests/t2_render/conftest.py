"""What holds for this rung."""

from __future__ import annotations

import pytest

# so that a golden file that differs shows how
pytest.register_assert_rewrite("tests.t2_render.golden")
