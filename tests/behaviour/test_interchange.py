"""An upper is the kernel's format: what one union wrote, the other mounts as the same tree.

The third party is again the plain copy: it went through the same calls, so both unions must show what it shows.
"""

from __future__ import annotations

import itertools
import os
import time

import pytest

from cowroot.layers.complete import complete
from cowroot.union.layers import LayerSpec
from tests.behaviour import generate, snapshot, trees
from tests.behaviour.backends import BACKENDS, COWROOT, Backend, Case, Core, Disk, Overlayfs, Plain, run
from tests.behaviour.calls import RENAME_EXCHANGE
from tests.behaviour.filesystem import FileSystem, MountedFileSystem, write_file
from tests.behaviour.session import Session
from tests.behaviour.trees import Dir, File, Hardlink, Spec, Symlink, Tree, Whiteout

_numbers = itertools.count()

# The kernel mounts what the union left with the features that the format may use; index and xino are about numbers, not about the tree.
READ_BY_KERNEL = "redirect_dir=on,metacopy=on,index=off,xino=off"
WRITTEN_BY_KERNEL = "redirect_dir=on,metacopy=on,index=on,xino=on"

LAYERS: list[Tree] = [
    {b"d/top": File(data=b"top"), b"d/gone": Whiteout(), b"o": Dir(opaque=True), b"o/new": File()},
    {
        b"d/gone": File(),
        b"d/low": File(extents=[(0, 1, 100_000)], mode=0o4755, xattrs={b"user.a": b"1"}),
        b"d/s/deep": File(data=b"deep"),
        b"o/old": File(),
        b"l1": File(data=b"linked"),
        b"l2": Hardlink(b"l1"),
        b"sym": Symlink(target=b"d/low"),
        b"e/x": File(data=b"x"),
    },
]


class ByKernel(Overlayfs):
    """Overlayfs over an upper that it did not write, or that it writes for others to read."""

    def __init__(self, case: Case, options: str) -> None:
        self.options = options
        super().__init__(case)


def changes(fs: FileSystem) -> None:
    """Something of everything that leaves a mark in an upper."""
    write_file(fs, b"d/low", b"changed", 0)
    fs.rename(b"d/s", b"d/moved")
    write_file(fs, b"d/moved/new", b"new")
    fs.mkdir(b"d/s")
    fs.rename(b"o", b"e/o")
    fs.unlink(b"e/x")
    fs.unlink(b"e/o/new")
    fs.rename(b"d/top", b"e/x")
    fs.chmod(b"d/moved/deep", 0o600)
    fs.rename(b"d", b"renamed")
    fs.rename(b"renamed/moved", b"e/o", RENAME_EXCHANGE)
    fs.symlink(b"nowhere", b"e/link")
    fs.mknod(b"e/fifo", 0o010644)
    fs.rename(b"sym", b"sym2")
    fs.chown(b"sym2", 5, 6, follow=False)
    fs.setxattr(b"e", b"user.k", b"v")


def what_travels(tree: snapshot.Snapshot) -> dict[bytes, snapshot.Item]:
    """What an upper carries from one union to the other: not numbers, links of the lower, change times, nor our private attributes."""
    found = {}
    for path, item in tree.items():
        xattrs = tuple((name, value) for name, value in item.xattrs if not name.startswith(b"trusted.cowroot."))
        stat = item.stat._replace(nlink=1, ctime_ns=0)
        found[path] = item._replace(link_group=(), faults=(), stat=stat, xattrs=xattrs)
    return found


def compare(plain: FileSystem, shown: FileSystem, since_ns: int) -> None:
    problems = snapshot.differences(what_travels(snapshot.take(plain)), what_travels(snapshot.take(shown)), since_ns)
    assert not problems, "\n".join(problems)


def new_case(disk: Disk, layers: list[Tree]) -> Case:
    return Case(os.path.join(disk.root, b"interchange%d" % next(_numbers)), layers)


@pytest.mark.union
def test_the_kernel_reads_our_upper(backend_name: str, disk: Disk) -> None:
    case = new_case(disk, LAYERS)
    since_ns = time.time_ns() - 10**9
    plain, union = Plain(case), BACKENDS[backend_name](case)
    changes(plain.fs)
    changes(union.fs)
    union.down()
    kernel = ByKernel(case, READ_BY_KERNEL)
    compare(plain.fs, kernel.fs, since_ns)
    kernel.down()
    case.remove()


