"""Directory contents, merged across the layers."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cowroot.union.layers import Layer
from cowroot.union.marks import OCI_PREFIX
from cowroot.union.node import Entry, Node
from cowroot.union.syscalls import near
from cowroot.union.tree import Tree
from cowroot.union.whiteouts import has_marked_files, hidden_by, is_whiteout

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # what os.fsencode asks for each name anew


def listing(tree: Tree, node: Node) -> list[Entry]:
    """What the directory `node` shows, without "." and "..": a snapshot, each name once. Empty for a removed directory."""
    if tree.is_removed(node):
        return []
    seen: set[bytes] = set()
    entries: list[Entry] = []
    if node.upper:
        _read(tree, node, tree.upper, tree.path(node), seen, entries)
    for layer, path in node.lowers:
        _read(tree, node, layer, path, seen, entries)
    return entries


def _read(tree: Tree, node: Node, layer: Layer, path: bytes, seen: set[bytes], entries: list[Entry]) -> None:
    assert node.children is not None
    children = node.children
    in_upper = layer is tree.layers.upper
    number, oci = tree.numbers.ino, layer.oci
    fs = layer.fs if layer.uniform or in_upper else -1
    marked_files = not in_upper and has_marked_files(tree.marks, layer, path)
    from_below, merged = node.impure and in_upper, in_upper and bool(node.lowers)
    if layer.number >= 0 and not in_upper:  # as it was when this was the upper
        from_below = path == b"." or tree.marks.impure in tree.marks.read(layer.fd, path)
        merged = layer is not node.lowers[-1][0]
    hidden: list[bytes] = []
    with _scan(layer, path, in_upper) as found:
        for entry in found:
            name = entry.name.encode(_ENCODING, _ERRORS)
            if oci and name.startswith(OCI_PREFIX):
                hidden.append(hidden_by(name))
                continue
            if name in seen:
                continue
            seen.add(name)
            if entry.is_file(follow_symlinks=False):
                if marked_files and is_whiteout(tree.marks, layer, path + b"/" + name, entry.stat(follow_symlinks=False)):
                    continue
                mode = stat.S_IFREG
            elif entry.is_dir(follow_symlinks=False):
                mode = stat.S_IFDIR
            elif entry.is_symlink():
                mode = stat.S_IFLNK
            else:
                st = entry.stat(follow_symlinks=False)
                if tree.marks.is_whiteout(layer.fd, path + b"/" + name, st):
                    continue
                mode = stat.S_IFMT(st.st_mode)
            child = children.get(name)
            if child is not None:
                ino = child.ino
            elif from_below or (mode == stat.S_IFDIR and merged):
                ino = _shown_inode(tree, node, name, layer, entry)  # came from below, or merges with something there
            elif fs >= 0:
                ino = number(fs, entry.inode())
            else:
                ino = tree.numbers.of(layer, entry.stat(follow_symlinks=False), path + b"/" + name)
            entries.append(Entry(name, ino, mode))
    seen.update(hidden)


def _shown_inode(tree: Tree, node: Node, name: bytes, layer: Layer, entry: os.DirEntry[str]) -> int:
    try:
        return tree.lookup(node, name).ino
    except OSError:  # it is damaged, as looking it up says; that must not hide the others (ovl_cache_update in fs/overlayfs/readdir.c)
        return tree.numbers.ino(layer.fs, entry.inode())


@contextmanager
def _scan(layer: Layer, path: bytes, in_upper: bool) -> Iterator[Iterator[os.DirEntry[str]]]:
    if in_upper:
        dir_fd, path = near(layer.fd, path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    else:
        fd = layer.open_untouched(path, os.O_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            yield entries
    finally:
        os.close(fd)


def is_merged(node: Node) -> bool:
    """True for a directory with more than one object behind it, so that no file system knows its link count."""
    return len(node.lowers) + node.upper > 1


def link_count(tree: Tree, node: Node, backing_links: int) -> int:
    """The link count of a directory: two, and one for each directory in it.

    `backing_links` is the count of the topmost object; file systems that do not count (btrfs) say 1, and so do we.
    """
    if not is_merged(node) or backing_links == 1:
        return backing_links
    if node.links is None:
        node.links = 2 + sum(entry.mode == stat.S_IFDIR for entry in listing(tree, node))
    return node.links


def count_subdirectory(parent: Node, change: int) -> None:
    """Keep the count of a merged directory, where it is known, when a directory in it comes (+1) or goes (-1)."""
    if parent.links is not None:
        parent.links += change
