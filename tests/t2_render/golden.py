"""Golden files: what is rendered, as it stands in review."""

from __future__ import annotations

import os
from pathlib import Path


def hold_against(golden: Path, content: bytes) -> None:
    """The content is that of the file `golden`; with COWROOT_WRITE_GOLDEN in the environment, it becomes that."""
    if os.environ.get("COWROOT_WRITE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_bytes(content)
    assert content.decode() == golden.read_text(), "if the change is meant, run this again with COWROOT_WRITE_GOLDEN=1"
