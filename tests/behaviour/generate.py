"""Random lower layers and random operations, all of them determined by a seed.

Names come from a small set, so that calls meet each other. An operation is chosen with the plain copy's present tree in view: mostly on
what is there, now and then on what is not.
"""

from __future__ import annotations

import os
import random
import stat as st
import struct
from collections.abc import Callable
from typing import Any
from typing import Union as EitherOf

from tests.behaviour import calls
from tests.behaviour.calls import NOW, OMIT
from tests.behaviour.session import Operation
from tests.behaviour.trees import OLD_NS, Dir, File, Hardlink, Spec, Special, Symlink, Tree, Whiteout

NAMES = (b"a", b"b", b"c", b"d", b"e", b"f g", b"\xff\xfe\n", b"n" * 255)
NAME_WEIGHTS = (8, 8, 8, 8, 6, 2, 2, 1)
OFFSETS = (0, 1, 100, 4095, 4096, 4097, 8192, 20000, 65536, 131072, 200_001, 299_000)
LENGTHS = (0, 1, 10, 511, 4096, 4097, 10000, 70000)
MODES = (0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o2775, 0o6711, 0o000, 0o444)
OWNERS = (0, 0, 1, 1000, 65534)
TIMES = (0, 1, OLD_NS, 1_234_567_890_999_999_999, 4_102_444_800_000_000_001, NOW, OMIT)
XATTRS = (b"user.a", b"user.b", b"trusted.c", b"security.d", b"user." + b"x" * 200)
NULL_DEVICE = os.makedev(240, 7)  # of a range for local use: there is no driver, so that opening it fails alike everywhere
SLOTS = 5


def _capability() -> bytes:
    """cap_net_raw=ep as the kernel stores it (struct vfs_cap_data, revision 2)."""
    return struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def acl(user: int, bits: int) -> bytes:
    """A POSIX ACL as an attribute value (linux/posix_acl_xattr.h): owner rwx, one named user, group r-x, mask rwx, others none."""
    entries = ((0x01, 7, 0xFFFFFFFF), (0x02, bits, user), (0x04, 5, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def tree(chance: random.Random, below: Tree, bottom: bool) -> dict[bytes, Spec]:
    """One layer; `below` is what lies under it, so that whiteouts and merged directories have something to meet."""
    made: dict[bytes, Spec] = {}
    directories = [b""]
    files: list[bytes] = []
    for _ in range(chance.randint(0, 25)):
        if below and chance.random() < 0.4:
            path = chance.choice(sorted(below))
        else:
            parent = chance.choice(directories)
            path = os.path.join(parent, chance.choices(NAMES, NAME_WEIGHTS)[0])
        parents = _parents(path)
        if path in made or any(parent in made and not isinstance(made[parent], Dir) for parent in parents) or path.count(b"/") > 5:
            continue
        if any(other.startswith(path + b"/") for other in made):
            continue
        for parent in parents:
            if parent not in made:
                made[parent] = Dir()
                directories.append(parent)
        spec = _spec(chance, files, bottom)
        made[path] = spec
        if isinstance(spec, Dir):
            directories.append(path)
        elif isinstance(spec, (File, Special)):
            files.append(path)
    return made


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[: length + 1]) for length in range(len(parts) - 1)]


def _spec(chance: random.Random, files: list[bytes], bottom: bool) -> Spec:
    kind = chance.choices(("file", "dir", "symlink", "special", "hardlink", "whiteout"), (8, 8, 2, 1, 3, 0 if bottom else 4))[0]
    owner: dict[str, Any] = {"uid": chance.choice(OWNERS), "gid": chance.choice(OWNERS), "mtime_ns": OLD_NS + chance.randrange(10**12)}
    xattrs = {name: b"v" * chance.randrange(20) for name in XATTRS[:4] if chance.random() < 0.1}
    if kind == "dir":
        if chance.random() < 0.1:
            xattrs[b"system.posix_acl_default"] = acl(1000, 6)
        return Dir(
            mode=chance.choice((0o755, 0o755, 0o2775, 0o1777, 0o700)), opaque=not bottom and chance.random() < 0.2, xattrs=xattrs, **owner
        )
    if kind == "symlink":
        return Symlink(target=_link_value(chance), **owner)
    if kind == "special":
        return Special(kind=chance.choice((st.S_IFIFO, st.S_IFSOCK, st.S_IFCHR, st.S_IFBLK)), rdev=NULL_DEVICE, **owner)
    if kind == "hardlink" and files:
        return Hardlink(chance.choice(files))
    if kind == "whiteout":
        return Whiteout()
    if chance.random() < 0.1:
        xattrs[b"security.capability"] = _capability()
    if chance.random() < 0.1:
        xattrs[b"system.posix_acl_access"] = acl(1000, 4)
    extents = [(chance.choice(OFFSETS), chance.randrange(200), chance.choice(LENGTHS)) for _ in range(chance.randrange(4))]
    size = chance.choice((0, 0, 0, 5000, 300_000, 300_000))
    return File(mode=chance.choice(MODES), xattrs=xattrs, extents=extents, size=size, **owner)


