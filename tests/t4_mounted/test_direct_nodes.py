"""Which nodes the direct engine holds, asked by requests as the kernel sends them, without a mount."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.fuse import protocol as p
from cowroot.fuse.direct.directories import Directories
from cowroot.fuse.direct.memory import Memory
from cowroot.fuse.direct.names import Names
from cowroot.fuse.direct.request import BUFFER_SIZE, Request
from cowroot.fuse.direct.session import Session
from cowroot.fuse.direct.slots import Shelved, Slots
from cowroot.fuse.direct.threads import Threads
from cowroot.union import LayerSpec, Node, Union

LONG = 200  # entries: more than one answer


class Kernel:
    """Sends requests to a session and reads its answers."""

    def __init__(self, session: Session) -> None:
        self._request = Request(Slots(Memory({}), 1, BUFFER_SIZE).next())
        session.request = self._request
        self._handlers = {**Names(session).handlers(), **Directories(session).handlers()}

    def ask(self, opcode: int, node: Node, body: bytes) -> bytes:
        self._request.load(Shelved(0, p.IN_HEADER.pack(p.BODY + len(body), opcode, 1, node.nodeid, 0, 0, 1, 0) + body))
        return (self._handlers[opcode](self._request, node) or b"")[16:]

    def entries(self, node: Node, offset: int = 0, room: int = 4096) -> list[tuple[bytes, int, int]]:
        """One answer of READDIRPLUS: (name, offset behind it, node's number)."""
        answer = self.ask(p.READDIRPLUS, node, struct.pack("=QQI20x", 0, offset, room))
        assert len(answer) <= room
        found = []
        place = 0
        while place < len(answer):
            (nodeid,) = p.U64.unpack_from(answer, place)
            _, behind, length, _ = struct.unpack_from("=QQII", answer, place + 128)
            found.append((answer[place + 152 : place + 152 + length], behind, nodeid))
            place += (152 + length + 7) // 8 * 8
        return found


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    for name in ("lower/many", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(LONG):
        (tmp_path / "lower" / "many" / f"file{number}").touch()
    lower, upper, work = (os.fspath(tmp_path / name) for name in ("lower", "upper", "work"))
    try:
        union = Union.open(LayerSpec([lower], upper, work, userxattr=os.geteuid() != 0))
        memory = Memory({})
        yield Session(union, Threads(lambda request: None, lambda: Request(Slots(memory, 1, BUFFER_SIZE).next())), memory)
        union.close()
    finally:
        os.umask(0o022)


def read_all(kernel: Kernel, node: Node) -> list[tuple[bytes, int, int]]:
    found = kernel.entries(node)
    while True:
        more = kernel.entries(node, found[-1][1])
        if not more:
            return found
        found += more


def test_every_look_up_is_counted_and_given_back(session: Session) -> None:
    kernel = Kernel(session)
    root = session.union.root
    kernel.ask(p.LOOKUP, root, b"many\0")
    many = session.union.lookup(root, b"many")
    found = read_all(kernel, many)
    assert [name for name, _, nodeid in found if not nodeid] == [b".", b".."], "of these the kernel keeps no look-up"
    kernel.ask(p.LOOKUP, many, b"file7\0")
    numbers = [nodeid for _, _, nodeid in found if nodeid]
    assert len(set(numbers)) == LONG
    assert len(session.nodes) == LONG + 2
    once = b"".join(p.FORGET_ONE.pack(number, 1) for number in numbers)
    kernel.ask(p.BATCH_FORGET, root, struct.pack("=II", len(numbers), 0) + once)
    assert len(session.nodes) == 3, "the root, the directory, and what was looked up twice"
    kernel.ask(p.FORGET, session.union.lookup(many, b"file7"), p.U64.pack(1))
    kernel.ask(p.FORGET, many, p.U64.pack(1))
    assert len(session.nodes) == session.union.tree.count == 1


def test_what_is_only_listed_is_no_node(session: Session) -> None:
    kernel = Kernel(session)
    root, tree = session.union.root, session.union.tree
    kernel.ask(p.LOOKUP, root, b"many\0")
    many = session.union.lookup(root, b"many")
    numbers = {name: nodeid for name, _, nodeid in read_all(kernel, many)[2:]}
    assert tree.count == 2
    assert len(session.nodes) == LONG + 2
    # the number is that of the node, whichever way that is come upon
    used = session.nodes.use(numbers[b"file3"])
    assert used is not None
    assert (used.name, used.nodeid, used.refs) == (b"file3", numbers[b"file3"], 1)
    assert session.nodes.find(numbers[b"file3"]) is used
    assert session.nodes.use(numbers[b"file3"]) is None, "it is a node already"
    assert session.union.lookup(many, b"file4").nodeid == numbers[b"file4"]
    assert {name: nodeid for name, _, nodeid in read_all(kernel, many)[2:]} == numbers
    assert used.refs == 2
    assert len(session.nodes) == LONG + 2
    removed = session.union.lookup(many, b"file5")
    kernel.ask(p.UNLINK, many, b"file5\0")
    assert removed.nodeid == numbers[b"file5"]
    for number in numbers.values():
        session.nodes.forget(number, 2)
    assert len(session.nodes) == tree.count == 2
    assert not {nodeid for _, _, nodeid in read_all(kernel, many)[2:]} & set(numbers.values())


def test_a_file_that_vanishes_from_the_layer_is_left_out(session: Session, tmp_path: Path) -> None:
    """It is not supposed to, but that is no reason for a directory that cannot be read."""
    kernel = Kernel(session)
    root = session.union.root
    kernel.ask(p.LOOKUP, root, b"many\0")
    many = session.union.lookup(root, b"many")
    found = kernel.entries(many)
    missing = {b"file%d" % number for number in range(LONG)} - {name for name, _, _ in found}
    for name in missing:
        os.unlink(tmp_path / "lower" / "many" / os.fsdecode(name))
    assert kernel.entries(many, found[-1][1]) == []
    numbers = [nodeid for _, _, nodeid in read_all(kernel, many) if nodeid]
    assert numbers == [nodeid for _, _, nodeid in found if nodeid]
    os.unlink(tmp_path / "lower" / "many" / os.fsdecode(found[-1][0]))
    assert session.nodes.use(numbers[-1]) is None


def test_a_node_that_rests_is_listed_again(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cowroot.fuse.direct.resting.MOST_RESTING", 10)
    monkeypatch.setattr("cowroot.fuse.direct.resting.AT_ONCE", 1)
    kernel = Kernel(session)
    root, union, nodes = session.union.root, session.union, session.nodes
    kernel.ask(p.LOOKUP, root, b"many\0")
    many = union.lookup(root, b"many")
    numbers = [nodeid for _, _, nodeid in read_all(kernel, many)[2:]]
    held = []
    for number in numbers:
        node = nodes.use(number)
        assert node is not None
        handle = union.open_file(node, os.O_RDWR if number % 3 == 0 else os.O_RDONLY)
        if number % 3 == 0:
            union.write(handle, b"x", 0)
        if number % 3 == 1:
            held.append(handle)
            continue
        union.release(handle)
        nodes.rest(node)
    kept = {number for number in numbers if nodes.find(number) is not None}
    assert {number for number in numbers if number % 3 < 2} < kept, "open or copied up"
    assert len(kept) == sum(number % 3 < 2 for number in numbers) + 10
    assert len(nodes) == LONG + 2
    for number in numbers:
        again = nodes.find(number) or nodes.use(number)
        assert again is not None
        assert again.nodeid == number
    for handle in held:
        union.release(handle)
    for number in numbers:
        nodes.forget(number, 1)
    assert len(nodes) == 2


def test_what_is_only_looked_up_becomes_dormant(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that there is of it then is its record, and it is the same node to the kernel whatever it is asked for next."""
    monkeypatch.setattr("cowroot.fuse.direct.resting.MOST_IDLE", 10)
    monkeypatch.setattr("cowroot.fuse.direct.resting.AT_ONCE", 1)
    kernel = Kernel(session)
    root, union, nodes = session.union.root, session.union, session.nodes
    (directory,) = struct.unpack_from("=Q", kernel.ask(p.LOOKUP, root, b"many\0"))
    many = union.lookup(root, b"many")
    names = [b"file%d" % number for number in range(LONG)]

    def look_up(name: bytes) -> int:
        return int(p.U64.unpack_from(kernel.ask(p.LOOKUP, many, name + b"\0"))[0])

    numbers = [look_up(name) for name in names]
    assert len(nodes) == LONG + 2
    assert len(nodes.dormant) == LONG - 10
    assert union.tree.count == 12
    assert [nodes.held(number) for number in numbers] == [1] * LONG
    assert look_up(names[0]) == numbers[0]
    assert nodes.held(numbers[0]) == 2
    found = {name: nodeid for name, _, nodeid in read_all(kernel, many) if nodeid}
    assert {name: found[name] for name in names} == dict(zip(names, numbers))
    assert nodes.held(numbers[0]) == 3
    handle = union.open_file(held(nodes.get(numbers[1])), os.O_RDWR)
    union.write(handle, b"x", 0)
    union.unlink(many, names[2])
    union.rename(many, names[3], many, names[4])
    assert held(nodes.get(numbers[3])).name == names[4]
    assert len(nodes) == LONG + 2, "the kernel has not forgotten those that are gone"
    union.release(handle)
    session.nodes.forget(directory, 1)
    for number in numbers:
        nodes.forget(number, nodes.held(number))
    assert len(nodes) == 1
    assert not many.nodeid, "a directory is kept for what is dormant in it, and no longer"


def held(node: Node | None) -> Node:
    assert node is not None
    return node


def test_a_number_is_never_given_to_another(session: Session) -> None:
    kernel = Kernel(session)
    root = session.union.root
    seen = set()
    for number in range(10):
        name = b"new%d" % number
        (nodeid,) = p.U64.unpack_from(kernel.ask(p.MKDIR, root, struct.pack("=II", 0o755, 0) + name + b"\0"))
        assert nodeid not in seen
        seen.add(nodeid)
        node = session.union.lookup(root, name)
        kernel.ask(p.RMDIR, root, name + b"\0")
        kernel.ask(p.FORGET, node, p.U64.pack(1))
    assert len(session.nodes) == session.union.tree.count == 1


def test_forgetting_too_much_or_the_unknown_does_no_harm(session: Session) -> None:
    kernel = Kernel(session)
    root = session.union.root
    kernel.ask(p.BATCH_FORGET, root, struct.pack("=II4Q", 2, 0, 12345, 1, p.ROOT_ID, 7))
    kernel.ask(p.LOOKUP, root, b"many\0")
    kernel.ask(p.FORGET, session.union.lookup(root, b"many"), p.U64.pack(99))
    assert len(session.nodes) == session.union.tree.count == 1
    assert [name for name, _, _ in kernel.entries(root)] == [b".", b"..", b"many"]


def test_offsets_stay_right_while_the_directory_changes(session: Session) -> None:
    """Who reads on sees each entry that was there all the time once, whatever comes, goes, or is read by others meanwhile."""
    kernel = Kernel(session)
    root = session.union.root
    kernel.ask(p.LOOKUP, root, b"many\0")
    many = session.union.lookup(root, b"many")
    found = kernel.entries(many)
    names = [name for name, _, _ in found]
    for name in names[2:]:
        kernel.ask(p.UNLINK, many, name + b"\0")
    for number in range(50):
        kernel.ask(p.MKDIR, many, struct.pack("=II", 0o755, 0) + b"new%d\0" % number)
    read_all(kernel, many)  # somebody else, from the beginning to the end
    offset = found[-1][1]
    while True:
        more = kernel.entries(many, offset)
        if not more:
            break
        names += [name for name, _, _ in more]
        offset = more[-1][1]
    assert len(names) == len(set(names))
    assert {b"file%d" % number for number in range(LONG)} <= set(names)


def test_names_of_one_hash_go_together(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cowroot.fuse.direct.listed.HASH", 0b11)  # four hashes for all
    kernel = Kernel(session)
    root = session.union.root
    kernel.ask(p.LOOKUP, root, b"many\0")
    many = session.union.lookup(root, b"many")
    names: list[bytes] = []
    offset = 0
    while True:
        more = kernel.entries(many, offset, 16384)
        if not more:
            break
        names += [name for name, _, _ in more]
        offset = more[-1][1]
    assert sorted(names) == sorted([b".", b"..", *(b"file%d" % number for number in range(LONG))])


def test_relative_names_lead_to_the_node_itself_and_above(session: Session) -> None:
    """What the kernel asks for when all it has of a file is its number (EXPORT_SUPPORT)."""
    kernel = Kernel(session)
    root = session.union.root
    kernel.ask(p.LOOKUP, root, b"many\0")
    many = session.union.lookup(root, b"many")
    kernel.ask(p.LOOKUP, many, b"file1\0")
    file = session.union.lookup(many, b"file1")
    for node, name, expected in ((many, b".", many), (many, b"..", root), (file, b".", file), (file, b"..", many)):
        (nodeid,) = p.U64.unpack_from(kernel.ask(p.LOOKUP, node, name + b"\0"))
        assert nodeid == expected.nodeid
    with pytest.raises(OSError, match="Stale"):
        kernel.ask(p.LOOKUP, root, b"..\0")
    assert b"." not in (many.children or {})
