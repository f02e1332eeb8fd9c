"""Make an upper stand for itself, so that the kernel's overlayfs can mount it: copy in the data of files that were copied up in part, and
give files of which the lower has several names all of these in the upper.

Where lowers were uppers once, such files of theirs are copied up, whole and by all their names: a lower is not to be written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from cowroot.union import Entry, LayerSpec, Node, Union, patchwork
from cowroot.union.copyup import copy_up, link_name
from cowroot.union.files import backing
from cowroot.union.remove import has_upper_name


def complete(layers: LayerSpec) -> Iterator[tuple[bytes, int]]:
    """Complete every file of the upper; yields path and size of each as it is done: the size is the file's, in bytes, or 0 for a mere name.

    A file is completed wholly or stays as it was, so this can be interrupted and done again. Raises LayerError if the union is mounted,
    OSError for a full upper.
    """
    union = Union.open(layers)
    try:
        tree = union.tree
        indexes = [tree.index, *(index for _, index in tree.lowers.indexes)]
        linked = {origin for index in indexes for origin in index.origins()}
        for parent, path, entry in _files(union, bool(linked) or any(layer.number >= 0 for layer in union.layers.lower)):
            node = union.lookup(parent, entry.name)
            if node.patch is not None and (node.upper or node.lowers[0][0].number >= 0):
                _complete_data(union, node)
                yield os.path.join(path, entry.name), union.getattr(node).size
            if node.origin in linked and not has_upper_name(tree, node, tree.child_path(parent, entry.name)):
                copy_up(tree, parent)
                copy_up(tree, node)
                if node.patch is not None:
                    _complete_data(union, node)
                link_name(tree, node, parent, entry.name)
                yield os.path.join(path, entry.name), 0
            tree.evict(node)
    finally:
        union.close()


def _files(union: Union, lower_too: bool) -> Iterator[tuple[Node, bytes, Entry]]:
    """All files: directory, its path, entry. Not by recursion, for directories nest deeper than Python's stack.

    Arguments: `lower_too`: also those in directories that only the lower has.
    """
    union.retain(union.root)
    waiting = [(union.root, b"")]
    while waiting:
        directory, path = waiting.pop()
        handle = union.opendir(directory)
        for entry in union.readdir(handle)[2:]:
            if entry.mode != stat.S_IFDIR:
                yield directory, path, entry
                continue
            inner = union.lookup(directory, entry.name)
            if inner.upper or lower_too:
                union.retain(inner)
                waiting.append((inner, os.path.join(path, entry.name)))
        union.releasedir(handle)
        union.forget(directory)


def _complete_data(union: Union, node: Node) -> None:
    handle = union.open_file(node, os.O_RDWR)
    try:
        fd = backing(union.tree, node, True)
        if node.patch is not None:
            patchwork.complete(union.tree, node, fd)
    finally:
        union.release(handle)
