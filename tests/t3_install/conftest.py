"""What all tests of the installation run with."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest

from cowroot.install import payload, plan, runtime

_payload_once = functools.lru_cache(maxsize=None)(payload.payload)
_runtime_once = functools.lru_cache(maxsize=None)(runtime.runtime)


@pytest.fixture(autouse=True)
def same_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload is read once: a checkout that is being worked on must not change between two runs of one test."""
    monkeypatch.setattr(plan, "payload", _payload_once)
    monkeypatch.setattr(plan, "runtime", _runtime_once)


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed leaves an empty mount point behind; those of tests go with them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
