"""What is mounted, as the kernel tells in /proc/self/mountinfo (Documentation/filesystems/proc.rst, 3.5)."""

from __future__ import annotations

import os
from typing import NamedTuple

TABLE = "/proc/self/mountinfo"


class Mount(NamedTuple):
    """A line of the table: `device` as MAJOR:MINOR, `options` of the mount point, `super_options` of the file system."""

    device: str
    point: str
    options: str
    kind: str
    source: str
    super_options: str

    @property
    def writable(self) -> bool:
        return "rw" in self.options.split(",") and self.opened

    @property
    def opened(self) -> bool:
        """Whether the file system can be written, through this mount of it or another."""
        return "rw" in self.super_options.split(",")


def mounts(table: str | os.PathLike[str] = TABLE) -> list[Mount]:
    """All mounts of this namespace, in the order in which they were made; `table`: where a test has laid out another."""
    found = []
    with open(table, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            # the optional fields in the middle end with a dash
            before, _, after = line.rstrip("\n").partition(" - ")
            _, _, device, _, point, options = before.split(" ")[:6]
            kind, source, super_options = after.split(" ")
            found.append(Mount(device, _plain(point), options, kind, _plain(source), super_options))
    return found


def mounted_at(point: str, table: str | os.PathLike[str] = TABLE) -> Mount | None:
    """The topmost mount at the path `point`, which has to be absolute and free of links."""
    return next((m for m in reversed(mounts(table)) if m.point == point), None)


def _plain(text: str) -> str:
    first, *others = text.split("\\")  # each backslash begins three octal digits
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in others)