@pytest.mark.union
def test_we_read_the_kernels_upper(backend_name: str, disk: Disk) -> None:
    case = new_case(disk, LAYERS)
    since_ns = time.time_ns() - 10**9
    plain, kernel = Plain(case), ByKernel(case, WRITTEN_BY_KERNEL)
    changes(plain.fs)
    changes(kernel.fs)
    kernel.down()
    union = BACKENDS[backend_name](case)
    compare(plain.fs, union.fs, since_ns)
    union.down()
    case.remove()


@pytest.mark.union
def test_an_upper_goes_back_and_forth(backend_name: str, disk: Disk) -> None:
    """One of us begins, the kernel goes on, we end: nothing is lost on the way."""
    case = new_case(disk, LAYERS)
    since_ns = time.time_ns() - 10**9
    plain = Plain(case)
    for mark in (b"1", b"2", b"3"):
        union: Backend = ByKernel(case, READ_BY_KERNEL) if mark == b"2" else BACKENDS[backend_name](case)
        for fs in (plain.fs, union.fs):
            fs.rename(b"d", b"dd")
            write_file(fs, b"dd/low", b"by " + mark, 0)
            fs.mkdir(b"d")
            write_file(fs, b"d/in" + mark, mark)
            fs.rename(b"d", b"dd/d" + mark)
            fs.rename(b"dd", b"d")
            fs.setxattr(b"d/s", b"user.mark", mark)
        union.down()
    final = BACKENDS[backend_name](case)
    compare(plain.fs, final.fs, since_ns)
    final.down()
    case.remove()


def test_our_upper_is_a_lower_to_the_kernel(disk: Disk) -> None:
    """An upper that is done with can lie under further layers, in either union."""
    case = new_case(disk, LAYERS)
    since_ns = time.time_ns() - 10**9
    plain, first = Plain(case), Core(case)
    changes(plain.fs)
    changes(first.fs)
    first.down()
    stacked = Case.__new__(Case)
    stacked.__dict__ = {**case.__dict__, "layers": [case.upper, *case.layers]}
    for name in ("upper", "work"):
        setattr(stacked, name, os.path.join(case.base, b"second-" + name.encode()))
        os.mkdir(getattr(stacked, name))
    for by_kernel in (True, False):
        union: Backend = ByKernel(stacked, READ_BY_KERNEL) if by_kernel else Core(stacked)
        shown = what_travels(snapshot.take(union.fs))
        expected = what_travels(snapshot.take(plain.fs))
        for tree in (shown, expected):
            tree.pop(b"")  # the root is the new upper's
        assert not snapshot.differences(expected, shown, since_ns)
        union.down()
    case.remove()


def test_the_kernel_reads_a_large_file_changed_in_part(disk: Disk) -> None:
    """What was copied up block by block is the lower's file to the kernel, until `cowroot complete` has copied the rest."""
    case = new_case(disk, [{b"big": File(extents=[(0, 1, 1 << 20)]), b"meta": File(extents=[(0, 2, 1 << 20)])}])
    since_ns = time.time_ns() - 10**9
    plain, union = Plain(case), Core(case)
    for fs in (plain.fs, union.fs):
        write_file(fs, b"big", b"changed", 0)
        fs.chmod(b"meta", 0o600)
        fs.rename(b"meta", b"moved")
    union.down()
    where = b"lowerdir=%s,upperdir=%s,workdir=%s" % (b":".join(case.layers), case.upper, case.work)
    run(*COWROOT, "complete", "-o", where)
    assert union.faults() == []
    kernel = ByKernel(case, READ_BY_KERNEL)
    compare(plain.fs, kernel.fs, since_ns)
    kernel.down()
    again = Core(case)
    compare(plain.fs, again.fs, since_ns)
    again.down()
    case.remove()


@pytest.mark.parametrize("moved", [False, True])
def test_metadata_only_copies_on_top_of_each_other(disk: Disk, moved: bool) -> None:
    """The kernel makes them where an upper becomes a lower; the data is in the lowest."""
    case = new_case(disk, [{b"d/big": File(extents=[(0, 1, 1 << 20)])}])
    since_ns = time.time_ns() - 10**9
    plain = Plain(case)
    for number in range(3):
        kernel = ByKernel(case, READ_BY_KERNEL)
        for fs in (plain.fs, kernel.fs):
            if moved:
                fs.rename(b"d/big", b"d/%d" % number)
                fs.rename(b"d/%d" % number, b"d/big")
                fs.rename(b"d", b"e%d" % number)
                fs.rename(b"e%d" % number, b"d")
            fs.chmod(b"d/big", 0o600 + number)
        kernel.down()
        case.layers.insert(0, case.upper)
        case.upper = os.path.join(case.base, b"upper%d" % number)
        case.work = os.path.join(case.base, b"work%d" % number)
        for directory in (case.upper, case.work):
            os.mkdir(directory)
    trees.copy_attributes(case.copy, case.upper)
    union = Core(case)
    compare(plain.fs, union.fs, since_ns)
    for fs in (plain.fs, union.fs):
        write_file(fs, b"d/big", b"changed", 0)
    compare(plain.fs, union.fs, since_ns)
    union.down()
    case.remove()


