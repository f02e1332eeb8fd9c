"""What is written while the power may go, and what must be there afterwards: work that a cut is followed by a judgement of.

Each work has a directory of its own and notes what it makes of what is in it, state by state. A state that an fsync (or sync, or whatever
else promises it) has returned for is settled: after a later cut that state is there, or a later one. The next state may be there as soon
as it was begun. Of data that was written but not settled any part may be there.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Generic, Optional, TypeVar

from cowroot.union.syscalls import RENAME_EXCHANGE, renameat2
from tests.t4_mounted.recording import Clock

Value = TypeVar("Value")
FILES = 24


class History(Generic[Value]):
    """The states of one thing: when each was begun, and from when on it, or a later one, had to be there."""

    def __init__(self, first: Value, clock: Clock) -> None:
        self._clock = clock
        self._states: list[tuple[int, Value]] = [(-1, first)]
        self._settled: list[tuple[int, int]] = [(-1, 0)]  # moment, number of the state

    @property
    def latest(self) -> Value:
        return self._states[-1][1]

    @property
    def is_settled(self) -> bool:
        return self._settled[-1][1] == len(self._states) - 1

    def begin(self, value: Value) -> None:
        """What is about to be done makes it `value`."""
        self._states.append((self._clock.now(), value))

    def settle(self) -> None:
        """The latest state has been promised to stay."""
        self._settled.append((self._clock.now(), len(self._states) - 1))

    def possible(self, cut: int) -> list[Value]:
        """What it may be after a cut, the oldest first."""
        first = max(state for moment, state in self._settled if moment <= cut)
        return [value for number, (begun, value) in enumerate(self._states) if number >= first and (begun < cut or number == first)]


def content(seed: object, size: int) -> bytes:
    return random.Random(repr(seed)).randbytes(size)


def sync(path: Path, how: Callable[[int], None] = os.fsync) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        how(fd)
    finally:
        os.close(fd)


def write(path: Path, data: bytes, settle: bool = True, mode: int = 0o644) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(fd, data)
        if settle:
            os.fsync(fd)
    finally:
        os.close(fd)


def mixture(found: bytes, states: list[bytes]) -> str:
    """What is wrong with data that may be any mixture of `states`; nothing if it is one."""
    sizes = [len(state) for state in states]
    if not min(sizes) <= len(found) <= max(sizes):
        return f"has {len(found)} bytes, not {sorted(set(sizes))}"
    if found in states:
        return ""
    shortest = min(sizes)
    for place, byte in enumerate(found):
        if any(place < len(state) and state[place] == byte for state in states) or (byte == 0 and place >= shortest):
            continue
        return f"has a byte at {place} that was never written there"
    return ""


class Work:
    """One kind of work: `prepare` makes what the lower has, `step` does something, `judge` looks at what a cut has left of it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ready()

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def history(self, first: Value) -> History[Value]:
        return History(first, self.clock)

    def ready(self) -> None:
        """Make the histories."""

    def prepare(self, here: Path) -> None:
        """Fill the lower's directory."""

    def step(self, here: Path, chance: random.Random) -> None:
        raise NotImplementedError

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        raise NotImplementedError


class Creations(Work):
    """Files made and synced, one by one; their names with them, as ext4, xfs and btrfs do."""

    def ready(self) -> None:
        self.made: list[History[bool]] = []

    def step(self, here: Path, chance: random.Random) -> None:
        number = len(self.made)
        made = self.history(False)
        self.made.append(made)
        path = here / f"new{number}"
        made.begin(True)
        write(path, content(number, 1 + number * 37 % 9000), settle=False, mode=0o640)
        os.setxattr(path, "user.number", b"%d" % number)
        sync(path)
        made.settle()

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        for number, made in enumerate(self.made):
            path, possible = here / f"new{number}", made.possible(cut)
            if not path.exists():
                if False not in possible:
                    yield f"new{number} is gone"
            elif True not in possible:
                yield f"new{number} is there before it was made"
            elif False not in possible:
                if path.read_bytes() != content(number, 1 + number * 37 % 9000):
                    yield f"new{number} has other content"
                if path.stat().st_mode & 0o777 != 0o640 or os.getxattr(path, "user.number") != b"%d" % number:
                    yield f"new{number} has other attributes"


