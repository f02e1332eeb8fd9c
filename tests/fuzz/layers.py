"""Uppers, work directories and lowers in which somebody has put anything anywhere, mounted, used, checked and repaired."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat as st
import tempfile

from cowroot.errors import LayerError
from cowroot.union.check import check
from tests.behaviour import generate
from tests.behaviour.backends import BACKENDS, Case, Core, Plain
from tests.behaviour.session import Session
from tests.behaviour.test_hostile import MARKS, SECRET, VALUES, everything, use
from tests.behaviour.test_interchange import perform

MOUNTED = 0.1  # of the cases go through the kernel
NAMES = [
    b"a", b"b", b"c", b".wh.a", b".wh..wh..opq", b".cowroot-probe", b"\xff", b"\n", b"x" * 255, b"0-1", b"1-2", b"0-99999999999999999999",
    b"-", b"1",
    b"tmp", b"index", b"links", b"orphans", b"numbers", b"cowroot", b"work", b"\xd9\xa1-\xd9\xa1", b"0-+1", b"0-1 ",
]  # fmt: skip
TARGETS = [
    b"1 1", b"-1 -1", b"99999999999999999999999 1", b"1", b"x y", b"1 2 3", b"/", b"..", b"../../../secret", b"\xd9\xa1 \xd9\xa1",
    b"a" * 4000,
]  # fmt: skip


def layers(chance: random.Random) -> None:
    """One union over such layers."""
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="cowroot-fuzz-") as directory:
        base = os.fsencode(directory) + b"/case"
        case = Case(base, generate.layers(chance))
        beside = os.listdir(base)
        with open(base + b"/secret", "wb") as file:
            file.write(SECRET)
        if chance.random() < 0.7:
            writer = Core(case)
            perform(Plain(case), writer, chance.randrange(1 << 30))
            writer.down()
            if chance.random() < 0.4:
                case.freeze()
        for _ in range(chance.choice((1, 3, 10, 40))):
            _tamper(chance, chance.choice((case.upper, case.upper, case.work, chance.choice([*case.layers, *case.former_works]))))
        _live_with(case, "direct" if chance.random() < MOUNTED else "core")
        _repair(case)
        with open(base + b"/secret", "rb") as file:
            assert file.read() == SECRET
        assert sorted(set(os.listdir(base)) - {b"secret"}) == sorted(beside)
        case.remove()
    os.umask(before)


def _live_with(case: Case, kind: str) -> None:
    try:
        union = BACKENDS[kind](case)
    except (LayerError, RuntimeError) as error:  # RuntimeError: what `cowroot mount` says
        assert not any(word in str(error) for word in ("unexpected", "Traceback", "nothing is mounted")), error
        return
    try:
        for content in use(union.fs, b""):
            assert SECRET not in content
        Session(union).close_all()
    finally:
        union.down()


def _repair(case: Case) -> None:
    """All that can be repaired is so after it was: nothing that could be is left."""
    for _ in range(2):
        left = []
        try:
            for problem in check(case.upper, case.work, tuple(case.layers)):
                if problem.repair:
                    problem.repair()
                    left.append(problem)
        except LayerError:
            return
    assert not left, left


def _tamper(chance: random.Random, layer: bytes) -> None:
    """One change. What the file system refuses is not made."""
    place = chance.choice(sorted(everything(layer)))
    value = chance.choice((chance.choice(VALUES), chance.choice(VALUES), chance.choice(TARGETS + NAMES), chance.randbytes(9)))
    directories = sorted(path for path in everything(layer) if os.path.isdir(path) and not os.path.islink(path))
    name = chance.choice(directories) + b"/" + chance.choice((*NAMES, chance.randbytes(5).replace(b"/", b"").replace(b"\0", b"") + b"r"))
    kind = chance.randrange(11)
    with contextlib.suppress(OSError, ValueError):
        if kind < 4:
            os.setxattr(place, chance.choice(MARKS), value, follow_symlinks=False)
        elif kind == 4:
            os.mknod(name, st.S_IFCHR, chance.choice((0, 0, 0, os.makedev(1, 3))))
        elif kind == 5:
            os.mkdir(name)
        elif kind == 6:
            os.symlink(chance.choice(TARGETS), name)
        elif kind == 7:
            os.link(place, name, follow_symlinks=False)
        elif kind == 8:
            os.mkfifo(name)
        elif kind == 9:
            if not os.path.isdir(place) or os.path.islink(place):
                os.unlink(place)
            elif place != layer:
                os.rename(place, os.path.join(os.path.dirname(place), chance.choice(NAMES)))
        else:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(name)
