"""What the handlers of requests share: the union, the kernel's nodes, a way to tell the kernel something unasked."""

from __future__ import annotations

import _thread
import os
import stat
import time
from collections.abc import Iterable
from typing import Callable, Optional

from cowroot.fuse import kernel
from cowroot.fuse.direct import replies
from cowroot.fuse.direct.ledger import Ledger
from cowroot.fuse.direct.memory import Memory
from cowroot.fuse.direct.nodes import Nodes
from cowroot.fuse.direct.replies import YEAR
from cowroot.fuse.direct.request import Request
from cowroot.fuse.direct.threads import Threads
from cowroot.fuse.privileges import without_privileges
from cowroot.fuse.protocol import BODY, SETXATTR_IN, SETXATTR_IN_EXT
from cowroot.fuse.writers import Writers
from cowroot.union import Node, Union

Handler = Callable[[Request, Node], Optional[bytes]]
"""Answers a request about a node: with the whole reply, or None if there is none or it was sent."""

_SOON = 0.005  # seconds: what can be told later is told after that, all at once


class Session:
    """State of one mount, which all its threads share."""

    def __init__(self, union: Union, threads: Threads, memory: Memory) -> None:
        self.union = union
        self.threads = threads
        self.request: Request  # the one that is being answered, under the lock
        self.ledger = Ledger(memory)
        self.writers = Writers()
        self.fd = -1
        self.features: frozenset[str] = frozenset()
        upper = union.layers.upper
        # what is written does not outlast a power cut anyway, so nothing has to be synced
        self.volatile = upper is not None and kernel.file_system_type(upper.fd) in ("tmpfs", "ramfs")
        # lower layers that cannot be waited for in vain. To be found out now: of others, even this would have to be waited for later.
        lower = [layer for layer in union.layers.lower if layer.private]  # with nothing of another kind mounted in it
        self.on_disks = {layer for layer in lower if kernel.file_system_type(layer.fd) in kernel.ON_DISKS}
        # nodes that the kernel may be writing to without telling us (see passthrough.py), and how to find out that it does not any more
        self.restless: set[Node] = set()
        self.newest: Node | None = None  # the file that was made last, as long as nobody has set an attribute of it
        self.has_calmed: Callable[[Node], bool] = lambda node: True
        self.nodes = Nodes(union, self.ledger, self._forgotten, lambda: self.request.slot)
        # directories of whose attributes the kernel was told since they changed, and which thread had asked; nought: several, or who knows
        self.told: dict[Node, int] = {}
        self._untold: set[Node] = set()  # directories with attributes that the kernel is soon to be told of
        self._due = _thread.allocate_lock()  # what the thread that tells it waits for
        self._has_teller = False
        union.tree.on_copy_up = self._copied_up

    def _forgotten(self, node: Node) -> None:
        self.restless.discard(node)
        self.told.pop(node, None)

    def is_on_disk(self, node: Node) -> bool:
        """True if what a regular file holds is all in a lower layer on a disk of this machine."""
        return not node.upper and node.patch is None and node.lowers[0][0] in self.on_disks

    def attribute_to_set(self, request: Request) -> tuple[bytes, bytes, int, int]:
        """A SETXATTR request: name, value, flags of setxattr(2), flags of the protocol's own."""
        extra = 0
        if "setxattr_ext" in self.features:
            length, flags, extra, _ = SETXATTR_IN_EXT.unpack_from(request.view, BODY)
            start = SETXATTR_IN_EXT.size
        else:
            length, flags = SETXATTR_IN.unpack_from(request.view, BODY)
            start = SETXATTR_IN.size
        name, _, rest = bytes(request.view[BODY + start : request.size]).partition(b"\0")
        return name, rest[:length], flags, extra

    def validity(self, node: Node) -> int:
        """For how many seconds the kernel may keep the node's attributes. To be asked before they are read."""
        if node.children is not None:
            asker = self.request.pid
            self.told[node] = asker if self.told.get(node, asker) == asker else 0
        elif node in self.restless:
            if not self.has_calmed(node):
                return 0
            self.restless.discard(node)
        return YEAR

    def changed(self, directory: Node) -> None:
        """Something has come into the directory, or gone.

        The kernel then forgets the attributes that it has. But it may not have put away yet what it was told just before, at another
        thread's request: that would stay, and it cannot see that it is the older. A notification makes it refuse such answers. What the
        thread that asks now was told itself it has put away before.
        """
        asker = self.told.pop(directory, self.request.pid)
        if not asker or asker != self.request.pid:
            self._tell_later(directory)

    def entry(self, request: Request, node: Node) -> bytes:
        """Answer with a name's node, which the kernel holds from then on."""
        valid = self.validity(node)
        attr = self.union.getattr_as_found(node)  # first: where it fails nothing is to be held
        return replies.entry(request.unique, self.nodes.hold(node), attr, valid)

    def tell_stale(self, node: Node) -> None:
        """Have the kernel ask for a node's attributes again: something changed that it does not expect."""
        if node.refs:
            self._notify(replies.stale_attributes(node.nodeid))

    def tell_moved(self, node: Node) -> None:
        """Have the kernel read a directory again that it keeps: its ".." is another one."""
        if node.refs:
            self._notify(replies.stale_contents(node.nodeid))

    def _notify(self, notification: bytes) -> None:
        try:
            os.write(self.fd, notification)
        except OSError:
            pass  # ENOENT: the kernel does not have the node any more; ENODEV: the mount is gone

    def drop_privileges(self, request: Request, node: Node) -> None:
        """Clear set-user-ID and set-group-ID as a write does: see inode(7).

        File capabilities go by themselves: the upper's file system removes them when its file is written, truncated or given away.
        """
        kept = self.reduced_mode(request, node)
        if kept is not None:
            self.union.setattr(node, mode=kept)
            self.tell_stale(node)

    def reduced_mode(self, request: Request, node: Node) -> Optional[int]:
        """The permission bits that a change of its content by the caller leaves to the file; None if they stay as they are."""
        attr = self.union.getattr(node)
        kept = without_privileges(attr.mode, attr.gid, (request.uid, request.gid, request.pid))
        return None if kept == stat.S_IMODE(attr.mode) else kept

    def _copied_up(self, node: Node) -> None:
        if node.kind == stat.S_IFREG:
            self.writers.note(node.ino, self.request.pid)
        # Of a file the kernel asks again anyway after each operation that copies up. Of directories it does not: neither of one that was
        # copied up for something in it, nor of the one that got the copy, and had its times put back, which moved its change time.
        # Nobody has changed those directories, so nobody waits for it; and the kernel asks when it next looks something up there.
        if node.children is not None:
            self._tell_later(node)
        if node.parent is not None:
            self._tell_later(node.parent)

    def _tell_later(self, directory: Node) -> None:
        if not self._untold:
            self.ledger.note_untold(True)
            if not self._has_teller:
                self._start_teller()
            elif self._due.locked():
                self._due.release()
        self._untold.add(directory)

    def _start_teller(self) -> None:
        try:
            _thread.start_new_thread(self._tell_again_and_again, ())
            self._has_teller = True
        except RuntimeError:
            pass  # the system has no room for another thread: the next time, or statfs(2), tells it

    def _tell_again_and_again(self) -> None:
        """What the thread that tells does. It takes the lock while nobody answers, and is in nobody's way while it waits."""
        while True:
            time.sleep(_SOON)
            with self.threads.lock:
                self.tell()
            self._due.acquire()

    def tell(self) -> None:
        """Tell the kernel what it has not been told yet."""
        if self._untold:
            while self._untold:
                self.tell_stale(self._untold.pop())
            self.ledger.note_untold(False)

    def tell_all_stale(self, numbers: Iterable[int]) -> None:
        """Have the kernel ask for the attributes of all these again: a predecessor was to tell it of some."""
        for number in numbers:
            self._notify(replies.stale_attributes(number))
        self.ledger.note_untold(False)
