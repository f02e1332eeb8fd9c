"""The tree of nodes: finding what a name means across the layers, and where a node's object is."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Callable, NoReturn

from cowroot.union.descriptors import Descriptors
from cowroot.union.index import Index, LinkCount
from cowroot.union.layers import Layer, Layers
from cowroot.union.lowers import Found, Lowers
from cowroot.union.marks import parse_redirect
from cowroot.union.node import Node
from cowroot.union.numbers import Numbers
from cowroot.union.removed import Removed
from cowroot.union.syscalls import near
from cowroot.union.waiting import WITHOUT_END
from cowroot.union.watch import Watch

_MOST_BARE = 64  # names: those that are about to be made


def fail(number: int, name: bytes | None = None) -> NoReturn:
    """Raise the OSError that the caller of a system call gets."""
    raise OSError(number, os.strerror(number), name)


class Tree:
    """All nodes of one union."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.marks = layers.marks
        self.numbers = Numbers(layers.lower, layers.upper, layers.work)
        self.lowers = Lowers(layers, self.numbers)
        self.below = self.lowers.below
        ino = self.lowers.ino([Found(layer, b".", layer.stat(b".")) for layer in layers.lower])
        self.root = Node(stat.S_IFDIR, ino, None, b".", layers.upper is not None, tuple((layer, b".") for layer in layers.lower))
        self.root.refs = 1
        self.root.impure = True
        self.count = 1
        self.on_copy_up: Callable[[Node], None] | None = None  # told of each node that got an object in the upper, and so a new ctime
        self.watch = Watch()
        self.found: tuple[Node, os.stat_result] | None = None  # what was found or made last, and what its object was like then
        self._bare: dict[tuple[Node, bytes], bool] = {}  # names, lately asked for, of which the lower has nothing; True: nor has the upper
        # one node for all names of a file: by the upper's inode number, by (file system, inode) in the lowers
        self.upper_inodes: dict[int, Node] = {}
        self.lower_inodes: dict[tuple[int, int], Node] = {}
        self.index = self._open_index()
        self.removed = Removed()
        self.descriptors = Descriptors()
        self._serial = 0
        self.patience = WITHOUT_END  # how many bytes of data a call may copy without raising Wait (waiting.py); 0: none, nor read any

    # -- where things are

    @property
    def upper(self) -> Layer:
        """The upper layer. Raises OSError(EROFS) in a read-only union."""
        if self.layers.upper is None:
            fail(errno.EROFS)
        return self.layers.upper

    @property
    def work(self) -> Layer:
        """The work directory. Raises OSError(EROFS) in a read-only union."""
        if self.layers.work is None:
            fail(errno.EROFS)
        return self.layers.work

    def path(self, node: Node) -> bytes:
        """The path of a named node in the union and so in the upper, without a leading slash; "." for the root."""
        if node.parent is None:
            return node.name
        parts = [node.name]
        above = node.parent
        while above.parent is not None:
            parts.append(above.name)
            above = above.parent
        parts.reverse()
        return b"/".join(parts)

    def is_removed(self, node: Node) -> bool:
        """True for what has no name (any more)."""
        return node.parent is None and node is not self.root

    def child_path(self, parent: Node, name: bytes) -> bytes:
        """The path of `name` in the directory `parent`, in the union and in the upper."""
        return name if parent is self.root else self.path(parent) + b"/" + name

    def lower_path(self, node: Node) -> bytes:
        """The path under which the lower layers, taken together, have what is behind `node`."""
        parts: list[bytes] = []
        here = node
        while here.redirect is None and here.parent is not None:
            parts.append(here.name)
            here = here.parent
        if here.redirect is not None:
            parts.append(here.redirect)
        parts.reverse()
        return b"/".join(parts)

    def place(self, node: Node) -> tuple[int, bytes]:
        """Where the node's object is now: a directory descriptor and a path below it.

        Raises OSError(ESTALE) if it is gone: the kernel, which looked the name up before it was removed or replaced, then does so again.
        """
        if node.upper:
            if node.home is not None:
                return self.work.fd, node.home
            if self.is_removed(node):
                fail(errno.ESTALE, node.name)
            return near(self.upper.fd, self.path(node))
        layer, path = node.lowers[0]
        return near(layer.fd, path)

    def temporary(self) -> bytes:
        """A new path below the work directory, for what is renamed into place when it is complete."""
        self._serial += 1
        return b"tmp/%d" % self._serial

    def resume(self, generation: int) -> None:
        """Go on where another process was killed, the `generation`-th: its temporaries are in the way of no new ones."""
        self._serial = generation << 40
        self.numbers.resume()
        self.index = self._open_index()

    def _open_index(self) -> Index:
        return Index(self.layers.work, [index for _, index in reversed(self.lowers.indexes)])

    def orphanage(self) -> bytes:
        """A new path below the work directory, for a file that has no name but is still open."""
        self._serial += 1
        return b"orphans/%d" % self._serial

    # -- look-up

    def lookup(self, parent: Node, name: bytes) -> Node:
        """The node of `name` in `parent`. Raises OSError: ENOENT, ENOTDIR, EIO for a damaged upper."""
        node = self.find(parent, name)
        if node is None:
            fail(errno.ENOENT, name)
        return node

    def find(self, parent: Node, name: bytes) -> Node | None:
        """The same, but None where there is nothing of this name."""
        if parent.children is None:
            fail(errno.ENOTDIR, name)
        child = parent.children.get(name)
        if child is not None:
            return child
        if self.is_removed(parent):
            return None
        is_free = self._bare.get((parent, name))
        if is_free:
            return None
        if parent.upper:
            path = self.child_path(parent, name)
            try:
                st = self.upper.stat(path)
            except FileNotFoundError:
                pass
            else:
                if self.marks.is_whiteout(self.upper.fd, path, st):
                    return None
                return self._adopt_upper(parent, name, path, st)
        found = self.below(parent.lowers, name) if is_free is None else []
        if not found:
            self._note_bare(parent, name, True)
            return None
        return self._adopt_lower(parent, name, found)

    def covers(self, parent: Node, name: bytes) -> bool:
        """True if the lower has something under this name, which shows, or is hidden by what the upper has there."""
        if not parent.lowers or (parent, name) in self._bare:
            return False
        if self.below(parent.lowers, name):
            return True
        self._note_bare(parent, name, False)
        return False

    def _note_bare(self, parent: Node, name: bytes, is_free: bool) -> None:
        """Who gives a name to something looks first whether it is free, so it is known then. Lowers do not change."""
        if len(self._bare) == _MOST_BARE:
            self._bare.clear()
        self._bare[parent, name] = is_free

    def take(self, parent: Node, name: bytes) -> None:
        """The upper is about to have something under this name."""
        if self._bare.get((parent, name)):
            self._bare[parent, name] = False

    def _adopt_upper(self, parent: Node, name: bytes, path: bytes, st: os.stat_result) -> Node:
        if not stat.S_ISDIR(st.st_mode) and st.st_nlink > 1:
            known = self.upper_inodes.get(st.st_ino)
            if known is not None:
                return self.attach(known, parent, name)
        marks = self.marks.read(self.upper.fd, path)
        redirect = marks.get(self.marks.redirect)
        lowers: tuple[tuple[Layer, bytes], ...] = ()
        ino = self.numbers.ino(self.upper.fs, st.st_ino)
        if stat.S_ISDIR(st.st_mode) and marks.get(self.marks.opaque) != b"y":
            found = [entry for entry in self.lowers.part(parent.lowers, 0, name, redirect) if entry.is_directory]
            lowers = tuple((entry.layer, entry.path) for entry in found)
            if found:
                ino = self.lowers.ino(found)
        stored = marks.get(self.marks.ino, b"")
        if stored.isdigit() and len(stored) < 20:
            ino = int(stored)
        node = Node(stat.S_IFMT(st.st_mode), ino, parent, name, True, lowers)
        node.impure = self.marks.impure in marks
        if lowers and redirect is not None:
            absolute, parts = parse_redirect(redirect)
            node.redirect = b"/".join(parts) if absolute else os.path.join(self.lower_path(parent), parts[0])
        if self.marks.metacopy in marks:
            node.patch = self.lowers.patch(marks, parent.lowers, 0, name, st)
        if not stat.S_ISDIR(st.st_mode) and st.st_nlink > 1:
            self.register_upper(node, st.st_ino)
            origin = self.index.origin_of(st.st_ino)
            if origin is not None:
                self.live_in_index(node, origin)
        self.found = node, st
        return self._add(node, parent, name)

    def _adopt_lower(self, parent: Node, name: bytes, found: list[Found]) -> Node:
        st = found[0].st
        kind = stat.S_IFMT(st.st_mode)
        if kind == stat.S_IFDIR or st.st_nlink == 1:
            node = Node(kind, self.lowers.ino(found), parent, name, False, tuple((entry.layer, entry.path) for entry in found))
            node.patch = self.lowers.patch_below(parent.lowers, name, found[0])
            self.found = node, st
            return self._add(node, parent, name)
        entry, origin = self.lowers.file(found[0])
        assert origin is not None
        known = self.lower_inodes.get(origin)
        if known is not None:
            return self.attach(known, parent, name)
        st = entry.st
        node = Node(kind, self.lowers.ino([entry], origin), parent, name, False, ((entry.layer, entry.path),))
        node.origin = origin
        node.links, node.ctime_ns = self.index.links.get(origin, (st.st_nlink, 0))
        self.lower_inodes[origin] = node
        upper_ino = self.index.inode_of(origin)
        if upper_ino is None:
            node.patch = self.lowers.patch_below(parent.lowers, name, entry)
        else:
            node.upper, node.lowers = True, ()
            self.live_in_index(node, origin)
            self.register_upper(node, upper_ino)
            fd, home = self.place(node)
            copy = os.stat(home, dir_fd=fd, follow_symlinks=False)
            if stat.S_IFMT(copy.st_mode) != kind:  # a link there would lead out of the layers
                self.drop(node)
                fail(errno.EIO, name)
            marks = self.marks.read(fd, home)
            if self.marks.metacopy in marks:
                node.patch = self.lowers.patch(marks, parent.lowers, 0, name, copy)
        return self._add(node, parent, name)

    # -- the table

    def _add(self, node: Node, parent: Node, name: bytes) -> Node:
        assert parent.children is not None
        parent.children[name] = node
        self.count += 1
        self.watch.named(node, parent, name)
        return node

    def add_upper(self, kind: int, parent: Node, name: bytes, st: os.stat_result) -> Node:
        """The node of an object that was just made in the upper."""
        node = Node(kind, self.numbers.ino(self.upper.fs, st.st_ino), parent, name, True, ())
        self.found = node, st
        return self._add(node, parent, name)

    def attach(self, node: Node, parent: Node, name: bytes) -> Node:
        """Give a node one more name."""
        assert parent.children is not None
        if node.parent is None:
            node.parent, node.name, node.last = parent, name, None
        elif (node.parent, node.name) != (parent, name):
            if node.others is None:
                node.others = set()
            node.others.add((parent, name))
        parent.children[name] = node
        self.watch.named(node, parent, name)
        return node

    def detach(self, node: Node, parent: Node, name: bytes) -> None:
        """Take a name from a node."""
        assert parent.children is not None
        if not node.upper and node.redirect is None:
            node.redirect = self.lower_path(node)  # with the name goes the way to find it
        parent.children.pop(name, None)
        if node.others:
            node.others.discard((parent, name))
        if node.parent is parent and node.name == name:
            if node.others:
                node.parent, node.name = node.others.pop()
            else:
                node.parent = None
        self.watch.unnamed(node, parent, name)

    def register_upper(self, node: Node, upper_ino: int) -> None:
        """Let further names of this upper inode find the node."""
        node.upper_ino = upper_ino
        self.upper_inodes[upper_ino] = node

    def drop(self, node: Node) -> None:
        """Take a node out of the tables of nodes with several names."""
        if node.upper_ino is not None and self.upper_inodes.get(node.upper_ino) is node:
            del self.upper_inodes[node.upper_ino]
        if node.origin is not None and self.lower_inodes.get(node.origin) is node:
            del self.lower_inodes[node.origin]

    def evict(self, node: Node) -> None:
        """Forget a node that nobody holds, and then its ancestors likewise."""
        while node is not self.root and not node.refs and not node.opens and not node.children and not self.watch.keeps(node):
            above = node.parent
            self.watch.evicted(node)
            for parent, name in [(node.parent, node.name), *(node.others or ())]:
                if parent is not None and parent.children is not None and parent.children.get(name) is node:
                    del parent.children[name]
                    if not parent.children:
                        parent.children.clear()  # which gives back the memory of what was in it
            self.drop(node)
            self.removed.let_go(node)
            self.count -= 1
            self._remove_home(node)
            if above is None:
                return
            node = above

    def _remove_home(self, node: Node) -> None:
        """Remove what was kept in the work directory for a node without a name."""
        if node.home is not None and node.home.startswith(b"orphans/"):
            if node.children is not None:
                self.remove_directory(node.home)
            else:
                os.unlink(node.home, dir_fd=self.work.fd)
            node.home = None

    def remove_directory(self, path: bytes) -> None:
        """Remove a directory in the work directory that holds nothing but whiteouts."""
        with suppress(OSError):  # ENOTEMPTY
            os.rmdir(path, dir_fd=self.work.fd)
            return
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.work.fd)
        try:
            for name in os.listdir(fd):
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(path, dir_fd=self.work.fd)

    def live_in_index(self, node: Node, origin: tuple[int, int]) -> None:
        """The node is a copied-up file of which the lower has several names: its object is the index entry."""
        node.origin = origin
        node.home = self.index.home(origin)
        if origin in self.index.links:
            node.links, node.ctime_ns = self.index.links[origin]
        self.lower_inodes[origin] = node

    def write_links(self, node: Node, count: int) -> LinkCount:
        """Write what is about to be the link count of a lower file with several names."""
        assert node.origin is not None
        return self.index.write_links(node.origin, count, self.temporary())

    def store_links(self, node: Node, written: LinkCount | None = None) -> None:
        """Put the link count of a lower file with several names in force: what is `written`, or else what the node says."""
        assert node.links is not None
        written = written or self.write_links(node, node.links)
        try:
            written.enforce()
        except BaseException:
            written.drop()
            raise
        node.links, node.ctime_ns = written.count, written.changed_ns