class Replacements(Work):
    """The way of editors: a new file, synced, renamed over the old one."""

    def ready(self) -> None:
        self.versions = [self.history(0) for _ in range(4)]

    def prepare(self, here: Path) -> None:
        for number in range(4):
            write(here / f"text{number}", content((number, 0), 3000))

    def step(self, here: Path, chance: random.Random) -> None:
        number = chance.randrange(4)
        version = self.versions[number]
        path, temporary = here / f"text{number}", here / f".text{number}.new"
        write(temporary, content((number, version.latest + 1), 3000))
        version.begin(version.latest + 1)
        temporary.rename(path)
        if chance.random() < 0.7:
            sync(here)
            for each in self.versions:
                each.settle()

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        for number, version in enumerate(self.versions):
            path = here / f"text{number}"
            if not path.exists():
                yield f"{path.name} is gone"
            elif path.read_bytes() not in [content((number, value), 3000) for value in version.possible(cut)]:
                yield f"{path.name} is none of the versions {version.possible(cut)}"


class Attributes(Work):
    """Files and directories of the lower, of which only attributes are changed."""

    SIZES = (0, 5000, 300 << 10)

    def ready(self) -> None:
        self.modes = [self.history(0o644) for _ in range(FILES)]

    def prepare(self, here: Path) -> None:
        for number in range(FILES):
            path = here / f"deep{number % 3}/er/file{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, content(number, self.SIZES[number % 3]))
            os.setxattr(path, "user.number", b"%d" % number)
            os.chown(path, 7, 8)
            os.utime(path, (1, 2))

    def step(self, here: Path, chance: random.Random) -> None:
        number = chance.randrange(FILES)
        path = here / f"deep{number % 3}/er/file{number}"
        mode = self.modes[number]
        mode.begin(chance.choice([0o600, 0o640, 0o755, 0o4755]))
        path.chmod(mode.latest)
        if chance.random() < 0.7:
            sync(path)
            mode.settle()

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        for number, mode in enumerate(self.modes):
            path = here / f"deep{number % 3}/er/file{number}"
            st = path.stat()
            if st.st_mode & 0o7777 not in mode.possible(cut):
                yield f"{path.name} has the mode {st.st_mode & 0o7777:o}, not one of {[f'{each:o}' for each in mode.possible(cut)]}"
            if (st.st_uid, st.st_gid, st.st_mtime) != (7, 8, 2) or os.getxattr(path, "user.number") != b"%d" % number:
                yield f"{path.name} has other attributes than the lower's"
            if path.read_bytes() != content(number, self.SIZES[number % 3]):
                yield f"{path.name} has other content than the lower's"


