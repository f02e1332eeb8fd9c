"""Going on where a predecessor was killed: its nodes, its open files, and what it had in hand."""

from __future__ import annotations

import errno
import os
from typing import Callable, Optional

from cowroot.fuse import protocol as p
from cowroot.fuse.direct.files import Files
from cowroot.fuse.direct.inheritance import Inheritance
from cowroot.fuse.direct.names import Names
from cowroot.fuse.direct.replay import Replay
from cowroot.fuse.direct.request import Request
from cowroot.fuse.direct.session import Session
from cowroot.fuse.direct.slots import Shelf, Slots

DEADLY = 5  # servers that may die over one request, before it is the request that is given up


class Succession:
    """One server's beginning, if there was one before.

    Arguments: `answer(request)` answers a request in hand, with the lock held; `fail(request, exception)` does so with an error.
    """

    def __init__(
        self,
        session: Session,
        names: Names,
        files: Files,
        answer: Callable[[Request], None],
        fail: Callable[[Request, Exception], None],
    ) -> None:
        self._session = session
        self._nodes = session.nodes
        self._replay = Replay(session, names, files.handles)
        self._answer = answer
        self._fail = fail

    def take_over(self, generation: int, blamed: bool, slots: Slots, shelf: Shelf, spare: Request) -> None:
        """Have the nodes and handles of a predecessor, and finish what it had in hand.

        Arguments: `generation`: how many there were; `blamed`: what was in hand may be why the last has died; `slots` and `shelf`: where
        their requests are; `spare`: to take those of the shelf up.
        """
        session, nodes = self._session, self._nodes
        session.union.resume(generation)
        hands = [Request(slot) for slot in slots.all if slot.inherit()]
        waiting = shelf.take_over({request.parse_again() for request in hands})
        nodes.listings.resume(generation)
        records, handles, listings = session.ledger.take_over()
        unanswered = set()
        for request in hands:
            if not request.slot.answer:
                unanswered.add(request.unique)
                if blamed:
                    request.slot.count_death()
        for handle in handles:
            if handle.unique in unanswered:
                session.ledger.close(handle.number)  # the kernel was never told of it
        handles = [handle for handle in handles if handle.unique not in unanswered]
        nodes.inheritance = Inheritance(records, handles, listings)
        nodes.trustee.give_back_others(nodes.inheritance.nodes)
        with session.threads.lock:
            for request in hands:
                if not request.slot.answer and request.slot.deaths < DEADLY:
                    request.slot.answer = self._clear_names(request)
            nodes.meet()
        interrupted = [p.U64.unpack_from(request.buffer, p.BODY)[0] for request in hands if request.opcode == p.INTERRUPT]
        for request in hands:
            self._finish(request)
        for shelved in waiting:
            spare.load(shelved)
            shelf.take(shelved)
            if spare.unique in interrupted:
                self._fail(spare, OSError(errno.EINTR, ""))  # if it has not been told that before
            else:
                self._finish(spare)
        if session.ledger.is_untold:
            session.tell_all_stale([p.ROOT_ID, *(record.number for record in records)])
        session.union.layers.clean(nodes.homes())

    def _clear_names(self, request: Request) -> bytes:
        self._session.request = request
        parent = self._nodes.get(request.nodeid)
        return self._replay.clear_names(request, parent or self._session.union.root) or b""

    def _finish(self, request: Request) -> None:
        """Answer a request that was in hand, after doing it again if need be."""
        session = self._session
        session.threads.come_back(request)
        session.request = request
        answer: Optional[bytes] = request.slot.answer
        try:
            if not answer:
                if request.slot.deaths >= DEADLY:
                    raise RuntimeError(f"{DEADLY} servers have died over this request")
                answer = self._replay.answer(request, self._nodes.get(request.nodeid) or session.union.root)
            if answer is None:
                self._answer(request)
            else:
                if answer:
                    os.write(session.fd, answer)
                request.slot.free()
        except Exception as e:
            self._fail(request, e)
        session.threads.come_back(request)  # or it would count as aside for good
        request.locked = False
        session.threads.lock.release()
