"""An upper that was written through one mount is a lower of another, mounted by hand."""

from __future__ import annotations

import mmap
import os
import signal
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, cowroot, tree, wait_until

MIB = 1 << 20


def customise(point: Path) -> None:
    for number in range(3):
        with (point / "big").open("r+b") as file:
            file.seek(number * MIB + 5)
            file.write(b"%d" % number)
    (point / "file").write_text("changed\n")
    (point / "directory").rename(point / "renamed")
    (point / "gone").unlink()
    (point / "renamed/new").write_text("new\n")


@pytest.mark.parametrize("engine", ["fusepy", "direct", "direct,protocol=7.31"])
def test_it_looks_as_before_and_can_be_changed(stage: Stage, engine: str) -> None:
    (stage.lower / "big").write_bytes(os.urandom(4 * MIB))
    (stage.lower / "directory").mkdir()
    (stage.lower / "directory/inner").write_text("inner\n")
    (stage.lower / "file").write_text("below\n")
    (stage.lower / "gone").write_text("gone\n")
    os.link(stage.lower / "file", stage.lower / "linked")
    point = stage.mount(f"engine={engine}")
    customise(point)
    before = tree(point)
    numbers = {path: (point / path).lstat().st_ino for path in before}
    stage.unmount()
    former = [path for path in stage.upper.rglob("*") if path.is_file()]
    untouched = {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.stat().st_blocks) for path in former}

    stage.lower = Path(f"{stage.upper}:{stage.lower}")
    stage.upper, stage.work = stage.base / "upper2", stage.base / "work2"
    stage.upper.mkdir()
    stage.work.mkdir()
    stage.mount(f"engine={engine}")
    assert tree(point) == before
    assert {path: (point / path).lstat().st_ino for path in before} == numbers
    assert (point / "linked").read_text() == "changed\n", "a name that nobody used"

    content = bytearray((point / "big").read_bytes())
    with (point / "big").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert mapping[:] == content
        if engine == "direct":
            cowroot("daemon", "restart", point)
            server = stage.status()["server"]
            os.kill(server, signal.SIGKILL)
            wait_until(lambda: stage.status()["server"] != server, "the keeper starts another server")
        content[3 * MIB : 3 * MIB + 1] = b"!"
        mapping[3 * MIB] = ord("!")
        mapping.flush()
        file.seek(7)
        file.write(b"?")
        content[7:8] = b"?"
    assert (point / "big").read_bytes() == content
    os.truncate(point / "big", MIB + 6)
    os.truncate(point / "big", 2 * MIB)
    assert (point / "big").read_bytes() == content[: MIB + 6].ljust(2 * MIB, b"\0")
    (point / "linked").write_text("again\n")
    assert (point / "file").read_text() == "again\n"
    stage.unmount()
    assert (stage.upper / "big").stat().st_blocks * 512 < MIB, "no more than was changed is copied"
    found = {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.stat().st_blocks) for path in former}
    assert found == untouched, "a lower is not written"
    assert cowroot("check", "--work", stage.work, "--lower", stage.lower, stage.upper).returncode == 0
