"""Departures that the random sequences have found, each cut down to the calls that matter. They run on each union and on a second copy."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

import pytest

from tests.behaviour import lockstep
from tests.behaviour.backends import BACKENDS, Disk, available
from tests.behaviour.generate import acl
from tests.behaviour.session import Operation
from tests.behaviour.test_copy_up import CAPABILITY
from tests.behaviour.trees import Dir, File, Hardlink, Symlink, Tree

_numbers = itertools.count()
Regression = tuple[Sequence[Tree], Sequence[Operation]]

REGRESSIONS: dict[str, Regression] = {
    "a directory that is open keeps its time when a whiteout takes its place": (
        [{b"a": File(), b"b": File(), b"d": Dir()}],
        [
            ("rename", b"a", b"e", 0),
            ("mkdir", b"a", 0o755),
            ("utimens", b"a", 1, 1, False),
            ("open", 1, b"a", 0, 0),
            ("rmdir", b"a"),
            ("stat", 1, True),
            ("unlink", b"b"),
            ("rename", b"d", b"b", 0),
            ("stat", b"b", True),
        ],
    ),
    "truncating to the size that it has": (
        [
            {
                b"f": File(),
                b"g": File(data=b"x"),
                b"h": File(data=b"xyz"),
                b"big": File(extents=[(0, 1, 200_000)]),
                b"part": File(extents=[(0, 1, 200_001)]),
            }
        ],
        [
            ("truncate", b"big", 20_000),
            ("stat", b"big", True),
            ("chmod", b"part", 0o600),
            ("truncate", b"part", 200_001),
            ("stat", b"part", True),
            ("truncate", b"h", 1),
            ("stat", b"h", True),
            ("truncate", b"f", 0),
            ("truncate", b"g", 1),
            ("open", 0, b"g", os.O_RDWR, 0),
            ("utimens", 0, 1, 1, True),
            ("truncate", b"g", 1),
            ("stat", b"g", True),
            ("truncate", 0, 1),
            ("stat", b"f", True),
            ("stat", b"g", True),
        ],
    ),
    "a write through a mapping of an O_APPEND descriptor stays where it is": (
        [{b"f": File(extents=[(0, 1, 10_000)])}],
        [("open", 0, b"f", os.O_RDWR | os.O_APPEND, 0), ("map", 1, 0, True), ("map_write", 1, 100, 32, 511), ("stat", 0, True)],
    ),
    "a removed new directory still takes changes through its descriptor": (
        [{}],
        [
            ("mkdir", b"a", 0o755),
            ("open", 0, b"a", 0, 0),
            ("rmdir", b"a"),
            ("utimens", 0, 1, 1, True),
            ("chown", 0, 5, 5, True),
            ("setxattr", 0, b"user.a", b"1", 0, True),
            ("listxattr", 0, True),
            ("stat", 0, True),
        ],
    ),
    "so does a directory of a directory that was exchanged and moved": (
        [{b"b/b/d": Dir()}],
        [
            ("mkdir", b"f g", 0o755),
            ("mkdir", b"b/b/d/b", 0o755),
            ("rename", b"f g", b"b/b/d", 2),
            ("open", 2, b"f g/b", 0, 0),
            ("rename", b"f g", b"e", 0),
            ("rmdir", b"e/b"),
            ("removexattr", 2, b"system.posix_acl_default", True),
            ("chmod", 2, 0o700),
        ],
    ),
    "removing an access list where there is none": (
        [{b"f": File(), b"d": Dir()}],
        [("removexattr", b"f", b"system.posix_acl_access", True), ("removexattr", b"d", b"system.posix_acl_default", True)],
    ),
    "a write through a mapping keeps file capabilities": (
        [{b"f": File(extents=[(0, 1, 10_000)], mode=0o755, xattrs={b"security.capability": CAPABILITY})}],
        [("open", 3, b"f", os.O_RDWR, 0), ("map", 0, 3, True), ("map_write", 0, 8192, 128, 100), ("listxattr", b"f", True)],
    ),
    "losing one of its names moves a file's change time": (
        [{b"a": File(data=b"x"), b"b": Hardlink(b"a"), b"c": File()}],
        [("open", 0, b"c", 0, 0), ("mkdir", b"d", 0o755), ("unlink", b"a"), ("unlink", b"c"), ("stat", b"b", True), ("stat", 0, True)],
    ),
    "a copy into a file that is copied up in parts": (
        [{b"f": File(size=5000), b"g": File(extents=[(65536, 147, 70000)])}],
        [("open", 0, b"f", 1, 0), ("chmod", b"g", 0o644), ("open", 1, b"g", 0, 0), ("copy_range", 1, 0, 0, 4095, 1), ("cat", b"f")],
    ),
    "a file copied up in part keeps its data under its other name": (
        [{b"f": File(extents=[(0, 1, 300_000)]), b"g": Hardlink(b"f")}],
        [
            ("open", 2, b"f", 1, 0),
            ("unlink", b"f"),
            ("pwrite", 2, 73727, 26, 4095),
            ("remount",),
            ("cat", b"g"),
            ("utimens", b"g", 1, 1, True),
        ],
    ),
    "a FIFO that loses one of two names": (
        [{b"b/e/b/a/c": Symlink(target=b"./b"), b"b/e/c": Dir(opaque=True)}],
        [
            ("mknod", b"e", 0o016711, 0),
            ("mkdir", b"b/c", 0o755),
            ("rename", b"e", b"b/c/e", 0),
            ("link", b"b/c/e", b"e"),
            ("remount",),
            ("unlink", b"b/c/e"),
        ],
    ),
    "a default access list through two directories": (
        [{b"d": Dir(xattrs={b"system.posix_acl_default": acl(1000, 6)})}],
        [
            ("umask", 0o077),
            ("mkdir", b"d/e", 0o777),
            ("put", b"d/e/f", 1, 10),
            ("stat", b"d/e/f", True),
            ("remount",),
            ("stat", b"d/e", True),
        ],
    ),
}


UPPERS = ("", "tmpfs", *(["xfs"] if available("xfs") else []))
# see backends.LACKS_ON; and xfs moves no time where a size stays, but does not know that a file copied up in part has any data
NOT_ON = {
    ("removing an access list where there is none", "tmpfs"),
    ("removing an access list where there is none", "xfs"),
    ("truncating to the size that it has", "xfs"),
}


@pytest.mark.parametrize(("name", "upper_on"), [(name, on) for on in UPPERS for name in REGRESSIONS if (name, on) not in NOT_ON])
def test_regression(disk: Disk, against_copy: str, name: str, upper_on: str) -> None:
    layers, operations = REGRESSIONS[name]
    base = os.path.join(disk.root, b"regression%d" % next(_numbers))
    found = lockstep.run(base, BACKENDS[against_copy], layers, operations, upper_on=upper_on)
    assert not found, str(found)


def test_a_fallocate_that_fails_changes_nothing(disk: Disk) -> None:
    """tmpfs has no FALLOC_FL_ZERO_RANGE: the call fails after the file was copied up for it."""
    layers = [{b"f": File(extents=[(0, 1, 200_000)])}]
    operations = [("open", 0, b"f", os.O_RDWR, 0), ("fallocate", 0, 16, 100, 10), ("stat", 0, True)]
    found = lockstep.run(os.path.join(disk.root, b"fallocate"), BACKENDS["core"], layers, operations, upper_on="tmpfs")
    assert not found, str(found)
