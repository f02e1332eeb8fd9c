"""The kernel's inode numbers and libfuse's: one for each file, one for each name."""

from __future__ import annotations

import random

from cowroot.fuse.inodes import OWN_NUMBERS, Inode, Inodes
from cowroot.fuse.protocol import ROOT_ID
from cowroot.union import Node


def node(ino: int = 7) -> Node:
    return Node(0o100000, ino, None, b"", False, ())


def test_the_first_name_gives_the_number() -> None:
    inodes, file = Inodes(node(1)), node()
    assert inodes.remember(10, file, ROOT_ID, b"a").number == 10
    assert inodes.remember(11, file, ROOT_ID, b"b").number == 10
    assert inodes.remember(11, file, ROOT_ID, b"b").number == 10
    assert inodes.remember(12, node(8), ROOT_ID, b"c").number == 12
    assert len(inodes) == 3


def test_libfuse_is_spoken_to_by_a_name_that_lives() -> None:
    inodes, file = Inodes(node(1)), node()
    inode = inodes.remember(10, file, ROOT_ID, b"a")
    inodes.remember(11, file, ROOT_ID, b"b")
    assert inode.living_lid() == 10
    inodes.unname(inode, (ROOT_ID, b"a"))
    assert inode.living_lid() == 11
    inodes.rename(inode, (ROOT_ID, b"b"), (ROOT_ID, b"c"))
    assert inode.living_lid() == 11
    inodes.unname(inode, (ROOT_ID, b"c"))
    assert inode.living_lid() == 0


def test_what_the_kernel_forgets_libfuse_forgets_by_name() -> None:
    inodes, file = Inodes(node(1)), node()
    inode = inodes.remember(10, file, ROOT_ID, b"a")
    for _ in range(2):
        inodes.remember(11, file, ROOT_ID, b"b")
    inodes.unname(inode, (ROOT_ID, b"a"))
    assert inodes.forget(inode, 1) == [(10, 1)], "the name that is gone comes first"
    assert inodes.find(10) is inode, "the kernel's number stays while the kernel holds the file"
    assert inodes.forget(inode, 2) == [(11, 2)]
    assert inodes.find(10) is None
    assert inodes.of(file) is None


def test_an_answer_that_did_not_arrive() -> None:
    inodes, file = Inodes(node(1)), node()
    inode = inodes.remember(10, file, ROOT_ID, b"a")
    inodes.remember(11, file, ROOT_ID, b"b")
    inodes.take_back(inode, 11)
    assert inode.others is None
    inodes.take_back(inode, 10)
    assert len(inodes) == 1


def test_files_that_never_had_a_name() -> None:
    inodes, file = Inodes(node(1)), node()
    inode = inodes.remember_nameless(file)
    assert inode.number >= OWN_NUMBERS
    assert inode.living_lid() == 0
    assert inodes.remember(10, file, ROOT_ID, b"linked") is inode
    assert inode.living_lid() == 10
    assert inodes.forget(inode, 2) == [(10, 1)], "libfuse never knew of the first"
    assert len(inodes) == 1


def test_counts_always_agree() -> None:
    """Whatever the order, libfuse forgets each name just as often as it was looked up."""
    chance = random.Random(1)
    for _ in range(300):
        inodes, file = Inodes(node(1)), node()
        counts: dict[int, int] = {}
        held = 0
        inode: Inode = inodes.remember_nameless(file)
        held += 1
        for _ in range(30):
            lid = chance.randrange(10, 14)
            if chance.random() < 0.6:
                assert inodes.remember(lid, file, ROOT_ID, b"%d" % lid) is inode
                counts[lid] = counts.get(lid, 0) + 1
                held += 1
            elif chance.random() < 0.5:
                inodes.unname(inode, (ROOT_ID, b"%d" % lid))
            elif held > 1:
                part = chance.randrange(1, held)
                for known, share in inodes.forget(inode, part):
                    counts[known] -= share
                held -= part
            assert all(count >= 0 for count in counts.values())
        for known, share in inodes.forget(inode, held):
            counts[known] -= share
        assert not any(counts.values())
        assert inodes.of(file) is None
