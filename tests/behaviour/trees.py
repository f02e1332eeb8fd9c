"""Layers described in Python, built on disk, and merged into the plain copy that a union must equal.

A tree is a mapping from path to one of the descriptions below; directories that lead to a path are made as needed. The merge here
shares no code with the union: it is a second reading of the kernel's overlayfs format, and the oracle rests on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat as st
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from tests.behaviour import calls

OLD_NS = 1_000_000_000_123_456_789  # 2001: what no call of a test can yield by itself

_UNIT = bytes((i * 101 + 37) % 251 for i in range(251))


def pattern(tag: int, length: int) -> bytes:
    """`length` bytes that differ by `tag`, and nowhere repeat within a page."""
    start = tag * 17 % 251
    return (_UNIT * (length // 251 + 2))[start : start + length]


@dataclass(frozen=True)
class _Node:
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = OLD_NS
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class File(_Node):
    """`data`, or `extents` of (offset, pattern tag, length) in an otherwise hollow file of `size` bytes."""

    data: bytes = b""
    extents: Sequence[tuple[int, int, int]] = ()
    size: int = 0


@dataclass(frozen=True)
class Dir(_Node):
    mode: int = 0o755
    opaque: bool = False


@dataclass(frozen=True)
class Symlink(_Node):
    mode: int = 0o777
    target: bytes = b"nowhere"


@dataclass(frozen=True)
class Special(_Node):
    """A FIFO, socket or device: `kind` is an S_IF* constant."""

    kind: int = st.S_IFIFO
    rdev: int = 0


@dataclass(frozen=True)
class Whiteout:
    """Hides the name in the layers below."""


@dataclass(frozen=True)
class Hardlink:
    """Another name for `to`, which is a path in the same layer that sorts before this one or was named before."""

    to: bytes


Spec = Union[File, Dir, Symlink, Special, Whiteout, Hardlink]
Tree = Mapping[bytes, Spec]


def build(root: bytes, tree: Tree) -> None:
    """Make the tree below an existing directory `root`."""
    for path, spec in tree.items():
        where = os.path.join(root, path)
        os.makedirs(os.path.dirname(where), exist_ok=True)
        _make(root, where, spec)
    for directory, _, _ in os.walk(root, topdown=False):  # making children has moved these times
        spec_here = tree.get(os.path.relpath(directory, root))
        stamp = spec_here.mtime_ns if isinstance(spec_here, Dir) else OLD_NS
        os.utime(directory, ns=(stamp, stamp))


def _make(root: bytes, where: bytes, spec: Spec) -> None:
    if isinstance(spec, Hardlink):
        os.link(os.path.join(root, spec.to), where, follow_symlinks=False)
        return
    if isinstance(spec, Whiteout):
        os.mknod(where, st.S_IFCHR, 0)
        return
    if isinstance(spec, File):
        with open(where, "wb") as file:
            file.write(spec.data)
            for offset, tag, length in spec.extents:
                file.seek(offset)
                file.write(pattern(tag, length))
            file.truncate(max(spec.size, file.seek(0, os.SEEK_END)))
    elif isinstance(spec, Dir):
        os.makedirs(where, exist_ok=True)
        if spec.opaque:
            os.setxattr(where, b"trusted.overlay.opaque", b"y")
    elif isinstance(spec, Symlink):
        os.symlink(spec.target, where)
    else:
        os.mknod(where, spec.kind | 0o600, spec.rdev)
    os.chown(where, spec.uid, spec.gid, follow_symlinks=False)
    if not isinstance(spec, Symlink):
        os.chmod(where, spec.mode)
    for name, value in spec.xattrs.items():
        os.setxattr(where, name, value, follow_symlinks=False)
    os.utime(where, ns=(spec.mtime_ns, spec.mtime_ns), follow_symlinks=False)


def merge(layers: Sequence[bytes], target: bytes) -> None:
    """Copy what a union of the directories `layers` (topmost first) shows into the empty directory `target`."""
    _Merge().directory(list(layers), target)


class _Merge:
    def __init__(self) -> None:
        self._links: dict[tuple[int, int], bytes] = {}

    def directory(self, stack: list[bytes], target: bytes) -> None:
        for name in sorted({name for layer in stack for name in os.listdir(layer)}):
            found = visible(stack, name)
            if found and os.path.isdir(found[0]) and not os.path.islink(found[0]):
                os.mkdir(os.path.join(target, name))
                self.directory(found, os.path.join(target, name))
            elif found:
                self._file(found[0], os.path.join(target, name))
        copy_attributes(stack[0], target)

    def _file(self, source: bytes, target: bytes) -> None:
        found = os.lstat(source)
        if found.st_nlink > 1:
            first = self._links.setdefault((found.st_dev, found.st_ino), target)
            if first != target:
                os.link(first, target, follow_symlinks=False)
                return
        if st.S_ISREG(found.st_mode):
            _copy_data(source, target)
        elif st.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(source), target)
        else:
            os.mknod(target, found.st_mode, found.st_rdev)
        copy_attributes(source, target)


def visible(stack: Sequence[bytes], name: bytes) -> list[bytes]:
    """What the union of the directories `stack` shows under `name`: nothing, one file, or the directories to merge."""
    found: list[bytes] = []
    for layer in stack:
        where = os.path.join(layer, name)
        try:
            here = os.lstat(where)
        except FileNotFoundError:
            continue
        if _is_whiteout(here):
            break
        if not st.S_ISDIR(here.st_mode):
            return found or [where]
        found.append(where)
        if "trusted.overlay.opaque" in xattrs(where):
            break
    return found


def xattrs(path: bytes) -> list[str]:
    """Names of the attributes of a file; none where its file system has no attributes, as squashfs in some kernels."""
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


def _copy_data(source: bytes, target: bytes) -> None:
    """Copy content, leaving holes where the source has holes."""
    with open(source, "rb") as reader, open(target, "wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(reader.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(reader.fileno(), at, os.SEEK_HOLE)
            os.pwrite(writer.fileno(), os.pread(reader.fileno(), end - at, at), at)
            at = end
        os.truncate(writer.fileno(), size)


def copy_attributes(source: bytes, target: bytes) -> None:
    """Owner, mode, attributes other than overlayfs's own, and times."""
    found = os.lstat(source)
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    if not st.S_ISLNK(found.st_mode):
        os.chmod(target, st.S_IMODE(found.st_mode))
    for name in xattrs(source):
        if not name.startswith(("trusted.overlay.", "trusted.cowroot.")):
            os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    times = (found.st_atime_ns, found.st_mtime_ns)
    calls.utimensat(target, *times, follow=False)


