"""Limits of a caller are that caller's business, and the daemon's own are told to who meets them."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, run

MEBIBYTE = 1 << 20
FILES = 2000


@pytest.fixture(params=["direct", "direct,protocol=7.31", "fusepy"])
def point(stage: Stage, request: pytest.FixtureRequest) -> Path:
    (stage.lower / "small").write_bytes(b"below\n")
    (stage.lower / "large").write_bytes(bytes(2 * MEBIBYTE))
    return stage.mount(f"engine={request.param}")


@pytest.fixture
def short_files() -> Iterator[None]:
    """This process may write files of a mebibyte at the most. (Python ignores SIGXFSZ.)"""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEBIBYTE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_file_size(stage: Stage, point: Path, short_files: None) -> None:
    fd = os.open(point / "new", os.O_WRONLY | os.O_CREAT)
    try:
        assert os.write(fd, bytes(2 * MEBIBYTE)) == MEBIBYTE
        with pytest.raises(OSError) as caught:
            os.write(fd, b"x")
        assert caught.value.errno == errno.EFBIG
    finally:
        os.close(fd)
    assert (point / "new").stat().st_size == MEBIBYTE
    (point / "large").chmod(0o600)  # the daemon copies it up, whatever the caller may write
    assert (point / "large").stat().st_size == 2 * MEBIBYTE
    with (point / "small").open("ab") as file:
        file.write(b"above\n")
    assert (point / "small").read_bytes() == b"below\nabove\n"


@pytest.mark.parametrize("engine", ["direct,protocol=7.31", "fusepy"])
def test_the_file_size_of_who_mounts(stage: Stage, short_files: None, engine: str) -> None:
    """It is not that of everybody who writes through the daemon."""
    point = stage.mount(f"engine={engine}")
    run("sh", "-c", f"ulimit -f unlimited; head -c {2 * MEBIBYTE} /dev/zero >{point}/new")
    assert (point / "new").stat().st_size == 2 * MEBIBYTE


def test_many_open_files(stage: Stage, point: Path) -> None:
    """More than the 1024 that a process may have open by default."""
    with ExitStack() as opened:
        for number in range(FILES // 4):
            (point / str(number)).write_bytes(b"%d" % number)
        files = [opened.enter_context((point / str(number % (FILES // 4))).open("r+b", buffering=0)) for number in range(FILES // 4)]
        assert [file.read() for file in files] == [b"%d" % number for number in range(FILES // 4)]
        limit = Path(f"/proc/{stage.status()['server']}/limits").read_text()
        assert int(next(line for line in limit.splitlines() if line.startswith("Max open files")).split()[3]) >= 4096


def test_no_descriptor_left(stage: Stage, point: Path) -> None:
    server = stage.status()["server"]
    used = len(os.listdir(f"/proc/{server}/fd"))
    before = resource.prlimit(server, resource.RLIMIT_NOFILE)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (used + 20, before[1]))
    failed = 0
    with ExitStack() as opened:
        for number in range(60):
            try:
                opened.enter_context((point / f"new-{number}").open("wb", buffering=0))
            except OSError as e:
                assert e.errno == errno.EMFILE
                failed += 1
    assert failed > 20
    # what is closed is free again, and nothing of what failed is there
    assert sum(name.startswith("new-") for name in os.listdir(point)) == 60 - failed
    (point / "new-59").write_bytes(b"x")
    assert (point / "small").read_bytes() == b"below\n"
    resource.prlimit(server, resource.RLIMIT_NOFILE, before)
    stage.unmount()
