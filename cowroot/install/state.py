"""What is at a path, in full: enough to tell whether it changed, and, with its content kept, to put it back."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass, field, replace
from typing import Any

from cowroot.errors import TargetError
from cowroot.install.tree import Tree

FILE, LINK, DIRECTORY = "file", "link", "directory"
_BLOCK = 1 << 20
_SHA256 = re.compile("[0-9a-f]{64}")
_MODE = re.compile("[0-7]{4}")
# Written by the kernel for its own overlays only; on a staged file they say nothing about it.
_OVERLAY_XATTRS = "trusted.overlay."


@dataclass(frozen=True)
class State:
    """A regular file, symbolic link or directory.

    mode holds permission bits, mtime_ns nanoseconds since 1970; size (bytes) and sha256 belong to files, target to links.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)

    def same(self, other: State | None) -> bool:
        """Tell whether both are the same but for the time of their last change."""
        return other is not None and self._but_mtime() == other._but_mtime()

    def _but_mtime(self) -> tuple[object, ...]:
        return (self.kind, self.mode, self.uid, self.gid, self.sha256, self.target, self.xattrs)

    def on_fat(self) -> State:
        """Return it as it is on FAT, where permissions and owners are those of the mount."""
        return replace(self, mode=0o755 if self.kind == DIRECTORY else 0o644, uid=0, gid=0, xattrs={})

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"kind": self.kind, "mode": f"{self.mode:04o}", "uid": self.uid, "gid": self.gid, "mtime_ns": self.mtime_ns}
        if self.kind == FILE:
            data.update(size=self.size, sha256=self.sha256)
        if self.kind == LINK:
            data["target"] = self.target
        if self.xattrs:
            data["xattrs"] = {name: base64.b64encode(value).decode() for name, value in self.xattrs.items()}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> State:
        """Undo `to_json`. Raises KeyError, TypeError or ValueError for anything else: what is read here came with the image."""
        kind, digest, target = data["kind"], data.get("sha256", ""), data.get("target", "")
        if kind not in (FILE, LINK, DIRECTORY) or not isinstance(target, str) or "\0" in target:
            raise ValueError("not a file, link or directory")
        if not (_SHA256.fullmatch(digest) if kind == FILE else digest == ""):
            raise ValueError("not a SHA-256")
        if not _MODE.fullmatch(data["mode"]):
            raise ValueError("not permission bits")
        return cls(
            kind=kind,
            mode=int(data["mode"], 8),
            uid=_owner(data["uid"]),
            gid=_owner(data["gid"]),
            mtime_ns=whole_number(data["mtime_ns"]),
            size=whole_number(data.get("size", 0)),
            sha256=digest,
            target=target,
            xattrs={name: base64.b64decode(value, validate=True) for name, value in data.get("xattrs", {}).items()},
        )


def whole_number(value: Any) -> int:
    """Return a number read from JSON. Raises ValueError for what is none, or none that a file can have."""
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise ValueError("a number that no file has")
    return value


def _owner(value: Any) -> int:
    if not 0 <= whole_number(value) < 0xFFFFFFFF:  # the last one means "leave it" (chown(2))
        raise ValueError("not a user or group")
    return int(value)


def absolute_path(value: Any) -> str:
    """Return a path in the target read from JSON. Raises ValueError for what is none."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("not an absolute path")
    return value


def look(tree: Tree, path: str) -> State | None:
    """Return what is at `path` (not following a link there), None for nothing.

    Raises TargetError for devices, FIFOs and sockets: nothing that cowroot replaces or makes is one.
    """
    try:
        found = tree.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    state = _state(tree, path, found)
    return state.on_fat() if tree.is_on_fat(path) else state


def _state(tree: Tree, path: str, found: os.stat_result) -> State:
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return State(LINK, mode, found.st_uid, found.st_gid, found.st_mtime_ns, target=tree.readlink(path))
    if stat.S_ISDIR(found.st_mode):
        return State(DIRECTORY, mode, found.st_uid, found.st_gid, found.st_mtime_ns, xattrs=_xattrs(tree, path))
    if stat.S_ISREG(found.st_mode):
        fd = tree.open_file(path)
        try:
            digest = digest_of(fd)
        finally:
            os.close(fd)
        return State(
            FILE, mode, found.st_uid, found.st_gid, found.st_mtime_ns, size=found.st_size, sha256=digest, xattrs=_xattrs(tree, path)
        )
    raise TargetError(f"{path} in the target is a device, FIFO or socket", hint="remove it: a regular file belongs there")


def _xattrs(tree: Tree, path: str) -> dict[str, bytes]:
    return {name: value for name, value in tree.xattrs(path).items() if not name.startswith(_OVERLAY_XATTRS)}


def digest_of(fd: int) -> str:
    """Return the SHA-256 of an open file's content, from its beginning."""
    digest = hashlib.sha256()
    os.lseek(fd, 0, os.SEEK_SET)
    while block := os.read(fd, _BLOCK):
        digest.update(block)
    return digest.hexdigest()
