"""A whole tree as data, and what differs between two of them."""

from __future__ import annotations

import hashlib
import os
import stat as st
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.behaviour.filesystem import FileSystem, Stat, Target, entries, read_all


class Item(NamedTuple):
    stat: Stat
    content: str  # a digest, a symlink's value, or the names in a directory
    xattrs: tuple[tuple[bytes, bytes], ...]
    link_group: tuple[bytes, ...]  # every name of the file, in order
    faults: tuple[str, ...]  # what is wrong by itself, whatever the other tree says


Snapshot = Mapping[bytes, Item]


def take(fs: FileSystem) -> dict[bytes, Item]:
    """Read everything below the root. Keys are paths, b"" is the root."""
    stats = dict(_walk(fs, b""))
    groups: dict[tuple[int, int], list[bytes]] = {}
    for path, (found, _) in sorted(stats.items()):
        groups.setdefault((found.dev, found.ino), []).append(path)
    return {
        path: Item(
            found,
            _content(fs, path, found),
            tuple(sorted((name, fs.getxattr(path, name, follow=False)) for name in xattr_names(fs, path, follow=False))),
            tuple(groups[found.dev, found.ino]),
            faults,
        )
        for path, (found, faults) in stats.items()
    }


def xattr_names(fs: FileSystem, target: Target, follow: bool) -> list[bytes]:
    """The names of the attributes, without those under which xfs lists an ACL a second time."""
    return sorted(name for name in fs.listxattr(target, follow) if not name.startswith(b"trusted.SGI_ACL_"))


def _walk(fs: FileSystem, path: bytes) -> Iterator[tuple[bytes, tuple[Stat, tuple[str, ...]]]]:
    here = fs.stat(path, follow=False)
    faults: list[str] = []
    if here.kind == st.S_IFDIR:
        listed = entries(fs, path)
        names = [entry.name for entry in listed]
        if len(set(names)) != len(names):
            faults.append(f"readdir repeats names: {sorted(names)}")
        if b"." not in names or b".." not in names:
            faults.append("readdir lacks . or ..")
        for entry in sorted(listed):
            if entry.name == b".":
                child = here
            elif entry.name == b"..":
                if not path:
                    continue
                child = fs.stat(os.path.dirname(path), follow=False)
            else:
                where = path + b"/" + entry.name if path else entry.name
                child = fs.stat(where, follow=False)
                yield from _walk(fs, where)
            if entry.ino != child.ino:
                faults.append(f"d_ino of {entry.name!r} is {entry.ino}, its st_ino {child.ino}")
            if entry.kind << 12 != child.kind:
                faults.append(f"d_type of {entry.name!r} is {entry.kind}, its mode {child.mode:o}")
            if child.dev != here.dev:
                faults.append(f"st_dev of {entry.name!r} differs from the directory's")
    yield path, (here, tuple(faults))


def _content(fs: FileSystem, path: bytes, found: Stat) -> str:
    if found.kind == st.S_IFREG:
        return hashlib.sha256(read_all(fs, path)).hexdigest()[:16]
    if found.kind == st.S_IFLNK:
        return repr(fs.readlink(path))
    return ""


def differences(plain: Snapshot, union: Snapshot, since_ns: int) -> list[str]:
    """What tells the union from the copy; empty when nothing does. `since_ns`: when the calls began (see `stat_differences`)."""
    found = [f"{path!r}: only in the copy" for path in sorted(plain.keys() - union.keys())]
    found += [f"{path!r}: only in the union" for path in sorted(union.keys() - plain.keys())]
    for path in sorted(plain.keys() & union.keys()):
        here, there = plain[path], union[path]
        problems = stat_differences(here.stat, there.stat, since_ns) + list(there.faults)
        for field in ("content", "xattrs", "link_group"):
            if getattr(here, field) != getattr(there, field):
                problems.append(f"{field}: copy {getattr(here, field)!r}, union {getattr(there, field)!r}")
        found += [f"{path!r}: {problem}" for problem in problems]
    return found


def stat_differences(plain: Stat, union: Stat, since_ns: int) -> list[str]:
    """What differs between two results of stat() that should be alike.

    Times: one from before `since_ns` was set by somebody and must be the same to the nanosecond; a later one comes from the clock, and the
    union's, where each call is made after the copy's, must not lag behind. A directory's link count may be 1 (which tools read as
    "unknown", and btrfs says of all), else it must be right.
    """
    found = []
    for field in ("mode", "uid", "gid"):
        here, there = getattr(plain, field), getattr(union, field)
        if here != there:
            found.append(f"{field}: copy {here:o}, union {there:o}" if field == "mode" else f"{field}: copy {here}, union {there}")
    if plain.kind == st.S_IFDIR:
        if union.nlink not in (1, plain.nlink) and plain.nlink != 1:
            found.append(f"nlink: copy {plain.nlink}, union {union.nlink}")
    else:
        for field in ("nlink", "size", "rdev"):
            here, there = getattr(plain, field), getattr(union, field)
            if here != there:
                found.append(f"{field}: copy {here}, union {there}")
    clock_times = since_ns <= plain.mtime_ns <= since_ns + 10**12
    if clock_times and union.mtime_ns < plain.mtime_ns:
        found.append(f"mtime: copy {plain.mtime_ns}, union lags with {union.mtime_ns}")
    if not clock_times and union.mtime_ns != plain.mtime_ns:
        found.append(f"mtime: copy {plain.mtime_ns}, union {union.mtime_ns}")
    if plain.ctime_ns > since_ns and union.ctime_ns < plain.ctime_ns:
        found.append(f"ctime: copy {plain.ctime_ns}, union lags with {union.ctime_ns}")
    return found
