"""Uppers that somebody has tampered with: every call ends, with a result or an error of the system's, and nothing outside is reached."""

from __future__ import annotations

import contextlib
import os
import random
import stat as st
from collections.abc import Iterator

import pytest

from cowroot.errors import LayerError
from cowroot.union.check import check
from tests.behaviour import generate
from tests.behaviour.backends import BACKENDS, Case, Core, Disk, Plain
from tests.behaviour.filesystem import FileSystem, entries, read_all
from tests.behaviour.session import Session
from tests.behaviour.test_interchange import perform
from tests.behaviour.trees import Dir, File, Tree

MOUNTED = ("fusepy", "direct")
SECRET = b"what lies outside the layers"
MARKS = [
    b"trusted.overlay." + name
    for name in (b"opaque", b"redirect", b"metacopy", b"origin", b"impure", b"nlink", b"whiteout", b"upper", b"x")
] + [b"trusted.cowroot." + name for name in (b"ino", b"limit", b"device", b"fs", b"work", b"nlink", b"origin", b"x")]
VALUES = [
    b"", b"y", b"x", b"\0", b"/", b".", b"..", b"../../secret", b"/../../../secret", b"a/../../secret", b"/a/b/", b"//a", b"a\0b",
    b"/a", b"a", b"/a/a/a/a/a/a", b"\xff" * 1000, b"/" + b"a/" * 1500, b"-1", b"0", b"999999999999999999999999", b"1e3", b" 1 ",
    b"\x00\xfb\x1d",
    b"\x00" * 29,
]  # fmt: skip


def everything(root: bytes) -> Iterator[bytes]:
    for directory, directories, files in os.walk(root):
        yield directory
        for name in directories + files:
            yield os.path.join(directory, name)


def tamper(case: Case, chance: random.Random) -> list[str]:
    """Put nonsense onto a few places of upper and work directory; says what was done."""
    places = sorted(set(everything(case.upper)) | set(everything(os.path.join(case.work, b"cowroot"))))
    done = []
    for _ in range(chance.randint(1, 6)):
        place = chance.choice(places)
        if not os.path.lexists(place):
            continue
        kind = chance.random()
        directory = os.path.isdir(place) and not os.path.islink(place)
        if kind < 0.8:
            name, value = chance.choice(MARKS), chance.choice(VALUES)
            with contextlib.suppress(OSError):  # ext4 has one block for attributes
                os.setxattr(place, name, value, follow_symlinks=False)
            done.append(f"{place!r}: {name!r} = {value!r}")
        elif kind < 0.9 and directory and not os.path.lexists(place + b"/planted"):
            os.symlink(b"../../../secret", place + b"/planted")
            os.mknod(place + b"/white", st.S_IFCHR, 0)
            os.mkdir(place + b"/new")
            done.append(f"{place!r}: planted")
        elif not directory:
            os.unlink(place)
            done.append(f"{place!r}: removed")
    return done


def use(fs: FileSystem, path: bytes, depth: int = 0) -> Iterator[bytes]:
    """Look at everything, change a little of it, and yield the content of all files. OSError is an answer, anything else is not."""
    assert depth < 50, "a loop"
    try:
        listed = entries(fs, path)
    except OSError:
        return
    for entry in listed:
        if entry.name in (b".", b".."):
            continue
        where = path + b"/" + entry.name if path else entry.name
        try:
            found = fs.stat(where, follow=False)
            fs.listxattr(where, follow=False)
            if found.kind == st.S_IFDIR:
                yield from use(fs, where, depth + 1)
            elif found.kind == st.S_IFREG:
                yield read_all(fs, where)
                fs.chmod(where, 0o600)
                fs.truncate(where, 5)
            elif found.kind == st.S_IFLNK:
                fs.readlink(where)
            fs.rename(where, where + b"2")
            fs.rename(where + b"2", where)
        except OSError:
            continue


@pytest.mark.parametrize(("kind", "seed"), [*(("core", seed) for seed in range(30)), *((kind, 1000) for kind in MOUNTED), ("direct", 1001)])
def test_a_tampered_upper(disk: Disk, kind: str, seed: int) -> None:
    chance = random.Random(f"tamper {seed}")
    base = os.path.join(disk.root, b"hostile%d" % seed)
    layers: list[Tree] = [{b"a/a": File(data=b"a"), b"b": Dir()}, *generate.layers(seed)]
    case = Case(base, layers)
    for outside in (base, os.path.dirname(case.upper), os.path.dirname(base)):
        with open(os.path.join(outside, b"secret"), "wb") as file:
            file.write(SECRET)
    writer = Core(case)
    perform(Plain(case), writer, seed)
    writer.down()
    done = tamper(case, chance)
    try:
        union = BACKENDS[kind](case)
    except (LayerError, RuntimeError) as error:
        assert "Traceback" not in str(error)
        case.remove()
        return
    for content in use(union.fs, b""):
        assert SECRET not in content, done
    Session(union).close_all()
    union.down()
    assert all(isinstance(problem.what, str) for problem in check(case.upper, case.work, tuple(case.layers)))
    with open(os.path.join(base, b"secret"), "rb") as file:
        assert file.read() == SECRET
    case.remove()


@pytest.mark.parametrize("seed", range(40, 60))
def test_a_repaired_upper(disk: Disk, seed: int) -> None:
    """After the repairs that check offers, it finds nothing more that it could repair, and the union can be used."""
    chance = random.Random(f"tamper {seed}")
    case = Case(os.path.join(disk.root, b"hostile%d" % seed), generate.layers(seed))
    writer = Core(case)
    perform(Plain(case), writer, seed)
    writer.down()
    done = tamper(case, chance)
    for problem in check(case.upper, case.work, tuple(case.layers)):
        if problem.repair:
            problem.repair()
    left = [problem for problem in check(case.upper, case.work, tuple(case.layers)) if problem.repair]
    assert not left, (done, left)
    union = Core(case)
    for _ in use(union.fs, b""):  # no exception but OSError comes out
        pass
    union.down()
    case.remove()