def test_all_names_of_a_file_travel(disk: Disk) -> None:
    """Of a lower file with several names only those that were used are in the upper, until `cowroot complete` adds the others."""
    linked = File(data=b"before")
    names: dict[bytes, Spec] = {path: Hardlink(b"f") for path in (b"far/away/name", b"g", b"gone", b"o/old")}
    others: dict[bytes, Spec] = {b"unchanged": File(), b"unchanged too": Hardlink(b"unchanged")}
    case = new_case(disk, [{b"o": Dir(opaque=True)}, {b"f": linked, **names, **others}])
    since_ns = time.time_ns() - 10**9
    plain, union = Plain(case), Core(case)
    for fs in (plain.fs, union.fs):
        write_file(fs, b"f", b"after", 0)
        fs.unlink(b"gone")
        fs.rename(b"far", b"near")
    union.down()
    done = [path for path, _ in complete(LayerSpec(case.layers, case.upper, case.work))]
    assert sorted(done) == [b"g", b"near/away/name"]
    assert not list(complete(LayerSpec(case.layers, case.upper, case.work)))
    assert union.faults() == []
    for again in (Core(case), ByKernel(case, READ_BY_KERNEL)):
        compare(plain.fs, again.fs, since_ns)
        assert len({again.fs.stat(path).ino for path in (b"f", b"g", b"near/away/name")}) == 1
        again.down()
    case.remove()


SEEDS = range(25)


def travelling_layers(seed: int) -> list[Tree]:
    """Random layers without what does not travel from the kernel: which names of a lower file are one is in its index."""
    return [{path: spec for path, spec in tree.items() if not isinstance(spec, Hardlink)} for tree in generate.layers(seed)]


@pytest.mark.parametrize("direction", ["ours to the kernel", "the kernel's to us"])
def test_random_uppers(disk: Disk, direction: str) -> None:
    """The tree after a random sequence: the union that wrote it and the one that reads it show the same."""
    for seed in SEEDS:
        ours = direction == "ours to the kernel"
        case = new_case(disk, generate.layers(seed) if ours else travelling_layers(seed))
        writer: Backend = Core(case) if ours else ByKernel(case, WRITTEN_BY_KERNEL)
        perform(Plain(case), writer, seed)
        written = what_travels(snapshot.take(writer.fs))
        writer.down()
        if ours:
            for _ in complete(LayerSpec(case.layers, case.upper, case.work)):
                pass
        reader: Backend = ByKernel(case, READ_BY_KERNEL) if ours else Core(case)
        problems = snapshot.differences(written, what_travels(snapshot.take(reader.fs)), time.time_ns())
        reader.down()
        case.remove()
        assert not problems, f"seed {seed}:\n" + "\n".join(problems)


def perform(plain: Plain, writer: Backend, seed: int) -> None:
    """A random sequence on the writer; the copy goes along so that the generator has something to look at."""
    sessions = Session(plain), Session(writer)
    generator = generate.Generator(seed, writer.lacks | {"users", "locks"}, plain.case.copy)
    before = os.umask(0o022)
    try:
        for _ in range(150):
            operation = generator.next()
            if operation[0] != "remount":
                for session in sessions:
                    session.perform(operation)
    finally:
        os.umask(before)
        for session in sessions:
            session.close_all()


def test_a_tree_seen_by_the_kernel_is_a_tree(disk: Disk) -> None:
    """The comparison itself: a difference in an upper is seen."""
    case = new_case(disk, LAYERS)
    plain, kernel = Plain(case), ByKernel(case, READ_BY_KERNEL)
    assert isinstance(kernel.fs, MountedFileSystem)
    write_file(kernel.fs, b"e/x", b"y", 0)
    with pytest.raises(AssertionError, match="content"):
        compare(plain.fs, kernel.fs, time.time_ns())
    kernel.down()
    case.remove()
