"""Check an upper that is not mounted: find every inconsistency, explain it, repair what can be repaired without a guess.

What can be told from the upper alone is checked always. With the work directory, the index of hard links and what a crash left there
are checked too; with the lower layers, also whether marks that lead to them still do.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable, Optional

from cowroot.errors import LayerError
from cowroot.union.directories import lock, remove
from cowroot.union.layers import WORK_DIRECTORIES, Layer, Layers, LayerSpec, Where
from cowroot.union.marks import Marks, parse_redirect
from cowroot.union.numbers import stored_number
from cowroot.union.syscalls import through
from cowroot.union.tree import Tree

PROBE = b".cowroot-probe"
LINKS = 1 << 20  # more names than any file system lets a file have


@dataclass
class Problem:
    """One inconsistency: where, what it is and what follows from it, and, if it can be repaired, how that is called and done."""

    path: str
    what: str
    repair_text: str = ""
    repair: Optional[Callable[[], None]] = None
    repaired: bool = False


def check(
    upper: Where, work: Where | None = None, lower: tuple[Where, ...] = (), userxattr: bool = False, seconds: float | None = None
) -> Iterator[Problem]:
    """Yield the problems of an upper. Raises LayerError if a directory cannot be opened or the upper is mounted.

    Arguments: `seconds`: after which to stop; the last problem is then what was not looked at.
    """
    return _Check(upper, work, lower, userxattr, seconds).run()


class _Check:
    def __init__(self, upper: Where, work: Where | None, lower: tuple[Where, ...], userxattr: bool, seconds: float | None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._stopped = False
        self.marks = Marks(userxattr)
        self.upper = Layer(upper, "upper directory")
        self.work = self._open_work(work) if work is not None else None
        # a union of the lowers alone answers what a redirect leads to
        self.lower = Tree(Layers(LayerSpec(list(lower), userxattr=userxattr))) if lower else None
        self.inos: dict[bytes, tuple[int, bytes]] = {}  # shown inode number -> (upper inode, path)
        self.redirects: dict[bytes, bytes] = {}
        self.names: dict[int, int] = {}  # upper inode -> how many names were seen

    def _open_work(self, work: Where) -> Layer | None:
        outer = Layer(work, "work directory")
        try:
            own = os.open(b"cowroot", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=outer.fd)
        except OSError:
            return None  # never used by cowroot: nothing to check
        finally:
            outer.close()
        layer = Layer(own, "work directory")
        os.close(own)
        if not lock(layer.fd):
            raise LayerError("the upper is mounted", hint="unmount it first: a file system in use cannot be checked")
        return layer

    def run(self) -> Iterator[Problem]:
        try:
            yield from self._directories()
            if self.work is not None and not self._stopped:  # what names there are is not known else
                yield from self._work_directory(self.work)
        finally:
            self.upper.close()
            if self.work is not None:
                self.work.close()
            if self.lower is not None:
                self.lower.layers.close()

    # -- the upper

    def _directories(self) -> Iterator[Problem]:
        """All of the upper, from the top. Not by recursion: directories nest deeper than Python's stack."""
        waiting = [b"."]
        while waiting:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._stopped = True
                yield self._problem(waiting[-1], "and what comes after it was not looked at: the time was up")
                return
            yield from self._directory(waiting.pop(), waiting)

    def _directory(self, path: bytes, waiting: list[bytes]) -> Iterator[Problem]:
        """What is in the directory `path`; its directories are added to `waiting`."""
        marks = self.marks.read(self.upper.fd, path)
        with os.scandir(through(self.upper.fd, path)) as entries:
            names = sorted(entry.name for entry in entries)
        came_from_below = False
        inner = []
        for name in names:
            child = name if path == b"." else path + b"/" + name
            st = self.upper.stat(child)
            child_marks = self.marks.read(self.upper.fd, child)
            came_from_below |= self.marks.ino in child_marks
            yield from self._object(child, st, child_marks)
            if stat.S_ISDIR(st.st_mode) and child != PROBE:
                inner.append(child)
        waiting += reversed(inner)
        if came_from_below and self.marks.impure not in marks and path != b".":
            yield self._problem(
                path,
                "holds files that came from below, but is not marked impure: readdir would show other inode numbers than stat",
                "marked impure",
                lambda: self.marks.set(self.upper.fd, path, self.marks.impure, b"y"),
            )

    def _object(self, path: bytes, st: os.stat_result, marks: dict[str, bytes]) -> Iterator[Problem]:
        if path == PROBE:
            yield self._problem(path, "is left from a mount that was interrupted", "removed", lambda: remove(self.upper.fd, path))
            return
        if not stat.S_ISDIR(st.st_mode):
            self.names[st.st_ino] = self.names.get(st.st_ino, 0) + 1
            if self.names[st.st_ino] > 1:
                return  # said under its first name
        for name, value in marks.items():
            fault = self._fault(name, value, st)
            if fault:
                yield self._problem(path, f"{name}={_shown(value)}: {fault}", f"removed {name}", self._remover(path, name))
        yield from self._number(path, st, marks)
        yield from self._redirect(path, st, marks)
        if self.marks.metacopy in marks and stat.S_ISREG(st.st_mode):
            yield from self._data(path, marks)

    def _fault(self, name: str, value: bytes, st: os.stat_result) -> str:
        marks = self.marks
        directory, regular = stat.S_ISDIR(st.st_mode), stat.S_ISREG(st.st_mode)
        if name == marks.opaque and not directory:
            return "only a directory can be opaque"
        if name == marks.opaque and value not in (b"y", b"x"):
            return "an opaque directory is marked y"
        if name == marks.impure and not directory:
            return "only a directory can be impure"
        if name == marks.metacopy and not regular:
            return "only a regular file can be a metadata-only copy"
        if name == marks.device and not (stat.S_ISCHR(st.st_mode) and st.st_rdev == 0):
            return "only a character device 0:0 can be told from a whiteout"
        if name in (marks.ino, marks.limit) and not (value.isdigit() and len(value) < 20):
            return "not a number; it is ignored"
        if name in (marks.fs, marks.work):
            return "only the root of an upper has it"
        if name == marks.limit and not regular:
            return "only a regular file has a limit"
        return ""

    def _number(self, path: bytes, st: os.stat_result, marks: dict[str, bytes]) -> Iterator[Problem]:
        number = marks.get(self.marks.ino, b"")
        if not number.isdigit():
            return
        inode, other = self.inos.setdefault(number, (st.st_ino, path))
        if inode != st.st_ino:
            what = f"shows the inode number {number.decode()}, as {_shown(other)} does: programs would take them for one file"
            yield self._problem(path, what, f"removed {self.marks.ino}", self._remover(path, self.marks.ino))

    def _redirect(self, path: bytes, st: os.stat_result, marks: dict[str, bytes]) -> Iterator[Problem]:
        value = marks.get(self.marks.redirect)
        if value is None:
            return
        if not stat.S_ISDIR(st.st_mode) and not (stat.S_ISREG(st.st_mode) and self.marks.metacopy in marks):
            what = "has a redirect, but is neither a directory nor a metadata-only copy"
            yield self._problem(path, what, f"removed {self.marks.redirect}", self._remover(path, self.marks.redirect))
            return
        try:
            absolute, parts = parse_redirect(value)
        except OSError as e:
            yield self._problem(path, f"{e.strerror}: it cannot be looked up")
            return
        if stat.S_ISDIR(st.st_mode) and absolute:
            other = self.redirects.setdefault(value, path)
            if other != path:
                yield self._problem(path, f"and {_shown(other)} both redirect to {_shown(value)}: two directories cannot show one")
        if absolute and self.lower is not None and stat.S_ISDIR(st.st_mode) and not self._below(parts, stat.S_IFDIR):
            yield self._problem(path, f"redirects to {_shown(value)}, which is no directory in the lower: what it held is not there")

    def _data(self, path: bytes, marks: dict[str, bytes]) -> Iterator[Problem]:
        if self.lower is None:
            return
        redirect = marks.get(self.marks.redirect)
        try:
            absolute, parts = parse_redirect(redirect) if redirect is not None else (True, path.split(b"/"))
        except OSError:
            return  # said above
        if absolute and not self._below(parts, stat.S_IFREG):
            yield self._problem(
                path, f"has its data in {_shown(b'/' + b'/'.join(parts))} of the lower, where there is no file: it cannot be read"
            )

    def _below(self, parts: list[bytes], kind: int) -> bool:
        assert self.lower is not None
        node = self.lower.root
        try:
            for part in parts:
                node = self.lower.lookup(node, part)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.EIO):  # the last: the lower is damaged, too
                return False
            raise
        return node.kind == kind

    # -- the work directory

    def _work_directory(self, work: Layer) -> Iterator[Problem]:
        for directory in WORK_DIRECTORIES:
            try:
                names = sorted(os.listdir(through(work.fd, directory)))
            except OSError as e:
                yield Problem(_shown(b"work/" + directory), f"cannot be read: {e.strerror}; the next mount makes it anew")
                continue
            for name in names:
                yield from self._work_entry(work, directory, directory + b"/" + name)

    def _work_entry(self, work: Layer, directory: bytes, path: bytes) -> Iterator[Problem]:
        st = work.stat(path)
        if directory in (b"tmp", b"orphans"):
            what = "is left from a crash; it was never part of the union, and the next mount removes it"
            yield Problem(_shown(b"work/" + path), what, "removed", lambda: remove(work.fd, path))
            return
        key = path.partition(b"/")[2]
        if directory == b"numbers":
            if stored_number(work, key) is None:
                what = "is not the number of a file system inside a layer; it is ignored"
                yield Problem(_shown(b"work/" + path), what, "removed", lambda: remove(work.fd, path))
            return
        count = self._link_count(work, key)
        if directory == b"links":
            if count is None:
                yield Problem(
                    _shown(b"work/" + path),
                    "is not a link count",
                    "removed",
                    lambda: remove(work.fd, path),
                )
            return
        known = self.names.get(st.st_ino, 0)
        if known != st.st_nlink - 1:
            yield Problem(_shown(b"work/" + path), f"has {st.st_nlink - 1} names besides the index, but {known} of them are in the upper")
        if count is None:
            yield Problem(_shown(b"work/" + path), "is in the index of hard links without a link count: stat would show a wrong one")
        elif count < known:
            yield Problem(_shown(b"work/" + path), f"has {known} names in the upper alone, more than its link count of {count}")

    def _link_count(self, work: Layer, key: bytes) -> int | None:
        try:
            count, changed = os.readlink(b"links/" + key, dir_fd=work.fd).split()
            return int(count) if 0 <= int(count) < LINKS and int(changed) >= 0 else None
        except (OSError, ValueError):
            return None

    # -- saying it

    def _problem(self, path: bytes, what: str, repair_text: str = "", repair: Callable[[], None] | None = None) -> Problem:
        return Problem(_shown(path), what, repair_text, repair)

    def _remover(self, path: bytes, name: str) -> Callable[[], None]:
        return lambda: os.removexattr(through(self.upper.fd, path), name, follow_symlinks=False)


def _shown(path: bytes) -> str:
    """A path or value for people: any byte in it, but not endless."""
    text = path.decode("utf-8", "backslashreplace")
    text = "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)
    return text if len(text) <= 200 else text[:200] + "…"
