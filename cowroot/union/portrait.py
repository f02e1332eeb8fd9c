"""Nodes without a name, described so that another process can go on with them: no look-up would find them again."""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Union

from cowroot.union.node import UNKNOWN, Attr, Node, Patch

if TYPE_CHECKING:
    from cowroot.union.layers import Layers
    from cowroot.union.tree import Tree

_VERSION = 2  # of marshal's format: later ones look for what comes twice, which nothing does here


def describe(layers: Layers, node: Node, last: Attr | None, home: bytes | None) -> bytes:
    """What there is to know of a node.

    Arguments: `last`: what it answers with if nothing is behind it any more; `home`: where in the work directory it is, or is about to be.
    """
    sources = layers.sources
    lowers = [(sources.index(layer), path) for layer, path in node.lowers[:1]]
    patch: list[Union[int, bytes]] = []  # three values for each file that has some of the data
    for each in node.patch.all() if node.patch is not None else ():
        layer, path = each.place
        patch += sources.index(layer), path, each.limit
    behind = lowers, node.redirect, node.origin, node.links, node.ctime_ns
    return marshal.dumps((node.kind, node.ino, node.upper, home, *behind, last and tuple(last), tuple(patch) or None), _VERSION)


def revive(tree: Tree, description: bytes) -> Node:
    """Make the node again that was described. It has neither name, number, look-ups nor handles yet."""
    kind, ino, upper, home, lowers, redirect, origin, links, ctime_ns, last, patch = marshal.loads(description)
    sources = tree.layers.sources
    node = Node(kind, ino, None, b"", upper, tuple((sources[index], path) for index, path in lowers))
    node.redirect, node.origin, node.links, node.ctime_ns = redirect, origin, links, ctime_ns
    for start in reversed(range(0, len(patch or ()), 3)):
        index, path, limit = patch[start : start + 3]
        node.patch = Patch((sources[index], path), limit, node.patch)
    if upper:
        node.home = _find(tree, home, origin)
        if node.home is None:
            # it went when the file was closed, and this is what nobody can be told any more
            node.last = Attr(*(last or (ino, kind, *UNKNOWN)))
        else:
            tree.register_upper(node, tree.work.stat(node.home).st_ino)
    if origin is not None:
        tree.lower_inodes[origin] = node
    tree.count += 1
    return node


def home_of(description: bytes) -> bytes | None:
    """Where in the work directory the node that was described has its object."""
    home: bytes | None = marshal.loads(description)[3]
    return home


def last_of(description: bytes) -> Attr:
    """The attributes that the node that was described answers with when nothing is behind it any more."""
    return Attr(*marshal.loads(description)[9])


def _find(tree: Tree, home: bytes | None, origin: tuple[int, int] | None) -> bytes | None:
    """Where the object is: where it was to be brought, or still in the index."""
    for place in (home, tree.index.home(origin) if origin is not None else None):
        if place is not None:
            try:
                tree.work.stat(place)
            except FileNotFoundError:
                continue
            return place
    return None
