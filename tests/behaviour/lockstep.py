"""The same operations on the plain copy and on a union, each call's result compared with its twin's."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Optional

from tests.behaviour import generate, generate_data, snapshot
from tests.behaviour.backends import LACKS_ON, Backend, Case, Plain, Watchdog, fingerprint
from tests.behaviour.filesystem import Stat
from tests.behaviour.session import Operation, Session
from tests.behaviour.trees import Tree

CASE_SECONDS = 120


@dataclass
class Departure:
    """The first point at which the union could be told from the copy."""

    operations: list[Operation]
    what: list[str]
    sort: str  # what kind of departure it is: the shrinker must not slip from one to another

    def __str__(self) -> str:
        last = self.operations[-1] if self.operations else ("nothing",)
        return f"after {len(self.operations)} operations, at {last!r}:\n  " + "\n  ".join(self.what)


@dataclass
class Lockstep:
    """A copy and a union at the same point of a sequence."""

    plain: Session
    union: Session
    since_ns: int
    done: list[Operation] = field(default_factory=list)
    # What the copy knows as one file (inode number and birth time), the union must show under one inode number throughout.
    numbers: dict[tuple[int, int], int] = field(default_factory=dict)

    def step(self, operation: Operation) -> Optional[Departure]:
        expected = self.plain.perform(operation)
        result = self._on_union(operation)
        self.done.append(operation)
        if isinstance(expected, Stat) and isinstance(result, Stat):
            problems = snapshot.stat_differences(expected, result, self.since_ns) + self._number(expected, result)
            return self.departure(problems, f"{operation[0]} {fields(problems)}") if problems else None
        if result == expected and type(result) is type(expected):
            return self._trees("tree below a new upper") if operation[0] == "freeze" else None
        if (expected, result) == ("EEXIST", "ENOTEMPTY"):
            return None  # POSIX has either for a directory that is not empty; xfs, for one, has the former
        return self.departure(
            [f"copy: {brief(expected)}", f"union: {brief(result)}"], f"{operation[0]} {sort_of(expected)} {sort_of(result)}"
        )

    def _on_union(self, operation: Operation) -> object:
        """The union's result. An exception that is no OSError is a fault of the core and a departure like any other."""
        try:
            return self.union.perform(operation)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            return f"crash: {error!r} at {os.path.basename(where.filename)}:{where.lineno}"

    def departure(self, problems: list[str], sort: str) -> Departure:
        return Departure(list(self.done), problems, sort)

    def _number(self, plain: Stat, union: Stat) -> list[str]:
        if not plain.birth_ns:
            return []
        known = self.numbers.setdefault((plain.ino, plain.birth_ns), union.ino)
        return [] if known == union.ino else [f"st_ino was {known} before, is {union.ino}"]

    def finish(self) -> Optional[Departure]:
        """Compare what open descriptors see, then the whole tree, then the tree after a remount."""
        self.plain.user = self.union.user = None
        for slot in sorted(self.plain.slots.keys() & self.union.slots.keys()):
            for operation in (("stat", slot, True), ("pread", slot, 0, 1 << 20)):
                if found := self.step(operation):
                    return found
        for session in (self.plain, self.union):
            session.close_all()
        if found := self._trees("tree"):
            return found
        if found := self.step(("remount",)):
            return found
        return self._trees("tree after remount")

    def _trees(self, sort: str) -> Optional[Departure]:
        plain = snapshot.take(self.plain.fs)
        try:
            union = snapshot.take(self.union.fs)
        except Exception as error:
            return self.departure(["reading the whole tree failed: " + traceback.format_exc()], f"{sort} {error!r}")
        problems = snapshot.differences(plain, union, self.since_ns)
        for path in plain.keys() & union.keys():
            problems += [f"{path!r}: {problem}" for problem in self._number(plain[path].stat, union[path].stat)]
        return self.departure(problems, f"{sort} {fields(problems)}") if problems else None


def clock_of(directory: bytes) -> int:
    """What the file system takes for now: its clock ticks more slowly than time.time_ns()."""
    where = os.path.join(directory, b"clock")
    with open(where, "wb") as file:
        return os.fstat(file.fileno()).st_ctime_ns


def fields(problems: Sequence[str]) -> str:
    """What the problems are about: the words before their colons, without paths."""
    return " ".join(sorted({problem.rsplit("': ", 1)[-1].split(":")[0].split(" of ")[0] for problem in problems}))


def brief(value: object) -> str:
    text = repr(value)
    if isinstance(value, bytes) and len(value) > 60:
        return f"{len(value)} bytes {value[:12]!r}…{value[-12:]!r}"
    return text if len(text) < 400 else text[:400] + "…"


def sort_of(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


def run(
    base: bytes,
    kind: type[Backend],
    layers: Sequence[Tree],
    operations: Optional[Iterable[Operation]],
    seed: int = 0,
    length: int = 0,
    upper_on: str = "",
    profile: str = "tree",
    frozen: Sequence[str] = (),
    freezes: int = 0,
) -> Optional[Departure]:
    """Perform the given operations, or `length` of those that `seed` yields; `base` is a directory for this run alone.

    `upper_on`, `frozen`: on which file systems, see Case; `profile`: "tree" for calls of all kinds all over a tree, "data" for one file's
    content; `freezes`: how many times, in between, the upper becomes a lower and the union goes on with a new one.
    """
    case = Case(base, layers, upper_on, frozen)
    unions = not {"overlayfs", "union"}.isdisjoint(frozen)
    untouched = fingerprint(case.layers, unions)
    before = os.umask(0o022)
    try:
        plain = Plain(case)
        backend = kind(case)
        if operations is None:
            lacks = kind.lacks | LACKS_ON.get(upper_on, frozenset())
            generator = generate_data.DataGenerator(seed, lacks) if profile == "data" else generate.Generator(seed, lacks, case.copy)
            places = {length * (number + 1) // (freezes + 1) for number in range(freezes)}
            operations = (("freeze",) if number in places else generator.next() for number in range(length))
        lockstep = Lockstep(Session(plain), Session(backend), clock_of(os.path.dirname(case.upper)))
        found = _perform(lockstep, operations)
        if found:
            return found
        problems = backend.faults()
        if fingerprint([*case.layers, *case.former_works], unions) != {**untouched, **case.former}:
            problems.append("a lower layer was changed")
        return lockstep.departure(problems, "afterwards") if problems else None
    finally:
        os.umask(before)
        case.remove()


def _perform(lockstep: Lockstep, operations: Iterable[Operation]) -> Optional[Departure]:
    """All operations and the comparison at the end, up to the first departure; afterwards the union is down."""
    backend = lockstep.union.backend
    watchdog = Watchdog(backend.case.mount, CASE_SECONDS) if backend.mounted else None
    try:
        for operation in operations:
            if found := lockstep.step(operation):
                return found
        return lockstep.finish()
    finally:
        for session in (lockstep.plain, lockstep.union):
            session.close_all()
        if watchdog:
            watchdog.stop()
        backend.down()
