"""What goes through the daemon's sockets: text, descriptors beside it, JSON.

It does without Python's json, socket and array: they would be a good part of what the daemon imports, and a boot waits for that.
"""

from __future__ import annotations

import _socket
import os
import struct
from typing import Any, NamedTuple

MOST_DESCRIPTORS = 1  # beside one message
_INT = struct.calcsize("i")


class Received(NamedTuple):
    """A message: `text`, nothing if the other end is closed, and the descriptors that came with it."""

    text: bytes
    fds: list[int]

    def close(self) -> None:
        """Let go of the descriptors."""
        while self.fds:
            os.close(self.fds.pop())


def receive(connection: _socket.socket, flags: int = 0) -> Received:
    """A short message from a Unix socket, and the descriptors that are with it; `flags` of recvmsg(2). Raises OSError."""
    text, ancillary, _, _ = connection.recvmsg(256, _socket.CMSG_SPACE(MOST_DESCRIPTORS * _INT), flags | _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += [fd for (fd,) in struct.iter_unpack("i", data[: len(data) - len(data) % _INT])]
    return Received(text, fds)


def send(connection: _socket.socket, text: bytes, *fds: int) -> None:
    """Send `text` through a Unix socket, and descriptors with it, which stay open here, too. Raises OSError."""
    connection.sendmsg([text], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else [])


def peer_of(connection: _socket.socket) -> tuple[int, int]:
    """The process, and its user, that made the other end of a Unix socket: unix(7), SO_PEERCRED. Raises OSError."""
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 3 * _INT)
    pid, uid, _ = struct.unpack("3i", credentials)
    return int(pid), int(uid)


def as_line(value: Any) -> bytes:
    """`value` as a line of JSON."""
    return as_json(value).encode() + b"\n"


def as_json(value: Any) -> str:
    """`value` as JSON (RFC 8259): objects and arrays of strings, numbers, truth values and None."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(map(_as_json_character, value)) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_json(str(key))}: {as_json(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(as_json, value)) + "]"


def _as_json_character(character: str) -> str:
    if " " <= character <= "~" and character not in '"\\':
        return character
    code = character.encode("utf-16-be", "surrogatepass").hex()  # a path may hold any byte, kept as half a surrogate pair
    return "".join(f"\\u{code[place : place + 4]}" for place in range(0, len(code), 4))