class Data(Work):
    """Files of which data is changed: appended to, cut off, written in the middle; synced, or written with O_DSYNC."""

    SIZES = (0, 700, 50_000, 200_000, 700_000)

    def ready(self) -> None:
        self.states = [self.history(content(number, size)) for number, size in enumerate(self.SIZES)]

    def prepare(self, here: Path) -> None:
        for number, size in enumerate(self.SIZES):
            write(here / f"data{number}", content(number, size))

    def step(self, here: Path, chance: random.Random) -> None:
        number = chance.randrange(len(self.SIZES))
        state = self.states[number]
        before, action = state.latest, chance.randrange(4)
        # which brings to the disk what it writes, not what was written before
        direct = os.O_DSYNC if state.is_settled and chance.random() < 0.3 else 0
        fd = os.open(here / f"data{number}", os.O_RDWR | direct)
        try:
            if action == 0 and len(before) > 10:
                size = chance.randrange(len(before) // 2, len(before))
                state.begin(before[:size])
                os.ftruncate(fd, size)
                os.fsync(fd)
            else:
                place = len(before) if action == 1 else chance.randrange(len(before) + 1)
                data = chance.randbytes(chance.choice([1, 100, 5000, 20_000]))
                state.begin(before[:place] + data + before[place + len(data) :])
                os.pwrite(fd, data, place)
                if not direct:
                    if chance.random() < 0.2:
                        return
                    (os.fsync if action == 2 else os.fdatasync)(fd)
            state.settle()
        finally:
            os.close(fd)

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        for number, state in enumerate(self.states):
            wrong = mixture((here / f"data{number}").read_bytes(), state.possible(cut))
            if wrong:
                yield f"data{number} {wrong}"


class Directories(Work):
    """Directories of the lower that are renamed, moved from one directory to another, exchanged, replaced by an empty one."""

    def ready(self) -> None:
        self.places = self.history({"left/a": 0, "left/b": 1, "right/c": 2})

    def prepare(self, here: Path) -> None:
        for place, number in self.places.latest.items():
            (here / place / "inner").mkdir(parents=True)
            for each in range(5):
                write(here / place / "inner" / f"file{each}", content((number, each), 500))

    def step(self, here: Path, chance: random.Random) -> None:
        places = dict(self.places.latest)
        source = chance.choice(sorted(places))
        target = f"{chance.choice(['left', 'right'])}/{chance.choice('abcdef')}"
        if target == source:
            return
        number = places.pop(source)
        if target in places:
            places[source] = places[target]
        places[target] = number
        self.places.begin(places)
        renameat2(-100, os.fsencode(here / source), -100, os.fsencode(here / target), RENAME_EXCHANGE if source in places else 0)
        if chance.random() < 0.6:
            sync(here / "left")
            sync(here / "right")
            self.places.settle()

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        found = {f"{side}/{path.name}" for side in ("left", "right") for path in (here / side).iterdir()}
        for places in self.places.possible(cut):
            if set(places) == found and all(
                (here / place / "inner" / f"file{each}").read_bytes() == content((number, each), 500)
                for place, number in places.items()
                for each in range(5)
            ):
                return
        yield f"has {sorted(found)}, which is none of {self.places.possible(cut)}"


class Links(Work):
    """A file of the lower with two names that gets more and loses some, and is written through one of them."""

    def ready(self) -> None:
        self.names = self.history(frozenset({"one", "two"}))
        self.records = self.history(0)

    def prepare(self, here: Path) -> None:
        write(here / "one", b"first\n")
        os.link(here / "one", here / "two")

    def step(self, here: Path, chance: random.Random) -> None:
        names = self.names.latest
        name, action = chance.choice(sorted(names)), chance.randrange(3)
        if action == 0:
            self.records.begin(self.records.latest + 1)
            with open(here / name, "ab") as file:
                file.write(b"%05d\n" % self.records.latest)
                file.flush()
                os.fsync(file.fileno())
            self.records.settle()
            return
        other = chance.choice(["one", "two", "three", "four", "five"])
        if other not in names:
            self.names.begin(names | {other})
            os.link(here / name, here / other)
        elif len(names) > 1:
            self.names.begin(names - {other})
            (here / other).unlink()
        sync(here)
        self.names.settle()

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        found = frozenset(path.name for path in here.iterdir())
        if found not in self.names.possible(cut):
            yield f"has the names {sorted(found)}, none of {[sorted(names) for names in self.names.possible(cut)]}"
            return
        states = [b"first\n" + b"".join(b"%05d\n" % number for number in range(1, count + 1)) for count in self.records.possible(cut)]
        for name in found:
            wrong = mixture((here / name).read_bytes(), states)
            if wrong:
                yield f"{name} {wrong}"
        stats = [(here / name).stat() for name in found]
        if len({st.st_ino for st in stats}) != 1:
            yield f"the names {sorted(found)} are not one file any more"
        if {st.st_nlink for st in stats} != {len(found)}:
            yield f"has {len(found)} names, and the link counts {sorted(st.st_nlink for st in stats)}"


class Removals(Work):
    """Names of the lower, and new ones, that come and go: as files, as directories."""

    def ready(self) -> None:
        self.kinds = [self.history("file" if number % 2 else "directory") for number in range(FILES)]

    def prepare(self, here: Path) -> None:
        for number in range(FILES):
            if number % 2:
                write(here / f"name{number}", b"lower's")
            else:
                (here / f"name{number}").mkdir()

    def step(self, here: Path, chance: random.Random) -> None:
        number = chance.randrange(FILES)
        path, kind = here / f"name{number}", self.kinds[number]
        before = kind.latest
        wanted = chance.choice(["file", "directory", "link"])
        kind.begin("" if before else wanted)
        if before:
            (path.rmdir if before == "directory" else path.unlink)()
        elif wanted == "file":
            write(path, b"upper's")
        elif wanted == "directory":
            path.mkdir()
        else:
            path.symlink_to("upper's")
        if chance.random() < 0.6:
            sync(here)
            for each in self.kinds:
                each.settle()

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        for number, kind in enumerate(self.kinds):
            path, possible = here / f"name{number}", kind.possible(cut)
            found = "link" if path.is_symlink() else "directory" if path.is_dir() else "file" if path.exists() else ""
            if found not in possible:
                yield f"name{number} is {found or 'gone'!r}, not one of {possible}"
            elif found == "directory" and list(path.iterdir()):
                yield f"name{number} is a new directory with something in it"
            elif found == "file" and len(possible) == 1 and path.read_bytes() not in (b"lower's", b"upper's"):
                yield f"name{number} has other content"


class Nameless(Work):
    """Files that are synced before they have a name (O_TMPFILE)."""

    def ready(self) -> None:
        self.named: list[History[bool]] = []

    def step(self, here: Path, chance: random.Random) -> None:
        number = len(self.named)
        self.named.append(self.history(False))
        fd = os.open(here, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.write(fd, content(number, 6000))
            os.fsync(fd)
            self.named[-1].begin(True)
            os.link(f"/proc/self/fd/{fd}", here / f"named{number}", src_dir_fd=0)  # else Python takes link(2), which does not follow
            sync(here)
            self.named[-1].settle()
        finally:
            os.close(fd)

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        for number, named in enumerate(self.named):
            path = here / f"named{number}"
            if path.exists() not in named.possible(cut):
                yield f"{path.name} is {'there' if path.exists() else 'gone'}"
            elif path.exists() and path.read_bytes() != content(number, 6000):
                yield f"{path.name} has other content"


class Transactions(Work):
    """A database of the lower: what was committed is there. `mode` is how SQLite keeps its journal."""

    mode, synchronous = "wal", "full"

    def ready(self) -> None:
        self.rows = self.history(0)
        self._database: Optional[sqlite3.Connection] = None

    def prepare(self, here: Path) -> None:
        with sqlite3.connect(here / "base") as database:
            database.execute("create table numbers (number integer, text)")
            database.executemany("insert into numbers values (?, ?)", [(-1, "x" * 500) for _ in range(400)])
        database.close()

    def step(self, here: Path, chance: random.Random) -> None:
        if self._database is None:
            self._database = sqlite3.connect(here / "base", timeout=30)
            self._database.execute(f"pragma journal_mode={self.mode}")
            self._database.execute(f"pragma synchronous={self.synchronous}")
        self.rows.begin(self.rows.latest + 1)
        with self._database:
            self._database.execute("insert into numbers values (?, ?)", (self.rows.latest, "y" * chance.randrange(900)))
        self.rows.settle()

    def judge(self, here: Path, cut: int) -> Iterator[str]:
        try:
            with sqlite3.connect(here / "base") as database:
                whole = database.execute("pragma integrity_check").fetchone()[0]
                rows = [row[0] for row in database.execute("select number from numbers where number > 0 order by rowid")]
            database.close()
        except sqlite3.DatabaseError as error:
            yield f"the database cannot be read: {error}"
            return
        if whole != "ok":
            yield f"the database is damaged: {whole}"
        if rows != list(range(1, len(rows) + 1)) or len(rows) not in self.rows.possible(cut):
            yield f"the database has {len(rows)} rows, not one of {self.rows.possible(cut)}"


class Rollbacks(Transactions):
    """The same with a journal that is removed at each commit. SQLite promises it is only with `extra`, which syncs the directory."""

    mode, synchronous = "delete", "extra"


WORKS: tuple[Callable[[Clock], Work], ...] = (
    Creations, Replacements, Attributes, Data, Directories, Links, Removals, Nameless, Transactions, Rollbacks,
)
