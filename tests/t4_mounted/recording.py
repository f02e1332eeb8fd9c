"""A disk that keeps a record of what is written to it, and what it may hold after a power cut.

The disk is a loop device over a file that a small FUSE file system serves. That is asked for each write, and for an fsync each time the
device is flushed (drivers/block/loop.c, lo_req_flush), and notes them in order. After a cut a disk holds all that was written before the
last flush, and of the rest any sectors or none.
"""

from __future__ import annotations

import array
import errno
import multiprocessing
import os
import random
import stat
import subprocess
import time
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO

from fuse import FUSE, FuseOSError, Operations

from tests.behaviour.backends import MKFS, mount_image, run

FLUSH = -1  # in the place of an offset
SECONDS = 30
# bytes that a disk writes whole or not at all. btrfs takes the superblock of a disk whose sectors are smaller than its blocks for damaged.
SECTOR = {"ext4": 512, "xfs": 512, "btrfs": 4096}


class Clock:
    """How many writes and flushes the disk has seen, for all processes to read."""

    def __init__(self) -> None:
        self._memory = mmap(-1, 4096)

    def now(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    def tick(self) -> None:
        self._memory[:8] = (self.now() + 1).to_bytes(8, "little")


class _Server(Operations):  # type: ignore[misc]
    """The file system with the one file `disk`."""

    use_ns = True  # of times there are none, but fusepy warns of the other choice

    def __init__(self, image: Path, record: Path, clock: Clock) -> None:
        self._fd = os.open(image, os.O_RDWR)
        self._index, self._data = open(record / "index", "wb"), open(record / "data", "wb")  # noqa: SIM115
        self._clock = clock

    def getattr(self, path: str, fh: Any = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path != "/disk":
            raise FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": os.fstat(self._fd).st_size}

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        os.pwrite(self._fd, data, offset)
        self._data.write(data)
        self._note(offset, len(data))
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._note(FLUSH, 0)
        return 0

    def _note(self, offset: int, size: int) -> None:
        self._index.write(array.array("q", (offset, size)).tobytes())
        self._clock.tick()

    def destroy(self, path: str) -> None:
        self._index.close()
        self._data.close()


def _serve(image: Path, record: Path, point: Path, clock: Clock) -> None:
    FUSE(_Server(image, record, clock), os.fspath(point), foreground=True, nothreads=True, direct_io=True, big_writes=True)


class RecordingDisk:
    """A file system of one `kind` on a recording disk below `base`, mounted at `base/disk`. A context that leaves nothing mounted."""

    def __init__(self, base: Path, kind: str, mib: int = 320) -> None:
        self.base, self.kind, self.mounted = base, kind, base / "disk"
        self.clock = Clock()
        self.first = base / "first.image"  # as it was before anything was recorded
        self._image, self._served = base / "image", base / "served"
        for directory in (self.mounted, self._served):
            directory.mkdir(parents=True)
        self._image.touch()
        os.truncate(self._image, mib << 20)
        run(*MKFS[kind], self._image)
        copy(self._image, self.first)
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_serve, args=(self._image, base, self._served, self.clock))

    def __enter__(self) -> RecordingDisk:
        self._process.start()
        deadline = time.monotonic() + SECONDS
        while not (self._served / "disk").exists():
            assert time.monotonic() < deadline and self._process.is_alive(), "the recording disk is not served"
            time.sleep(0.02)
        mount_image(os.fsencode(self._served / "disk"), os.fsencode(self.mounted), "rw")
        return self

    def __exit__(self, *_exception: object) -> None:
        # a daemon lets go of its layers a moment after its union is unmounted, and the loop device of the file a moment after that
        for place in (self.mounted, self._served):
            unmount(place)
        self._process.join(SECONDS)

    def record(self) -> Record:
        """What was recorded; to be asked for when the disk is closed."""
        return Record(self.base, SECTOR[self.kind])


class Record:
    """All writes and flushes of a disk in their order, and the disk as it was before them."""

    def __init__(self, base: Path, sector: int) -> None:
        self._base, self._sector = base, sector
        index = array.array("q", (base / "index").read_bytes())
        self._writes = list(zip(index[::2], index[1::2]))
        self._data: BinaryIO = open(base / "data", "rb")  # noqa: SIM115
        self._settled = base / "settled.image"  # the first image, and all writes before `_done`
        copy(base / "first.image", self._settled)
        self._done = 0

    def __len__(self) -> int:
        return len(self._writes)

    @property
    def flushes(self) -> int:
        return sum(offset == FLUSH for offset, _ in self._writes)

    def moments(self, count: int, began: int, end: int, chance: random.Random) -> list[int]:
        """Choose when to cut: half of the moments at random, half of them where most writes were on their way."""
        since = 0
        waiting = []
        for number in range(began, end):
            since = 0 if self._writes[number][0] == FLUSH else since + 1
            waiting.append((since, chance.random(), number + 1))
        crowded = sorted(waiting)[-max(count, len(waiting) // 20) :]
        moments = [chance.randrange(began, end) if number % 2 else chance.choice(crowded)[2] for number in range(count)]
        return sorted(moments)

    def cut(self, moment: int, chance: random.Random, image: Path) -> int:
        """Write to `image` what the disk may hold if its power goes when it has seen `moment` writes and flushes.

        Moments have to be asked for in ascending order. Returns how many writes were at risk.
        """
        flush = max((number for number in range(self._done, moment) if self._writes[number][0] == FLUSH), default=self._done)
        with open(self._settled, "r+b") as settled:
            for number in range(self._done, flush):
                self._write(settled, number)
        self._done = flush
        copy(self._settled, image)
        kept, torn = chance.choice((0.0, 0.2, 0.5, 0.8, 1.0)), chance.choice((0.0, 0.3))
        data = self._data.tell()
        with open(image, "r+b") as file:
            for number in range(flush, moment):
                self._write(file, number, chance, kept, torn)
        self._data.seek(data)
        return moment - flush

    def _write(self, file: BinaryIO, number: int, chance: random.Random | None = None, kept: float = 1.0, torn: float = 0.0) -> None:
        offset, size = self._writes[number]
        if offset == FLUSH:
            return
        data = self._data.read(size)
        if chance is None:
            file.seek(offset)
            file.write(data)
        elif chance.random() < torn:
            for start in range(0, size, self._sector):
                if chance.random() < 0.5:
                    file.seek(offset + start)
                    file.write(data[start : start + self._sector])
        elif chance.random() < kept:
            file.seek(offset)
            file.write(data)

    def close(self) -> None:
        self._data.close()


def unmount(place: Path) -> None:
    """Unmount what somebody may be about to let go of."""
    deadline = time.monotonic() + SECONDS
    while (done := subprocess.run(["umount", place], stderr=subprocess.PIPE, text=True, check=False)).returncode:
        if time.monotonic() > deadline:
            subprocess.run(["umount", "-l", place], check=False)
            raise AssertionError(f"{place} stayed in use: {done.stderr}")
        time.sleep(0.05)


def copy(source: Path, target: Path) -> None:
    """Copy an image; its holes stay holes."""
    run("cp", "--sparse=always", "--reflink=auto", "--remove-destination", source, target)
