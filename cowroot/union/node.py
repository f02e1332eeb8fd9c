"""What the union hands out: nodes, handles, attributes, directory entries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cowroot.union.layers import Layer


class Caller(NamedTuple):
    """Who asks: what is created belongs to `uid` and `gid`, its mode is limited by `umask` (unless a default ACL says otherwise)."""

    uid: int
    gid: int
    umask: int = 0


class Attr(NamedTuple):
    """What stat(2) tells of a node; times in nanoseconds, `blocks` in 512 bytes, `mode` with its type bits."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    blksize: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


UNKNOWN = (0,) * 10  # in place of all but number and kind


class Entry(NamedTuple):
    """A directory entry; `mode` holds only the type bits."""

    name: bytes
    ino: int
    mode: int


class Node:
    """One file, from the first look-up for as long as the kernel or a descriptor knows it.

    What is *behind* it may change (copy-up, rename of an ancestor, unlink while open); the node does not.

    - `parent`, `name`: its name in the union; `parent` is None for the root and for a node that has lost its (last known) name.
      `others` holds further names, of hard links.
    - `upper`: it has an object in the upper. That lies under the same path as the node, or, if `home` is set, at that path in
      the work directory: the index of hard links, or the place of files without a name.
    - `lowers`: where it is in the lower layers, topmost first. Lowers do not change, so these paths are for good.
    - `links`: its link count, where no backing file knows it.
    """

    __slots__ = (
        "children", "ctime_ns", "fd", "fd_writable", "home", "impure", "ino", "kind", "last", "links", "lowers",
        "name", "nodeid", "opens", "origin", "others", "parent", "patch", "redirect", "refs", "upper", "upper_ino",
    )  # fmt: skip

    def __init__(self, kind: int, ino: int, parent: Node | None, name: bytes, upper: bool, lowers: tuple[tuple[Layer, bytes], ...]) -> None:
        self.kind = kind  # S_IFMT bits
        self.ino = ino
        self.parent = parent
        self.name = name
        self.others: set[tuple[Node, bytes]] | None = None
        self.children: dict[bytes, Node] | None = {} if kind == 0o040000 else None
        self.upper = upper
        self.lowers = lowers
        self.home: bytes | None = None
        self.impure = False  # a directory whose upper has entries that came from below
        self.origin: tuple[int, int] | None = None  # (file system, inode) of a lower file with several names
        self.upper_ino: int | None = None  # the key under which Tree.upper_inodes has it
        self.links: int | None = None
        self.ctime_ns = 0  # when it last lost or got a name, where no backing file knows it
        self.last: Attr | None = None  # a node that is gone from every layer answers with this
        self.nodeid = 0  # what an engine calls it, if it gives numbers
        self.refs = 0  # look-ups that the kernel has not forgotten
        self.opens = 0  # handles
        self.fd = -1  # backing file, shared by all handles
        self.fd_writable = False
        self.redirect: bytes | None = None  # its path in the lower layers, where that is not its parent's path there and its name
        self.patch: Patch | None = None  # data that is not in the object itself

    def __repr__(self) -> str:
        where = "upper" if self.upper else "lower"
        return f"<Node {self.ino} {self.name!r} {self.kind:o} {where}>"


class Patch:
    """Where a file that was copied up in part has the rest of its data: see patchwork.py.

    `limit`: how many bytes of it count; `further`: where that file, in a lower that was an upper, has its own rest; `filling`: the rest is
    being copied, and nobody may change the file's data.
    """

    __slots__ = ("fd", "filling", "further", "limit", "place")

    def __init__(self, place: tuple[Layer, bytes], limit: int, further: Patch | None = None) -> None:
        self.place = place
        self.limit = limit
        self.further = further
        self.fd = -1
        self.filling = False

    def all(self) -> Iterator[Patch]:
        """It and all further ones, from the top."""
        patch: Patch | None = self
        while patch is not None:
            yield patch
            patch = patch.further

    def anew(self) -> Patch:
        """The same, of which nothing is open."""
        return Patch(self.place, self.limit, self.further and self.further.anew())

    def close(self) -> None:
        """Close the lower's data, until it is needed again."""
        for patch in self.all():
            if patch.fd >= 0:
                os.close(patch.fd)
                patch.fd = -1


class Handle:
    """An open file. It has no descriptor of its own: data is reached through the node, whatever is behind that by then."""

    __slots__ = ("flags", "node")

    def __init__(self, node: Node, flags: int) -> None:
        self.node = node
        self.flags = flags


class DirHandle:
    """An open directory."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node
