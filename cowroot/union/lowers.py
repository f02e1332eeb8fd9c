"""Looking names up in the lower layers, by the kernel's rules (fs/overlayfs/namei.c).

The topmost object wins; directories merge until a whiteout, a non-directory or an opaque directory ends the stack; a redirect says where
the layers below have the directory, or the data of a metadata-only copy.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cowroot.union.index import Index
from cowroot.union.layers import Layer, Layers
from cowroot.union.marks import OCI_OPAQUE, OCI_PREFIX, parse_redirect
from cowroot.union.node import Patch
from cowroot.union.numbers import Numbers
from cowroot.union.whiteouts import is_whiteout


class Found(NamedTuple):
    """An object of a lower layer that a name leads to."""

    layer: Layer
    path: bytes
    st: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.st.st_mode)


class Lowers:
    """The lower layers of a union, as far as names in them go."""

    def __init__(self, layers: Layers, numbers: Numbers) -> None:
        self._layers = layers.lower
        self._marks = layers.marks
        self._numbers = numbers
        # of those that were uppers, from the top
        self.indexes = [(layer.work, Index(layer.work)) for layer in layers.lower if layer.work is not None]

    def below(self, lowers: Iterable[tuple[Layer, bytes]], name: bytes) -> list[Found]:
        """What the lower directories `lowers` have under `name`: nothing, one non-directory, or the directories that merge."""
        found: list[Found] = []
        for layer, directory in lowers:
            if layer.oci and name.startswith(OCI_PREFIX):
                continue
            path = name if directory == b"." else directory + b"/" + name
            last = layer.oci and layer.has(os.path.join(directory, OCI_PREFIX + name))
            try:
                st = layer.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                if last:
                    break
                continue
            if is_whiteout(self._marks, layer, path, st):
                break
            if not stat.S_ISDIR(st.st_mode):
                if not found:
                    found.append(Found(layer, path, st))
                break
            found.append(Found(layer, path, st))
            if last or (layer.oci and layer.has(os.path.join(path, OCI_OPAQUE))):
                break
            if not layer.marked:
                continue
            marks = self._marks.read(layer.fd, path)
            if marks.get(self._marks.opaque) == b"y":
                break
            if self._marks.redirect in marks:
                absolute, parts = parse_redirect(marks[self._marks.redirect])
                if absolute:
                    # only to layers further down, so this ends
                    found += [entry for entry in self._resolve(self._tops(layer.rank + 1), parts) if entry.is_directory]
                    break
                name = parts[0]
        return found

    def _tops(self, first: int) -> list[tuple[Layer, bytes]]:
        """The lower layers from number `first` on, from the top."""
        return [(layer, b".") for layer in self._layers[first:]]

    def _resolve(self, stack: list[tuple[Layer, bytes]], parts: list[bytes]) -> list[Found]:
        """What the lower directories `stack` have under the path `parts`, merged."""
        found: list[Found] = []
        for part in parts:
            found = self.below(stack, part)
            stack = [(entry.layer, entry.path) for entry in found if entry.is_directory]
        return found

    def part(self, lowers: Iterable[tuple[Layer, bytes]], first: int, name: bytes, redirect: bytes | None) -> list[Found]:
        """What an object merges with: in the directories `lowers`, or, by an absolute redirect, in the layers from number `first` on."""
        if redirect is None:
            return self.below(lowers, name)
        absolute, parts = parse_redirect(redirect)
        return self._resolve(self._tops(first), parts) if absolute else self.below(lowers, parts[0])

    def file(self, entry: Found, first: int = 0) -> tuple[Found, tuple[int, int] | None]:
        """A file that has several names: which one it is, and where it is now.

        One that a union copied up whose upper is among the layers, from number `first` on, is in the index of that for all its names, and
        known by what it was copied from. Raises OSError(EIO) if that is something else.
        """
        layer, _, st = entry
        if st.st_nlink == 1 or entry.is_directory:
            return entry, None
        origin = next((index.origin_of(st.st_ino) for work, index in self.indexes if work.rank == layer.rank), None)
        if origin is None:
            origin = self._numbers.fs(layer, st, entry.path), st.st_ino
        for work, index in self.indexes:
            if first <= work.rank < layer.rank and index.inode_of(origin) is not None:
                path = index.home(origin)
                found = Found(work, path, work.stat(path))
                if stat.S_IFMT(found.st.st_mode) != stat.S_IFMT(st.st_mode):
                    raise OSError(errno.EIO, "a hard link and its copy are of different kinds", entry.path)
                return found, origin
        return entry, origin

    def ino(self, found: Sequence[Found], origin: tuple[int, int] | None = None) -> int:
        """The inode number that the union shows for what was found, the directories that merge or one file.

        It is that of the topmost, unless that was an upper: then it is what was shown before. `origin`: where the file was found first.
        """
        for entry in found:
            if entry.layer.number < 0:
                break
            stored = self._marks.read(entry.layer.fd, entry.path).get(self._marks.ino, b"")
            if stored.isdigit() and len(stored) < 20:
                return int(stored)
        return self._numbers.of(entry.layer, entry.st, entry.path) if origin is None else self._numbers.ino(*origin)

    def patch(self, marks: dict[str, bytes], lowers: Iterable[tuple[Layer, bytes]], first: int, name: bytes, st: os.stat_result) -> Patch:
        """Where the data of a file is that was copied up in part, or metadata only: in one after the other of the layers below, as far down
        as that takes (ovl_lookup in fs/overlayfs/namei.c). Those that hold none themselves are left out.

        Arguments: `marks`: the copy's; `lowers`: what its directory merges with, in the layers from number `first` on.
        Raises OSError(EIO) if the data is nowhere.
        """
        stack, parts, limit = list(lowers), [name], st.st_size
        pieces: list[tuple[Found, int]] = []
        while True:
            if self._marks.redirect in marks:
                absolute, new = parse_redirect(marks[self._marks.redirect])
                stack, parts = (self._tops(first), new) if absolute else (stack, [*parts[:-1], new[0]])
            found = self._resolve(stack, parts)
            if not found or not stat.S_ISREG(found[0].st.st_mode) or not stat.S_ISREG(st.st_mode):
                raise OSError(errno.EIO, "a metadata-only copy (metacopy) without a file that has its data", name)
            data = self.file(found[0], first)[0]
            stored = marks.get(self._marks.limit, b"")
            limit = min(limit, int(stored) if stored.isdigit() and len(stored) < 20 else data.st.st_size)
            marks = self._marks.read(data.layer.fd, data.path) if data.layer.marked else {}
            is_whole = self._marks.metacopy not in marks
            if is_whole or has_data(data.layer, data.path):
                pieces.append((data, limit))
                limit = data.st.st_size
            if is_whole:
                patch = None
                for piece, counts in reversed(pieces):
                    patch = Patch((piece.layer, piece.path), counts, patch)
                assert patch is not None
                return patch
            first = data.layer.rank + 1
            stack = [(layer, path) for layer, path in stack if layer.rank >= first]

    def patch_below(self, lowers: Iterable[tuple[Layer, bytes]], name: bytes, top: Found) -> Patch | None:
        """Where `top`, which the directories `lowers` have as `name`, has its data, if that is elsewhere."""
        if not top.layer.marked or not stat.S_ISREG(top.st.st_mode):
            return None
        marks = self._marks.read(top.layer.fd, top.path)
        if self._marks.metacopy not in marks:
            return None
        first = top.layer.rank + 1
        further = [(layer, path) for layer, path in lowers if layer.rank >= first]
        return self.patch(marks, further, first, name, top.st)


def has_data(layer: Layer, path: bytes) -> bool:
    """True if a regular file is more than one hole."""
    fd = layer.open_untouched(path)
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
        return True
    except OSError as e:
        if e.errno != errno.ENXIO:
            raise
        return False
    finally:
        os.close(fd)
