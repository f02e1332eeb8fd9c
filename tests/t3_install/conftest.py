"""The payload is read once: a checkout that is being worked on must not change between two runs of one test."""

from __future__ import annotations

import functools

import pytest

from cowroot.install import payload, plan

_once = functools.lru_cache(maxsize=None)(payload.payload)


@pytest.fixture(autouse=True)
def same_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "payload", _once)
