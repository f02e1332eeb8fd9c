"""The kernel's part in finding files: it walks paths from name to name, follows symlinks, and remembers nodes for a while."""

from __future__ import annotations

import collections
import errno
import os
import stat as st
from typing import NamedTuple, Optional

from cowroot.union.node import Node
from cowroot.union.union import Union

MAX_SYMLINKS = 40
REMEMBERED = 64  # nodes that this "kernel" keeps in its cache before it forgets the oldest look-up


def failure(code: int, *where: object) -> OSError:
    return OSError(code, os.strerror(code), *where)


class Place(NamedTuple):
    """Where a path leads: the directories on the way, the last name, and what is there."""

    way: list[Node]  # from the root to the parent
    name: bytes  # b"" for the root itself
    node: Optional[Node]

    @property
    def parent(self) -> Node:
        return self.way[-1]


class Names:
    """Path walking over a union, as fs/namei.c does it."""

    def __init__(self, union: Union) -> None:
        self._union = union
        self._cache: collections.deque[Node] = collections.deque()

    def forget(self) -> None:
        """Let go of every node."""
        while self._cache:
            self._union.forget(self._cache.popleft())

    def _lookup(self, parent: Node, name: bytes) -> Optional[Node]:
        if parent.kind != st.S_IFDIR:
            raise failure(errno.ENOTDIR)
        try:
            return self.remember(self._union.lookup(parent, name))
        except FileNotFoundError:
            return None

    def remember(self, node: Node) -> Node:
        self._union.retain(node)
        self._cache.append(node)
        if len(self._cache) > REMEMBERED:
            self._union.forget(self._cache.popleft())
        return node

    def place(self, path: bytes, follow: bool = False) -> Place:
        """Walk a path; the last component need not exist, what leads to it must."""
        way: list[Node] = [self._union.root]
        parts = collections.deque(path.split(b"/"))
        name, node, links = b"", self._union.root, 0
        while parts:
            part = parts.popleft()
            if part in (b"", b"."):
                continue
            if node is not way[-1]:
                way.append(node)
            if part == b"..":
                node = way[-2] if len(way) > 1 else way[0]
                way = [*way[:-2], node] if len(way) > 1 else way
                continue
            found = self._lookup(way[-1], part)
            last = not any(some not in (b"", b".") for some in parts)
            if found is None:
                if not last:
                    raise failure(errno.ENOENT, path)
                return Place(way, part, None)
            if found.kind == st.S_IFLNK and (follow or not last):
                links += 1
                if links > MAX_SYMLINKS:
                    raise failure(errno.ELOOP, path)
                target = self._union.readlink(found)
                parts.extendleft(reversed(target.split(b"/")))
                if target.startswith(b"/"):
                    way = [self._union.root]
                node = way[-1]
                name = b""
                continue
            name, node = part, found
        return Place(way, name, node)
