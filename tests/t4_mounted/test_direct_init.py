"""What the direct engine agrees on with kernels of all ages, and how replies are laid out. Without a mount."""

from __future__ import annotations

import os
import struct

import pytest

from cowroot.errors import ConfigError, MountError
from cowroot.fuse import protocol as p
from cowroot.fuse.direct import features, replies
from cowroot.fuse.options import MountOptions
from cowroot.union import Attr

ALL_FLAGS = 0x7FFFFFFF


def offer(minor: int, flags: int = ALL_FLAGS, flags2: int = 0xFFFFFFFF) -> memoryview:
    """The body of an INIT request: 16 bytes, from 7.36 on 64."""
    return memoryview(struct.pack("=IIIII44x", 7, minor, 131072, flags, flags2)[: 64 if minor >= 36 else 16])


def agreed(minor: int, newest: int = features.NEWEST, **more: int) -> tuple[frozenset[str], tuple[int, ...]]:
    agreement, reply = features.agree(offer(minor, **more), 17, newest)
    length, error, unique, *fields = struct.unpack_from("=IiQIIIIHHIIHHII", reply)
    assert (length, error, unique) == (len(reply), 0, 17) == (80, 0, 17)
    assert agreement.protocol == (7, fields[1])
    return agreement.features, tuple(fields)


def test_a_new_kernel_offers_everything() -> None:
    names, fields = agreed(45)
    assert names == {feature.name for feature in features.FEATURES}
    assert fields[0:2] == (7, 45)
    assert fields[3] | fields[10] << 32 == sum(1 << feature.bit for feature in features.FEATURES)
    assert fields[6] == 1 << 20
    assert fields[8] == 256
    assert fields[11] == 1


def test_a_newer_one_gets_no_more_than_is_known_here() -> None:
    assert agreed(99) == agreed(45)


@pytest.mark.parametrize(
    ("minor", "without"),
    [
        (38, {"passthrough"}),  # Linux 6.1, Debian 12
        (32, {"passthrough", "init_ext", "setxattr_ext", "handle_killpriv_v2"}),  # Linux 5.10, Debian 11
        (31, {"passthrough", "init_ext", "setxattr_ext", "handle_killpriv_v2"}),  # Linux 5.4, Ubuntu 20.04
    ],
)
def test_an_older_kernel_gets_less(minor: int, without: set[str]) -> None:
    """By what it offers, and just so by what it is held to."""
    known = [feature for feature in features.FEATURES if feature.since <= minor]
    flags = sum(1 << feature.bit for feature in known if feature.bit < 32)
    names, fields = agreed(minor, flags=flags, flags2=0)
    assert names == {feature.name for feature in features.FEATURES} - without
    assert (fields[1], fields[10], fields[11]) == (minor, 0, 0)
    held, _ = agreed(45, newest=minor)
    assert held == names


@pytest.mark.parametrize("feature", features.FEATURES, ids=lambda feature: feature.name)
def test_each_feature_may_be_missing(feature: features.Feature) -> None:
    offered = 0xFFFFFFFF_7FFFFFFF & ~(1 << feature.bit)
    names, fields = agreed(45, flags=offered & 0xFFFFFFFF, flags2=offered >> 32)
    assert feature.name not in names
    assert not (fields[3] | fields[10] << 32) >> feature.bit & 1


def test_what_is_missing_is_explained() -> None:
    offered = ALL_FLAGS & ~(1 << 20)
    agreement, _ = features.agree(offer(39, flags=offered), 17, 32)
    assert agreement.kernel == (7, 39)
    assert agreement.missing == {
        "passthrough": "needs FUSE 7.40, the kernel speaks 7.39",
        "posix_acl": "not offered by the kernel",
        **dict.fromkeys(("handle_killpriv_v2", "setxattr_ext"), "needs FUSE 7.33, protocol=7.32 was asked for"),
        "init_ext": "needs FUSE 7.36, protocol=7.32 was asked for",
    }
    assert not agreement.missing.keys() & agreement.features


def test_too_old_a_kernel_is_refused() -> None:
    with pytest.raises(MountError, match=r"FUSE protocol 7\.30, the engine `direct` needs 7\.31") as refused:
        features.agree(offer(30), 1)
    assert "fusepy" in refused.value.hint


def test_holding_it_to_an_older_version() -> None:
    assert MountOptions.parse("lowerdir=/l,engine=direct,protocol=7.31").protocol == 31
    for wrong in ("31", "8.1", "7.x", "7.31.2"):
        with pytest.raises(ConfigError, match="is not a version of the FUSE protocol"):
            MountOptions.parse(f"lowerdir=/l,protocol={wrong}")


def test_layouts_are_the_kernels() -> None:
    """Sizes of the structures of include/uapi/linux/fuse.h, 16 bytes of header included."""
    attr = Attr(1, 0o100644, 1, 0, 0, 0, 5, 8, 4096, -1_500_000_000, 2, 3)
    assert len(replies.entry(1, 2, attr, 3)) == 16 + 128
    assert len(replies.attributes(1, attr, 3)) == 16 + 104
    assert len(replies.created(1, 2, attr, 3, 4, 5, 6)) == 16 + 128 + 16
    assert len(replies.opened(1, 2, 3)) == 16 + 16
    assert len(replies.written(1, 2)) == len(replies.number(1, 2)) == len(replies.attribute_size(1, 2)) == 16 + 8
    assert len(replies.statfs(1, os.statvfs("/"))) == 16 + 80
    assert len(replies.stale_attributes(2)) == 16 + 24
    assert len(replies.no_entry(1)) == 16 + 128
    for made in (replies.entry(1, 2, attr, 3), replies.no_entry(1), replies.attributes(1, attr, 3), replies.statfs(1, os.statvfs("/"))):
        assert p.OUT_HEADER.unpack_from(made) == (len(made), 0, 1)
    for length in range(1, 20):
        name = b"n" * length
        assert len(replies.directory_entry(1, 2, 0o100000, name)) == (24 + length + 7) // 8 * 8
        assert len(replies.plus_entry(1, attr, 2, name, 3)) == len(replies.bare_plus_entry(1, 2, 0, name)) == (152 + length + 7) // 8 * 8


def test_times_before_1970() -> None:
    """Seconds round down, nanoseconds stay positive."""
    attr = Attr(1, 0o100644, 1, 0, 0, 0, 5, 8, 4096, -1_500_000_000, 0, 0)
    fields = struct.unpack("=QQQqqqIIIIIIIIII", replies.attributes(1, attr, 3)[32:])
    assert (fields[3], fields[6]) == (-2, 500_000_000)
