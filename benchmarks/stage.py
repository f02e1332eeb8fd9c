"""The place where it is measured: lower layers on an ext4 file system of their own, uppers in memory, all in one temporary directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Optional

_IMAGE_BYTES, _IMAGE_INODES = 8 << 30, 700_000  # of the lower's file system, at full scale


class BenchError(Exception):
    """Nothing can be measured; the message says why, and what would help."""


def run(*command: object, **options: str) -> str:
    """Run a command and return what it prints; `options` are variables of its environment. Raises OSError with its last words.

    Without a limit of time: waiting with one is to look now and then, at intervals of up to 50 ms.
    """
    words = [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in command]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **options}
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise OSError(f"{words[0]}: exit code {done.returncode}: {said[-1] if said else 'said nothing'}")
    return done.stdout


@dataclass(frozen=True)
class Layers:
    """What one turn mounts: `lowers` topmost first; `upper`, `work` and the mount point `point`, all new, below `base`."""

    base: Path
    lowers: tuple[Path, ...]
    changes: bool

    @property
    def upper(self) -> Path:
        return self.base / "upper"

    @property
    def work(self) -> Path:
        return self.base / "work"

    @property
    def point(self) -> Path:
        return self.base / "union"

    def lowerdir(self) -> str:
        return ":".join(map(str, self.lowers))


class Stage:
    """A context with the place; `scale`: how large everything is, 1 for all of it."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self._base = Path()
        self._mounted: list[Path] = []
        self._turns = 0

    @property
    def lower(self) -> Path:
        """The root of the ext4 file system with the lower layers."""
        return self._base / "lower"

    @property
    def _memory(self) -> Path:
        return self._base / "memory"

    def __enter__(self) -> Stage:
        if os.geteuid() != 0:
            raise BenchError("mounting the layers needs root: run it as root, or with sudo")
        self._base = Path(tempfile.mkdtemp(prefix="cowroot-bench-"))
        os.chmod(self._base, 0o755)
        try:
            self._set_up()
        except OSError as e:
            self.__exit__(None, None, None)
            raise BenchError(f"no place to measure in: {e}") from None
        return self

    def _set_up(self) -> None:
        for directory in (self.lower, self._memory):
            directory.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=90%,mode=755", "tmpfs", self._memory)
        # In memory, too: a disk would add its own moods to each cold row, the same to all.
        image = self._memory / "lower.ext4"
        share = min(1.0, max(self.scale, 0.1))
        with open(image, "wb") as file:
            file.truncate(int(_IMAGE_BYTES * share))
        run(
            "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-N", max(200_000, int(_IMAGE_INODES * share)), "-E", "lazy_itable_init=0", image
        )
        self._mount("-o", "loop,noatime", image, self.lower)

    def _mount(self, *arguments: object) -> None:
        run("mount", *arguments)
        self._mounted.append(Path(str(arguments[-1])))

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        while self._mounted:
            run("umount", "-l", self._mounted.pop())
        for directory in (self.lower, self._memory):
            if directory.exists():
                directory.rmdir()
        self._base.rmdir()

    def seal(self) -> None:
        """The lower layers are made: from now on nobody writes to them, and they are read from their file system as it would be found."""
        run("sync", "-f", self.lower)
        run("mount", "-o", "remount,ro", self.lower)

    def layers(self, lowers: Sequence[Path], changes: bool) -> Layers:
        """New directories for a turn."""
        self._turns += 1
        made = Layers(self._memory / f"turn{self._turns}", tuple(lowers), changes)
        for directory in (made.base, made.upper, made.work, made.point):
            directory.mkdir()
        return made

    def discard(self, layers: Layers) -> None:
        """The turn is over. Raises OSError if something is still mounted there."""
        if os.path.ismount(layers.point):
            raise OSError(f"{layers.point} is still mounted")
        shutil.rmtree(layers.base)


def drop_caches(names_only: bool) -> None:
    """Have the kernel forget what it need not remember: names and inodes, or these and the contents of files (proc(5), drop_caches)."""
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("2\n" if names_only else "3\n")
