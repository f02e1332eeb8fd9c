"""Several processes at once: what must hold however their calls fall between each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.behaviour import snapshot
from tests.behaviour.backends import Backend
from tests.behaviour.filesystem import FileSystem, MountedFileSystem, names, read_all
from tests.behaviour.trees import File, Hardlink, Spec, pattern

pytestmark = pytest.mark.mounted

PROCESSES = 4
ROUNDS = 150
SECONDS = 50


def together(fs: FileSystem, program: str, count: int = PROCESSES, *arguments: bytes) -> list[bytes]:
    """Run `program` in several processes in the tree's root; `me` is each one's number. Returns what they printed."""
    assert isinstance(fs, MountedFileSystem)
    start = "import errno, os, random, sys\nme = int(sys.argv[1])\nchance = random.Random(me)\n"
    commands: list[list[str | bytes]] = [[sys.executable, "-c", start + program, str(number), *arguments] for number in range(count)]
    running = [subprocess.Popen(command, cwd=fs.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    results = []
    for process in running:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += b"still running after %d s" % SECONDS
        results.append((process.returncode, out, err.decode()))
    assert [(code, err) for code, _, err in results if code] == []
    return [out for _, out, _ in results]


@pytest.mark.lower({b"f": File(data=b"start\n")})
def test_appends_are_whole(fs: FileSystem) -> None:
    together(
        fs,
        f"""
fd = os.open("f", os.O_WRONLY | os.O_APPEND)
for number in range({ROUNDS}):
    os.write(fd, b"%d %d\\n" % (me, number))
""",
    )
    lines = read_all(fs, b"f").splitlines()
    assert lines[0] == b"start"
    for me in range(PROCESSES):
        assert [line for line in lines if line.startswith(b"%d " % me)] == [b"%d %d" % (me, number) for number in range(ROUNDS)]


@pytest.mark.lower({b"f": File(extents=[(0, 1, 400_000)]), b"g": Hardlink(b"f")})
def test_writers_of_one_file_do_not_lose_each_others_bytes(fs: FileSystem) -> None:
    """All begin with the file in the lower: it is copied up once, under whichever name."""
    together(
        fs,
        """
fd = os.open(("f", "g")[me % 2], os.O_RDWR)
for number in range(100):
    os.pwrite(fd, bytes([65 + me]) * 100, (number * 4 + me) * 1000 + 50)
""",
    )
    expected = bytearray(pattern(1, 400_000))
    for number in range(100):
        for me in range(PROCESSES):
            at = (number * 4 + me) * 1000 + 50
            expected[at : at + 100] = bytes([65 + me]) * 100
    assert read_all(fs, b"f") == expected
    assert fs.stat(b"f").ino == fs.stat(b"g").ino


@pytest.mark.lower({b"d/%03d" % number: File(data=b"%d" % number) for number in range(100)})
def test_a_name_is_removed_once(fs: FileSystem) -> None:
    printed = together(
        fs,
        """
taken = []
for number in chance.sample(range(100), 100):
    try:
        os.unlink("d/%03d" % number)
        taken.append(number)
    except FileNotFoundError:
        pass
print(*taken)
""",
    )
    taken = [number for line in printed for number in line.split()]
    assert len(taken) == len(set(taken)) == 100
    assert names(fs, b"d") == []


@pytest.mark.lower({**{b"a/f%d" % number: File(data=b"%d" % number) for number in range(20)}, b"b/x": File(), b"c/x": File()})
def test_renames_between_directories_lose_nothing(fs: FileSystem) -> None:
    together(
        fs,
        f"""
for _ in range({ROUNDS}):
    number = chance.randrange(20)
    try:
        os.rename("%s/f%d" % (chance.choice("abc"), number), "%s/f%d" % (chance.choice("abc"), number))
    except FileNotFoundError:
        pass
""",
    )
    found = {}
    for directory in (b"a", b"b", b"c"):
        for name in names(fs, directory):
            if name != b"x":
                assert name not in found, "one file under two names"
                found[name] = read_all(fs, directory + b"/" + name)
    assert found == {b"f%d" % number: b"%d" % number for number in range(20)}


@pytest.mark.lower({b"l/%d" % number: File(data=b"old") for number in range(10)})
def test_replacing_by_rename_is_never_half_done(fs: FileSystem) -> None:
    """Writers replace a file as editors do; readers must always find a whole one."""
    together(
        fs,
        f"""
