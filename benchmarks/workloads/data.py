"""What is in files: large ones, small writes, mappings, a database."""

from __future__ import annotations

import mmap
import os
import random
import sqlite3

from benchmarks.turn import Turn
from benchmarks.workloads import DATA, Row, workload

_NEAR = 1.15
_MEBIBYTE = 1 << 20


@workload(Row("one-byte", "one byte into a 200 MB lower file", DATA, 0.1), lower="big")
def one_byte(turn: Turn) -> None:
    """Open a large file of the lower, write one byte in its middle, close."""
    path = turn.point / "big"
    middle = path.stat().st_size // 2
    with turn.timed("one-byte", 1):
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"!", middle)
        os.close(fd)


@workload(
    Row("write-sequential", "write 256 MB", DATA, _NEAR),
    Row("read-sequential", "read it again", DATA, _NEAR),
)
def stream(turn: Turn) -> None:
    """A new file, written in blocks of 1 MiB and read in blocks of 128 KiB."""
    path, blocks = turn.point / "stream", turn.mebibytes(256)
    block = b"0123456789abcdef" * (_MEBIBYTE // 16)
    with turn.timed("write-sequential", blocks):
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        for _ in range(blocks):
            os.write(fd, block)
        os.close(fd)
    with turn.timed("read-sequential", blocks):
        _read_whole(os.fspath(path))


def _read_whole(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 128 << 10):
        pass
    os.close(fd)


@workload(Row("read-lower-cold", "read a 200 MB lower file, cold", DATA, _NEAR), lower="big", changes=False)
def read_lower(turn: Turn) -> None:
    """A large file of the lower, of which the kernel has no page."""
    path = turn.point / "big"
    blocks = path.stat().st_size // _MEBIBYTE
    turn.forget_all()
    with turn.timed("read-lower-cold", blocks):
        _read_whole(os.fspath(path))


@workload(Row("small-writes", "20,000 writes of 100 bytes", DATA, _NEAR))
def small_writes(turn: Turn) -> None:
    """One new file, written piece by piece without a buffer."""
    count = turn.count(20_000)
    with turn.timed("small-writes", count):
        fd = os.open(turn.point / "log", os.O_CREAT | os.O_WRONLY, 0o644)
        for _ in range(count):
            os.write(fd, b"." * 100)
        os.close(fd)


@workload(Row("mmap", "random writes to a mapping", DATA, _NEAR))
def mapped(turn: Turn) -> None:
    """20,000 stores of 8 bytes, anywhere in a mapping of 64 MB, and msync."""
    size, count = turn.mebibytes(64) * _MEBIBYTE, turn.count(20_000)
    with open(turn.point / "mapped", "wb+") as file:
        file.truncate(size)
        places = random.Random(3).sample(range(0, size - 8, 8), count)
        with turn.timed("mmap", count), mmap.mmap(file.fileno(), size) as mapping:
            for place in places:
                mapping[place : place + 8] = b"8 bytes!"
            mapping.flush()


@workload(Row("sqlite", "600 SQLite transactions (WAL)", DATA, _NEAR))
def transactions(turn: Turn) -> None:
    """A new database in WAL mode; each transaction inserts one row and changes another."""
    count = turn.count(600)
    connection = sqlite3.connect(turn.point / "database", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE visits (id INTEGER PRIMARY KEY, place TEXT, times INTEGER)")
    with turn.timed("sqlite", count):
        for number in range(count):
            connection.execute("BEGIN")
            connection.execute("INSERT INTO visits (place, times) VALUES (?, 0)", (f"place {number}",))
            connection.execute("UPDATE visits SET times = times + 1 WHERE id = ?", (number // 2 + 1,))
            connection.execute("COMMIT")
        connection.close()
