"""Tests that run side by side, in processes of pytest-xdist: mounts of their own, and what an interrupt does.

An interrupt (Ctrl-C, a terminal that closes, the ladder's time-out) has to reach every worker, and each has to tear its fixtures down:
mounts, loop devices and virtual machines are to end with the tests that made them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Any

import pytest

from tests.behaviour.calls import private_mounts

_TEARDOWN_LIMIT = 45.0
"""Seconds for all workers to tear down: less than the ladder gives their controller before it kills it."""
_ONE_INTERRUPT = 5.0
"""Seconds in which a further signal is the same interrupt: Ctrl-C comes from the terminal, from timeout(1), and from the controller."""

_interrupted = -_ONE_INTERRUPT


def interrupt_once() -> None:
    """Have Ctrl-C, and a terminal that closes, interrupt what runs, but not the tearing down that follows."""
    signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup(1) has it
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    global _interrupted
    before, _interrupted = _interrupted, time.monotonic()
    if _interrupted - before > _ONE_INTERRUPT:
        raise KeyboardInterrupt


def own_mounts() -> None:
    """Give a worker mounts of its own: a namespace that the other's test makes would hold a copy of them after their umount."""
    with contextlib.suppress(PermissionError):  # who may not do that may not mount either
        private_mounts()


class Controller:
    """A plugin for the process that hands out the tests."""

    def __init__(self) -> None:
        self._workers: list[Any] = []
        self._running: dict[str, None] = {}

    @pytest.hookimpl
    def pytest_testnodeready(self, node: Any) -> None:
        self._workers.append(node)

    @pytest.hookimpl
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = None

    @pytest.hookimpl
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)

    @pytest.hookimpl
    def pytest_keyboard_interrupt(self) -> None:
        """Interrupt the workers and wait until they have torn down. pytest-xdist alone gives them ten seconds, five of them to go on."""
        running = [node for node in self._workers if not node.channel.isclosed()]
        for node in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.gateway._rinfo().pid, signal.SIGINT)
        deadline = time.monotonic() + _TEARDOWN_LIMIT
        for node in running:
            with contextlib.suppress(OSError, EOFError, node.channel.RemoteError):
                node.channel.waitclose(max(0.0, deadline - time.monotonic()))

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            for nodeid in self._running:
                terminalreporter.write_line(f"interrupted: {nodeid}")
