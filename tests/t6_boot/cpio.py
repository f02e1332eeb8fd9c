"""Initramfs archives: unpack the compression of a distribution's initrd and append files to it.

The kernel unpacks concatenated "newc" archives one after the other, later files over earlier ones (in its documentation:
driver-api/early-userspace/buffer-format.rst). What follows a *compressed* archive is ignored by some kernels, depending on the
compression, so the image's own is decompressed here; that also saves the guest, which has the slower CPU, from doing it.
"""
from __future__ import annotations

import gzip
import lzma
import stat
import subprocess
from pathlib import Path

from tests.t6_boot.disk import BuildError

_NEWC = b"070701"
_TRAILER = "TRAILER!!!"
_PROGRAMS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}


def archive(files: dict[str, bytes | Path], executable: frozenset[str] = frozenset()) -> bytes:
    """Return a newc archive of ``files`` (path without leading slash, to content or to a file that has it) and their directories."""
    directories = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    parts = [_member(name, stat.S_IFDIR | 0o755, b"") for name in directories]
    for name, content in files.items():
        mode = stat.S_IFREG | (0o755 if name in executable else 0o644)
        parts.append(_member(name, mode, content.read_bytes() if isinstance(content, Path) else content))
    return b"".join([*parts, _member(_TRAILER, 0, b"")])


def _member(name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = _NEWC + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def uncompressed(initrd: bytes) -> bytes:
    """Return ``initrd`` with its compressed part unpacked; uncompressed archives before it (microcode) stay where they are."""
    start = _end_of_plain_archives(initrd)
    return _padded(initrd[:start]) + _decompress(initrd[start:])


def _end_of_plain_archives(initrd: bytes) -> int:
    position = 0
    while initrd[position : position + 6] == _NEWC:
        size = int(initrd[position + 54 : position + 62], 16)
        name_size = int(initrd[position + 94 : position + 102], 16)
        data = position + 110 + name_size
        position = data + -data % 4 + size
        position += -position % 4
        while initrd[position : position + 1] == b"\0":
            position += 1
    return position


def _decompress(data: bytes) -> bytes:
    if not data:
        return data
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:6] == b"\xfd7zXZ\0":
        return lzma.decompress(data)
    program = _PROGRAMS.get(data[:4])
    if program is None:
        raise BuildError(f"the initrd is compressed in a way not known here (it starts with {data[:4].hex()})")
    return subprocess.run([program, "-d", "-c", "-q"], input=data, stdout=subprocess.PIPE, check=True).stdout