def _link_value(chance: random.Random) -> bytes:
    """Never "..": a link that leads out of the tree leads the copy and the union to one place."""
    return b"./" * chance.randrange(2) + b"/".join(chance.choices(NAMES, NAME_WEIGHTS, k=chance.randint(1, 2)))


def layers(seed: EitherOf[int, random.Random]) -> list[Tree]:
    """One to three lower layers, topmost first. `seed`: or who is to be asked for each choice."""
    chance = random.Random(f"layers {seed}") if isinstance(seed, int) else seed
    stack: list[Tree] = []
    below: dict[bytes, Spec] = {}
    for number in range(chance.choice((1, 1, 2, 3))):
        layer = tree(chance, below, bottom=number == 0)
        below = {**below, **layer}
        stack.insert(0, layer)
    return stack


class Generator:
    """Yields operations.

    Arguments: `seed`: or who is to be asked for each choice; `lacks`: features (see `backends.FEATURES`) whose operations are left out;
    `root`: the plain copy.
    """

    def __init__(self, seed: EitherOf[int, random.Random], lacks: frozenset[str], root: bytes) -> None:
        self._chance = random.Random(f"operations {seed}") if isinstance(seed, int) else seed
        self._root = root
        self._paths: list[bytes] = []
        self._age = 0
        self._lacks = lacks
        self._choices = self._table(lacks)
        self._weights = [weight for weight, _ in self._choices]

    def next(self) -> Operation:
        if self._age == 0:
            self._paths = sorted(_walk(self._root))
            self._age = 3
        self._age -= 1
        return self._chance.choices(self._choices, self._weights)[0][1]()

    def _table(self, lacks: frozenset[str]) -> list[tuple[int, Callable[[], Operation]]]:
        chance, slot, path, new, target = self._chance, self._slot, self._path, self._new, self._target
        offset, length, tag, mode = self._offset, self._length, self._tag, self._mode
        table: list[tuple[int, Callable[[], Operation]]] = [
            (14, lambda: ("open", slot(), self._either(), self._flags(), mode())),
            (3, lambda: ("close", slot())),
            (3, lambda: ("read", slot(), length())),
            (6, lambda: ("pread", slot(), offset(), length())),
            (4, lambda: ("write", slot(), tag(), length())),
            (8, lambda: ("pwrite", slot(), offset(), tag(), length())),
            (2, lambda: ("lseek", slot(), offset(), chance.choice((os.SEEK_SET, os.SEEK_CUR, os.SEEK_END)))),
            (2, lambda: ("copy_range", slot(), offset(), slot(), offset(), length())),
            (2, lambda: ("fsync", slot())),
            (2, lambda: ("rewind_read", slot())),
            (3, lambda: ("map", self._map(), slot(), chance.random() < 0.6)),
            (4, lambda: ("map_read", self._map(), offset(), length())),
            (4, lambda: ("map_write", self._map(), offset(), tag(), length())),
            (1, lambda: ("unmap", self._map())),
            (5, lambda: ("truncate", target(), offset())),
            (8, lambda: ("stat", target(), chance.random() < 0.5)),
            (6, lambda: ("chmod", target(), mode())),
            (5, lambda: ("chown", target(), *self._owners(), chance.random() < 0.5)),
            (5, lambda: ("utimens", target(), self._time(), self._time(), chance.random() < 0.5)),
            (3, lambda: ("getxattr", target(), self._xattr(), chance.random() < 0.7)),
            (5, lambda: ("setxattr", target(), *self._attribute(), chance.choice((0, 0, 1, 2)), chance.random() < 0.7)),
            (3, lambda: ("listxattr", target(), chance.random() < 0.7)),
            (3, lambda: ("removexattr", target(), self._removable(), chance.random() < 0.7)),
            (7, lambda: ("mkdir", new(), mode())),
            (5, lambda: ("rmdir", path())),
            (7, lambda: ("unlink", path())),
            (16, lambda: ("rename", path(), self._either(), 0)),
            (7, lambda: ("link", path(), new())),
            (3, lambda: ("symlink", _link_value(chance), new())),
            (2, lambda: ("readlink", path())),
            (3, lambda: ("mknod", new(), self._node_mode(), NULL_DEVICE)),
            (6, lambda: ("readdir", path())),
            (5, lambda: ("cat", path())),
            (6, lambda: ("put", self._either(), tag(), length())),
            (1, lambda: ("umask", chance.choice((0, 0o022, 0o027, 0o077)))),
            (1, lambda: ("remount",)),
        ]
        optional: dict[str, list[tuple[int, Callable[[], Operation]]]] = {
            "exchange": [(4, lambda: ("rename", path(), path(), calls.RENAME_EXCHANGE))],
            "noreplace": [(4, lambda: ("rename", path(), self._either(), calls.RENAME_NOREPLACE))],
            "tmpfile": [(2, lambda: ("tmpfile", slot(), path(), mode())), (2, lambda: ("link_descriptor", slot(), new()))],
            "fallocate": [(4, lambda: ("fallocate", slot(), self._fallocate_mode(), offset(), length()))],
            "locks": [
                (2, lambda: ("flock", slot(), chance.choice((1, 2, 8)))),
                (2, lambda: ("lock_range", slot(), chance.choice((0, 1, 2)), chance.choice((0, 10)), 20)),
            ],
            "users": [(2, lambda: ("as_user", chance.choice((0, 0, 1000)), 1000))],
        }
        for feature, operations in optional.items():
            if feature not in lacks:
                table += operations
        return table

    def _slot(self) -> int:
        return self._chance.randrange(SLOTS)

    def _map(self) -> int:
        return self._chance.randrange(3)

    def _path(self) -> bytes:
        """Mostly something that is there (never the root: no backend can rename or remove that alike)."""
        if self._paths and self._chance.random() < 0.9:
            return self._chance.choice(self._paths)
        return self._new()

    def _new(self) -> bytes:
        parents = [b"", *(path for path in self._paths if path.count(b"/") < 5)]
        parent = self._chance.choice(parents) if self._chance.random() < 0.7 else b""
        return os.path.join(parent, self._chance.choices(NAMES, NAME_WEIGHTS)[0])

    def _either(self) -> bytes:
        return self._path() if self._chance.random() < 0.6 else self._new()

    def _target(self) -> object:
        return self._slot() if self._chance.random() < 0.35 else self._path()

    def _flags(self) -> int:
        chance = self._chance
        flags = chance.choice((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        for extra, likelihood in (
            (os.O_CREAT, 0.4), (os.O_EXCL, 0.05), (os.O_TRUNC, 0.1), (os.O_APPEND, 0.15), (os.O_DIRECTORY, 0.05), (os.O_NOFOLLOW, 0.1),
        ):  # fmt: skip
            if chance.random() < likelihood:
                flags |= extra
        if flags & os.O_DIRECTORY and flags & os.O_CREAT:  # its meaning changed between kernel versions
            flags &= ~os.O_CREAT
        return flags

    def _offset(self) -> int:
        return self._chance.choice(OFFSETS)

    def _length(self) -> int:
        return self._chance.choice(LENGTHS)

    def _tag(self) -> int:
        return self._chance.randrange(200)

    def _mode(self) -> int:
        return self._chance.choice(MODES)

    def _owners(self) -> tuple[int, int]:
        """Never -1 twice: see `test_attributes.test_chown_of_nothing`."""
        uid = self._chance.choice((-1, *OWNERS))
        return uid, self._chance.choice((-1, *OWNERS) if uid != -1 else OWNERS)

    def _time(self) -> int:
        return self._chance.choice(TIMES)

    def _xattr(self) -> bytes:
        return self._chance.choice((*XATTRS, b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"))

    def _removable(self) -> bytes:
        name = self._xattr()
        return XATTRS[0] if "acl_removal" in self._lacks and name.startswith(b"system.") else name

    def _attribute(self) -> tuple[bytes, bytes]:
        name = self._xattr()
        if name == b"security.capability":
            return name, _capability()
        if name.startswith(b"system."):
            return name, acl(1000, self._chance.randrange(8))
        return name, b"w" * self._chance.choice((0, 1, 30, 300))

    def _node_mode(self) -> int:
        kind = self._chance.choice((st.S_IFREG, st.S_IFIFO, st.S_IFSOCK, st.S_IFCHR, st.S_IFBLK))
        return kind | self._mode()

    def _fallocate_mode(self) -> int:
        keep = calls.FALLOC_KEEP_SIZE
        mode = self._chance.choice((0, keep, keep | calls.FALLOC_PUNCH_HOLE, calls.FALLOC_ZERO_RANGE, keep | calls.FALLOC_ZERO_RANGE))
        return mode & ~calls.FALLOC_ZERO_RANGE if "zero_range" in self._lacks else mode


def _walk(root: bytes, below: bytes = b"") -> list[bytes]:
    found: list[bytes] = []
    with os.scandir(os.path.join(root, below) if below else root) as listing:
        for entry in listing:
            path = os.path.join(below, entry.name)
            found.append(path)
            if entry.is_dir(follow_symlinks=False):
                found.extend(_walk(root, path))
    return found
