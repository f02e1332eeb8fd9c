"""The two facts about a program or library that decide whether a machine can run it: elf(5)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_PT_NOTE = 4
_NT_GNU_ABI_TAG = 1
_HEADER = 64
# EM_… of elf.h, as uname has them.
MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


def machine_in(header: bytes) -> int:
    """Return for which processor the file is, whose first 64 bytes these are (e_machine); 0 if it is no program."""
    if header[:4] != b"\x7fELF" or len(header) < 20:
        return 0
    machine: int = struct.unpack_from("<H" if header[5] == 1 else ">H", header, 18)[0]
    return machine


def machine_of(path: Path) -> int:
    """As `machine_in`, of a file of this machine."""
    with path.open("rb") as file:
        return machine_in(file.read(_HEADER))


def oldest_kernel(path: Path) -> tuple[int, ...]:
    """Return the oldest Linux that a C library of this machine runs on, by its note GNU/ABI-tag; empty if it does not say.

    An older kernel ends every program that uses it with "FATAL: kernel too old".
    """
    content = path.read_bytes()
    order = "<" if content[5] == 1 else ">"
    for offset, size in _segments(content, order):
        end = offset + size
        while offset + 12 <= end:
            name_size, size_of_it, kind = struct.unpack_from(f"{order}III", content, offset)
            name_at = offset + 12
            at = name_at + -(-name_size // 4) * 4
            if kind == _NT_GNU_ABI_TAG and content[name_at : name_at + name_size] == b"GNU\0" and size_of_it >= 16:
                system, *version = struct.unpack_from(f"{order}IIII", content, at)
                return tuple(version) if system == 0 else ()
            offset = at + -(-size_of_it // 4) * 4
    return ()


def _segments(content: bytes, order: str) -> Iterator[tuple[int, int]]:
    """Yield where the notes of a file are: offset and size in bytes."""
    wide = content[4] == 2
    table = struct.unpack_from(f"{order}Q" if wide else f"{order}I", content, 32 if wide else 28)[0]
    entry_size, count = struct.unpack_from(f"{order}HH", content, 54 if wide else 42)
    for number in range(count):
        entry = table + number * entry_size
        if struct.unpack_from(f"{order}I", content, entry)[0] == _PT_NOTE:
            offset = struct.unpack_from(f"{order}Q" if wide else f"{order}I", content, entry + (8 if wide else 4))[0]
            size = struct.unpack_from(f"{order}Q" if wide else f"{order}I", content, entry + (32 if wide else 16))[0]
            yield offset, size
