"""Copy in the data of files that were copied up in part, so that an upper stands for itself and the kernel's overlayfs can mount it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from cowroot.union import LayerSpec, Node, Union, patchwork
from cowroot.union.files import backing


def complete(layers: LayerSpec) -> Iterator[tuple[bytes, int]]:
    """Complete every file of the upper; yields the path and size, in bytes, of each as it is done.

    A file is completed wholly or stays as it was, so this can be interrupted and done again. Raises LayerError if the union is mounted,
    OSError for a full upper.
    """
    union = Union.open(layers)
    try:
        yield from _complete_below(union, union.root, b"")
    finally:
        union.close()


def _complete_below(union: Union, directory: Node, path: bytes) -> Iterator[tuple[bytes, int]]:
    if not directory.upper:
        return
    for entry in union.readdir(union.opendir(directory)):
        if entry.name in (b".", b".."):
            continue
        child_path = os.path.join(path, entry.name)
        if entry.mode == stat.S_IFDIR:
            yield from _complete_below(union, union.lookup(directory, entry.name), child_path)
        elif entry.mode == stat.S_IFREG:
            node = union.lookup(directory, entry.name)
            if node.upper and node.patch is not None:
                handle = union.open_file(node, os.O_RDWR)
                try:
                    patchwork.complete(union.tree, node, backing(union.tree, node, True))
                finally:
                    union.release(handle)
                yield child_path, union.getattr(node).size
