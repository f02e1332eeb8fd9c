"""INIT: what the kernel offers and this engine knows how to use is what is in force. Nothing is required but the protocol's version.

Deliberately not asked for:
- POSIX_LOCKS, FLOCK_LOCKS: all who lock go through one kernel, which keeps the locks without asking us;
- WRITEBACK_CACHE: it would make the kernel's sizes and times the truth instead of the upper's;
- AUTO_INVAL_DATA: pages only ever change through this kernel;
- HANDLE_KILLPRIV: the older form, which clears more than POSIX says;
- SECURITY_CTX: labels come from the policy of the running system, which could not be inherited from below;
- CREATE_SUPP_GROUP: from Linux 6.0 on the kernel has dropped the setgid bit itself before it asks us (vfs_prepare_mode).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cowroot.errors import MountError

OLDEST = 31  # Linux 5.4
NEWEST = 45  # Linux 6.18
MAX_WRITE = 1 << 20  # bytes of data in one request
MAX_PAGES = 256  # the same in pages; more is possible, but not without a word of root's in /proc/sys/fs/fuse
BACKGROUND = 64  # readahead and asynchronous requests that may wait for us at once
STACK_DEPTH = 1  # of 2 that Linux allows: backing files must not be on a stacked file system, and one may be stacked over the union
INIT_EXT = 1 << 30

_INIT_IN = struct.Struct("=IIII")  # major minor max_readahead flags
_FLAGS2 = struct.Struct("=I")  # follows it from 7.36 on
# header; major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment flags2
# max_stack_depth
_INIT_OUT = struct.Struct("=IiQIIIIHHIIHHII24x")
_REFUSAL = struct.Struct("=IiQ")


class Feature(NamedTuple):
    """One flag of INIT: its bit, and the minor version of the protocol that brought it."""

    name: str
    bit: int
    since: int


FEATURES = (
    Feature("async_read", 0, 1),
    Feature("atomic_o_trunc", 3, 9),
    Feature("export_support", 4, 10),
    Feature("big_writes", 5, 9),
    Feature("dont_mask", 6, 12),
    Feature("readdirplus", 13, 21),
    Feature("readdirplus_auto", 14, 21),
    Feature("async_dio", 15, 22),
    Feature("parallel_dirops", 18, 25),
    Feature("posix_acl", 20, 26),
    Feature("max_pages", 22, 28),
    Feature("cache_symlinks", 23, 28),
    Feature("no_opendir_support", 24, 29),
    Feature("explicit_inval_data", 25, 30),
    Feature("handle_killpriv_v2", 28, 33),
    Feature("setxattr_ext", 29, 33),
    Feature("init_ext", 30, 36),
    Feature("passthrough", 37, 40),
)


class Agreement(NamedTuple):
    """What kernel and engine agreed on, what the kernel speaks, and why features are not in force."""

    protocol: tuple[int, int]
    features: frozenset[str]
    kernel: tuple[int, int]
    missing: dict[str, str]


def agree(request: memoryview, unique: int, newest: int = NEWEST) -> tuple[Agreement, bytes]:
    """Read the body of an INIT request. Returns what is agreed on, and the reply that says so.

    Arguments: `newest`: use nothing that the protocol has learnt after this minor version. Raises MountError for a kernel that is too old.
    """
    major, minor, readahead, flags = _INIT_IN.unpack_from(request)
    if major != 7 or minor < OLDEST:
        raise MountError(
            f"the kernel speaks FUSE protocol {major}.{minor}, the engine `direct` needs 7.{OLDEST} (Linux 5.4)",
            hint="use engine=fusepy or engine=auto",
        )
    kernel, minor = minor, min(minor, newest, NEWEST)
    if flags & INIT_EXT and len(request) >= _INIT_IN.size + _FLAGS2.size:
        flags |= _FLAGS2.unpack_from(request, _INIT_IN.size)[0] << 32
    chosen = [feature for feature in FEATURES if flags >> feature.bit & 1 and feature.since <= minor]
    names = frozenset(feature.name for feature in chosen)
    want = sum(1 << feature.bit for feature in chosen)
    reply = _INIT_OUT.pack(
        _INIT_OUT.size, 0, unique, 7, minor, readahead, want & 0xFFFFFFFF, BACKGROUND, BACKGROUND * 3 // 4, MAX_WRITE, 1,
        MAX_PAGES if "max_pages" in names else 0, 0, want >> 32, STACK_DEPTH if "passthrough" in names else 0,
    )  # fmt: skip
    missing = {feature.name: _why_not(feature, kernel, newest) for feature in FEATURES if feature.name not in names}
    return Agreement((7, minor), names, (7, kernel), missing), reply


def _why_not(feature: Feature, kernel: int, newest: int) -> str:
    if feature.since > kernel:
        return f"needs FUSE 7.{feature.since}, the kernel speaks 7.{kernel}"
    return f"needs FUSE 7.{feature.since}, protocol=7.{newest} was asked for" if feature.since > newest else "not offered by the kernel"


def refusal(unique: int, number: int) -> bytes:
    """Tell the kernel that there will be no file system."""
    return _REFUSAL.pack(_REFUSAL.size, -number, unique)
