"""Tests that run side by side, interrupted: none of them leaves anything behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
LIMIT = 60

# Each test takes long to end, and longer to tear down than pytest-xdist would wait for it.
_TESTS = """
import pathlib, time, pytest

@pytest.fixture
def mark(tmp_path_factory):
    mark = tmp_path_factory.getbasetemp().parent.parent / f"{time.monotonic_ns()}.up"
    mark.touch()
    yield
    time.sleep(6)
    mark.rename(mark.with_suffix(".down"))

@pytest.mark.parametrize("number", range(4))
def test(mark, number):
    time.sleep(100)
"""


def test_an_interrupt_of_the_controller_ends_all_workers_and_what_they_have_made(tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text(_TESTS)
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure\n")
    command = ["nohup", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--basetemp", "made", "test_slow.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with subprocess.Popen(command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(TOP)}, stdout=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + LIMIT
        while len(list(tmp_path.glob("*.up"))) < 2:
            assert time.monotonic() < deadline, "no two tests have begun"
            time.sleep(0.1)
        status = Path(f"/proc/{run.pid}/status").read_text()
        assert int(status.partition("SigIgn:")[2].split()[0], 16) & 1 << signal.SIGHUP - 1, "nohup keeps it from that"
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGINT)  # one interrupt can come by several ways
        said, _ = run.communicate(timeout=LIMIT)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, said
    assert (len(list(tmp_path.glob("*.up"))), len(list(tmp_path.glob("*.down")))) == (0, 2), said
    assert said.count("interrupted: test_slow.py::test[") == 2, said
