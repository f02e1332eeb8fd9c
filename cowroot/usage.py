"""What fills an upper: which of the union's paths, and who wrote them. Nothing is changed, and nothing of it asks the union."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cowroot.bootrecord import boot_record
from cowroot.errors import CowrootError, MountError
from cowroot.fuse import control
from cowroot.mountinfo import Mount, mounts
from cowroot.status import FILE_SYSTEM

UNKNOWN = ("", "")  # who wrote a file: not told, or forgotten
INO = ("trusted.cowroot.ino", "user.cowroot.ino")  # the inode number that a file in the upper shows (marks.py)
NEARLY_ALL = 0.9  # of a directory's bytes in one thing that it holds: then that says more


@dataclass
class Place:
    """A path of the union and what it takes in the upper: `bytes`; `files` in it, and `whiteouts`, which stand for removed files."""

    path: str
    bytes: int = 0
    files: int = 0
    whiteouts: int = 0


@dataclass
class Writer:
    """A service unit and a command, as far as they are known, and what they opened for writing last, as it is now."""

    unit: str
    command: str
    bytes: int = 0
    files: int = 0


@dataclass
class Usage:
    """The answer of `cowroot usage`: sizes in bytes. `size`, `free`, `inodes` and `free_inodes` are those of the upper's file system."""

    mountpoint: str
    path: str
    size: int = 0
    free: int = 0
    inodes: int = 0
    free_inodes: int = 0
    reserve: int = 0
    total: Place = field(default_factory=lambda: Place(""))
    removed: Place = field(default_factory=lambda: Place(""))  # what was removed, but is still open
    paths: list[Place] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)


class _Tree:
    """A directory of the upper, counted."""

    def __init__(self, path: str) -> None:
        self.place = Place(path)
        self.parts: list[Place] = []
        self.below: list[_Tree] = []


def usage(path: str, most: int, table: str | os.PathLike[str] = "/proc/self/mountinfo") -> Usage:
    """What is in the upper below `path` of a union, the `most` largest. Raises CowrootError if it is in none, MountError."""
    where = os.path.realpath(path)
    mount = _mount_of(where, table)
    upper, daemon = _upper_of(mount)
    below = os.path.relpath(where, mount.point)
    space = os.statvfs(upper)
    found = Usage(
        mount.point, where, space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize, space.f_files, space.f_ffree,
        daemon["reserve"]["held"] if daemon else 0,
    )  # fmt: skip
    count = _Count(_writers_of(mount) if daemon else {"fs": 1, "labels": [], "files": []})
    tree = count.directory(os.path.join(upper, below), where)
    found.total, found.paths = tree.place, sorted(_telling(tree), key=lambda place: -place.bytes)[:most]
    if below == "." and daemon:
        work = next(layer["path"] for layer in daemon["layers"] if layer["kind"] == "work")
        orphans = count.directory(os.path.join(work, "cowroot/orphans"), "").parts
        found.removed = Place("", sum(each.bytes for each in orphans), len(orphans))
    found.writers = sorted(count.writers.values(), key=lambda writer: -writer.bytes)[:most]
    return found


def _mount_of(path: str, table: str | os.PathLike[str]) -> Mount:
    device = os.stat(path).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    fitting = [each for each in mounts(table) if each.device == name and os.path.commonpath([each.point, path]) == each.point]
    if not fitting or fitting[-1].kind not in (FILE_SYSTEM, "overlay"):
        raise CowrootError(f"{path} is not in a union of cowroot's", hint=f"see findmnt -t {FILE_SYSTEM}")
    return max(fitting, key=lambda each: len(each.point))


def _upper_of(mount: Mount) -> tuple[str, dict[str, Any] | None]:
    """The upper directory, and what the daemon says, if there is one."""
    daemon = None if mount.kind == "overlay" else control.ask(control.socket_for(mount.device))
    record = boot_record(Path("/"), "cowroot usage") if mount.point == "/" else None
    if record:  # the daemon was told of a path in the initramfs
        directory = record.get("upper_directory")
        if directory:
            for layer in daemon["layers"] if daemon else ():
                layer["path"] = f"{directory}/{layer['kind']}"
            return f"{directory}/upper", daemon
    for layer in daemon["layers"] if daemon else ():
        if layer["kind"] == "upper":
            return str(layer["path"]), daemon
    raise CowrootError(f"{mount.point} has no upper that is known here", hint="a read-only union takes no room")


def _writers_of(mount: Mount) -> dict[str, Any]:
    try:
        return control.ask(control.socket_for(mount.device), "writers")
    except MountError:  # a daemon that was there before this program was installed
        return {"fs": 1, "labels": [], "files": []}


class _Count:
    """Adds up files and directories. `writers`: so far, by label."""

    def __init__(self, known: dict[str, Any]) -> None:
        self._fs = int(known["fs"])
        self._by_ino = {
            int(ino, 16): (unit, command) for (unit, command), inos in zip(known["labels"], known["files"]) for ino in inos.split()
        }
        self._linked: set[int] = set()
        self.writers: dict[tuple[str, str], Writer] = {}

    def directory(self, real: str, shown: str) -> _Tree:
        """All that is at `real`, which the union shows as `shown`. What vanishes meanwhile does not count."""
        top = _Tree(shown)
        order, waiting = [top], [(real, top)]
        if not os.path.isdir(real):
            waiting = []
            self._other(real, shown, top)
        while waiting:
            place, tree = waiting.pop()
            try:
                entries = list(os.scandir(place))
                tree.place.bytes += os.lstat(place).st_blocks * 512
            except OSError:
                continue
            for entry in entries:
                name = os.path.join(tree.place.path, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    inner = _Tree(name)
                    tree.below.append(inner)
                    order.append(inner)
                    waiting.append((entry.path, inner))
                else:
                    self._other(entry.path, name, tree)
        for tree in reversed(order):
            for part in (*tree.parts, *(inner.place for inner in tree.below)):
                tree.place.bytes += part.bytes
                tree.place.files += part.files
                tree.place.whiteouts += part.whiteouts
        return top

    def _other(self, real: str, shown: str, tree: _Tree) -> None:
        try:
            st = os.lstat(real)
        except OSError:
            return
        if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
            tree.parts.append(Place(shown, st.st_blocks * 512, 0, 1))
            return
        if st.st_nlink > 1 and st.st_ino in self._linked:
            return
        self._linked.add(st.st_ino)
        part = Place(shown, st.st_blocks * 512, 1)
        tree.parts.append(part)
        label = self._by_ino.get(_shown_ino(real, self._fs << 56 | st.st_ino), UNKNOWN)
        writer = self.writers.setdefault(label, Writer(*label))
        writer.bytes += part.bytes
        writer.files += 1


def _shown_ino(path: str, own: int) -> int:
    for name in INO:
        try:
            return int(os.getxattr(path, name, follow_symlinks=False))
        except (OSError, ValueError):
            continue
    return own


def _telling(tree: _Tree) -> list[Place]:
    """The places that say where the bytes are: not a directory of which nearly all is in one thing that it holds."""
    found = []
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        largest = max((part.bytes for part in (*here.parts, *(inner.place for inner in here.below))), default=0)
        if largest < here.place.bytes * NEARLY_ALL and here is not tree:
            found.append(here.place)
        found += [part for part in here.parts if part.files]
        waiting += here.below
    return found