def copy_up_some(mounted: bytes) -> None:
    """Change every third file of a union that will be a layer."""
    for directory, _, files in os.walk(mounted):
        for name in sorted(files)[::3]:
            with contextlib.suppress(FileNotFoundError):  # a whiteout: readdir of overlayfs may show it, nothing else does
                os.chown(os.path.join(directory, name), 4, -1, follow_symlinks=False)


def to_oci(layer: bytes) -> None:
    """Rewrite a layer's whiteouts and opaque directories as OCI images and AUFS have them, and add a directory of the format's own."""
    for directory, names in _whiteouts(layer):
        for name in names:
            if len(name) <= 255 - len(b".wh."):  # else the format has no way to say it; devices go on working
                os.unlink(os.path.join(directory, name))
                _touch(os.path.join(directory, b".wh." + name))
        if "trusted.overlay.opaque" in xattrs(directory):
            os.removexattr(directory, "trusted.overlay.opaque")
            _touch(os.path.join(directory, b".wh..wh..opq"))
    os.mkdir(os.path.join(layer, b".wh..wh.plnk"))


def to_marked_files(layer: bytes) -> None:
    """Rewrite a layer's whiteouts as empty files with an attribute (Linux 6.7). An opaque directory cannot have such."""
    for directory, names in _whiteouts(layer):
        if names and "trusted.overlay.opaque" not in xattrs(directory):
            os.setxattr(directory, b"trusted.overlay.opaque", b"x")
            for name in names:
                os.unlink(os.path.join(directory, name))
                _touch(os.path.join(directory, name))
                os.setxattr(os.path.join(directory, name), b"trusted.overlay.whiteout", b"y")


def _whiteouts(layer: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each directory and the whiteouts in it. Its times are put back when it is done with."""
    for directory, _, files in os.walk(layer, topdown=False):
        times = os.stat(directory)
        yield directory, [name for name in files if _is_whiteout(os.lstat(os.path.join(directory, name)))]
        os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))


def _is_whiteout(found: os.stat_result) -> bool:
    return st.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _touch(path: bytes) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def trim_hidden_links(layers: Sequence[bytes]) -> None:
    """Remove the names of a hard-linked file that the layers above hide.

    No union can know how many names of a lower file others hide without reading the whole tree: it reports the lower's own count.
    A layer whose links are all visible has the same count in the union and in the copy.
    """
    seen: set[bytes] = set()
    _collect(list(layers), seen)
    for layer in layers:
        for directory, _, files in os.walk(layer):
            for name in files:
                where = os.path.join(directory, name)
                found = os.lstat(where)
                if found.st_nlink > 1 and where not in seen:
                    times = os.lstat(directory)
                    os.unlink(where)
                    os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))


def _collect(stack: list[bytes], seen: set[bytes]) -> None:
    for name in sorted({name for layer in stack for name in os.listdir(layer)}):
        found = visible(stack, name)
        if found and os.path.isdir(found[0]) and not os.path.islink(found[0]):
            _collect(found, seen)
        else:
            seen.update(found)


def remove(root: bytes) -> None:
    """Delete a tree, whatever its modes."""
    shutil.rmtree(root, ignore_errors=False)