for number in range({ROUNDS}):
    name = "l/%d" % chance.randrange(10)
    if me % 2:
        with open("l/new%d" % me, "w") as file:
            file.write("%d" % me * 5000)
        os.rename("l/new%d" % me, name)
    else:
        with open(name) as file:
            content = file.read()
        assert content == "old" or len(set(content)) == 1 and len(content) == 5000, (name, content[:20], len(content))
""",
    )
    assert names(fs, b"l") == [b"%d" % number for number in range(10)]


STRESS_TREE: dict[bytes, Spec] = {
    b"%d/%d/f%d" % (top, sub, number): File(data=b"%d" % number) for top in range(3) for sub in range(3) for number in range(3)
}


@pytest.mark.lower(STRESS_TREE, {b"0/0/hidden": File(), b"1/low": File()})
def test_stress(fs: FileSystem, union: Backend, remounted: Callable[[], FileSystem]) -> None:
    """Everybody does everything everywhere. Errors that races explain are fine; the tree is sound, and the same after a remount."""
    together(
        fs,
        """
def somewhere():
    return "/".join(chance.choice("012xyz") for _ in range(chance.randint(1, 2))) + chance.choice(("", "/f%d" % chance.randrange(4)))

def put(path):
    with open(path, "ab") as file:
        file.write(os.urandom(chance.randrange(5000)))

def cat(path):
    with open(path, "rb") as file:
        assert len(file.read()) <= 1 << 24

CALLS = [
    lambda: os.mkdir(somewhere()),
    lambda: os.rmdir(somewhere()),
    lambda: os.unlink(somewhere()),
    lambda: os.rename(somewhere(), somewhere()),
    lambda: os.rename(somewhere(), somewhere()),
    lambda: os.link(somewhere(), somewhere()),
    lambda: os.symlink("f1", somewhere()),
    lambda: os.listdir(somewhere()),
    lambda: os.stat(somewhere()),
    lambda: os.chmod(somewhere(), 0o755),
    lambda: os.setxattr(somewhere(), "user.x", b"y" * chance.randrange(50)),
    lambda: os.truncate(somewhere(), chance.randrange(9000)),
    lambda: put(somewhere()),
    lambda: put(somewhere()),
    lambda: cat(somewhere()),
]
EXPECTED = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EPERM, errno.EBUSY, errno.ELOOP}
EXPECTED.add(errno.ESTALE)  # a path whose directory went away between two looks at it
for _ in range(1500):
    try:
        chance.choice(CALLS)()
    except OSError as error:
        assert error.errno in EXPECTED, error
""",
    )
    if union.name == "fusepy":  # see fusepy-limits.md: times of directories that stay from before the last change
        Path("/proc/sys/vm/drop_caches").write_text("2")
    tree = snapshot.take(fs)
    assert not [fault for item in tree.values() for fault in item.faults]
    for path, item in tree.items():
        if item.stat.kind == 0o100000:
            assert item.stat.nlink == len(item.link_group), path
    again = snapshot.take(remounted())
    assert not snapshot.differences(tree, again, max(item.stat.ctime_ns for item in tree.values()) + 1)
    assert {path: item.stat.ino for path, item in tree.items()} == {path: item.stat.ino for path, item in again.items()}


@pytest.mark.lower({b"d/%02d" % number: File() for number in range(50)})
def test_listing_while_others_work(fs: FileSystem) -> None:
    """What stays is in every listing once; what comes and goes may be there or not."""
    together(
        fs,
        """
if me % 2:
    for number in range(150):
        name = "d/new%d-%d" % (me, number % 5)
        open(name, "w").close()
        os.rename(name, "d/other%d" % me)
        os.unlink("d/other%d" % me)
else:
    for _ in range(60):
        found = os.listdir("d")
        assert len(found) == len(set(found)), sorted(found)
        assert {"%02d" % number for number in range(50)} <= set(found)
""",
    )
    assert names(fs, b"d") == [b"%02d" % number for number in range(50)]
