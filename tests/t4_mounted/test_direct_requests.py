"""What the kernel asks the direct engine, and what it does not ask twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, wait_until

Requests = dict[str, int]
ATTEMPTS = 5  # the kernel may drop what it keeps at any time: when memory is short, when some other test asks it to


@pytest.fixture
def point(stage: Stage) -> Path:
    for number in range(50):
        directory = stage.lower / f"d{number % 5}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_text("below\n")
    (stage.lower / "link").symlink_to("d0/f0")
    return stage.mount("engine=direct")


def test_the_features_of_this_kernel_are_in_force(stage: Stage, point: Path) -> None:
    status = stage.status()
    assert status["engine"] == "direct"
    major, minor = map(int, status["protocol"].split("."))
    assert (major, minor) >= (7, 31)
    assert {"readdirplus", "max_pages", "posix_acl", "cache_symlinks", "no_opendir_support"} <= set(status["features"])
    assert ("passthrough" in status["features"]) == (minor >= 40)


def test_a_tree_is_walked_once(stage: Stage, point: Path) -> None:
    """The first time all attributes come with the entries; after that, nothing is asked."""

    def walk() -> None:
        for directory, names, files in os.walk(point):
            for name in (*names, *files):
                os.lstat(os.path.join(directory, name))

    first = stage.requests(walk)
    assert first.get("lookup", 0) <= 1
    assert first["readdirplus"] + first.get("readdir", 0) <= 6 * 3, "a directory is one or two answers and an empty one"
    walk()
    assert any(stage.requests(walk) == {} for _ in range(ATTEMPTS))


@pytest.mark.parametrize(
    ("action", "requests"),
    [
        (lambda point: os.stat(point / "d0" / "f0"), {}),
        (lambda point: os.path.exists(point / "d0" / "missing"), {}),
        (lambda point: os.readlink(point / "link"), {}),
        (lambda point: os.listdir(point / "d0"), {}),
        (lambda point: os.access(point / "d0" / "f0", os.R_OK), {}),
        (lambda point: os.getxattr(point / "d0", "system.posix_acl_access"), {}),
        (lambda point: os.chmod(point / "d0" / "f0", 0o600), {"setattr": 1}),
        (lambda point: os.mkdir(point / "new"), {"lookup": 1, "mkdir": 1}),
        (lambda point: os.symlink("target", point / "new"), {"lookup": 1, "symlink": 1}),
        (lambda point: os.unlink(point / "d0" / "f0"), {"unlink": 1}),
        (lambda point: os.rename(point / "d0" / "f0", point / "d0" / "f5"), {"lookup": 1, "rename": 1}),
    ],
)
def test_what_is_known_is_not_asked(stage: Stage, point: Path, action: Callable[[Path], object], requests: Requests) -> None:
    def warm() -> None:
        for _ in range(2):
            for directory, _, files in os.walk(point):
                for name in files:
                    os.lstat(os.path.join(directory, name))
            os.path.exists(point / "d0" / "missing")
            os.readlink(point / "link")
            try:
                os.getxattr(point / "d0", "system.posix_acl_access")
            except OSError:
                pass  # there is none, and the kernel remembers that

    def quietly() -> None:
        try:
            action(point)
        except OSError:
            assert not requests

    for _ in range(ATTEMPTS):
        warm()
        found = stage.requests(quietly)
        found.pop("forget", None)  # comes when it comes
        if found == requests or requests:
            break
    if requests:
        # It has its effect only once, so there is no second try if the kernel has just dropped something: these fetch it again.
        for name in ("lookup", "getattr", "getxattr"):
            if found.get(name, 0) > requests.get(name, 0):
                found.pop(name)
                requests = {key: count for key, count in requests.items() if key != name}
    assert found == requests


def test_a_file_of_the_upper_passes_through(stage: Stage, point: Path) -> None:
    if "passthrough" not in stage.status()["features"]:
        pytest.skip("this kernel has no FUSE passthrough (before Linux 6.9)")
    (point / "new").write_bytes(b"")
    wait_until(lambda: stage.status()["open_files"] == 0, "what was opened before is closed")

    def write_and_read() -> None:
        fd = os.open(point / "new", os.O_RDWR)
        for number in range(100):
            os.pwrite(fd, b"x" * 100, number * 100)
        assert os.pread(fd, 10_000, 0) == b"x" * 10_000
        os.close(fd)

    found = stage.requests(write_and_read)
    assert "write" not in found
    assert "read" not in found
    assert found["open"] == found["release"] == 1


def test_without_passthrough_requests_are_as_large_as_can_be(stage: Stage) -> None:
    point = stage.mount("engine=direct", "protocol=7.39")
    found = stage.requests(lambda: (point / "large").write_bytes(b"x" * (8 << 20)))
    assert found["write"] == 8


def test_reading_in_order_asks_seldom(stage: Stage) -> None:
    (stage.lower / "large").write_bytes(bytes(8 << 20))
    point = stage.mount("engine=direct")
    asked = stage.requests(lambda: (point / "large").read_bytes())["read"]
    assert asked <= 8 * 4, "far fewer than of 128 KiB each"


def test_memory_is_given_back_with_the_kernels(stage: Stage, point: Path) -> None:
    (point / "many").mkdir()
    for number in range(500):
        (point / "many" / f"file{number}").write_text("x")
    for number in range(250):
        (point / "many" / f"file{number}").unlink()
    wait_until(lambda: stage.status()["nodes"] < 400, "what was removed is forgotten")
    assert stage.status()["open_files"] == 0
    Path("/proc/sys/vm/drop_caches").write_text("2")
    wait_until(lambda: stage.status()["nodes"] < 250, "what the kernel dropped is forgotten")
    assert (point / "many" / "file400").read_text() == "x"
    assert sorted(os.listdir(point / "many")) == sorted(f"file{number}" for number in range(250, 500))
