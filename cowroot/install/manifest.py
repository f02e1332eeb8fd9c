"""What an installation changed in a target: /var/lib/cowroot/manifest.json.

One record for each path, with the state before (None: there was nothing) and after. The content of what was there before is beside the
manifest, as originals/<SHA-256>. Records are what `uninstall` undoes and what `status` compares with the target.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowroot.errors import ConflictError, CowrootError
from cowroot.install.state import State, absolute_path, look, whole_number
from cowroot.install.tree import Tree

STATE_DIRECTORY = "/var/lib/cowroot"
MANIFEST = f"{STATE_DIRECTORY}/manifest.json"
ORIGINALS = f"{STATE_DIRECTORY}/originals"
FORMAT = 1

RENDERED, PAYLOAD, GENERATED = "rendered", "payload", "generated"
"""Where a record comes from: a template, cowroot's own code, or a tool of the target (initrds, grub.cfg)."""


@dataclass(frozen=True)
class Record:
    """One path that was changed."""

    path: str
    origin: str
    before: State | None
    after: State | None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "origin": self.origin,
            "before": self.before.to_json() if self.before else None,
            "after": self.after.to_json() if self.after else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        before, after = data["before"], data["after"]
        return cls(
            path=absolute_path(data["path"]),
            origin=data["origin"],
            before=State.from_json(before) if before else None,
            after=State.from_json(after) if after else None,
        )


@dataclass(frozen=True)
class Times:
    """Modification times (nanoseconds) of a directory that was there before: as it was, and as the installation left it."""

    before: int
    after: int


@dataclass(frozen=True)
class Manifest:
    """An installation.

    version: of the cowroot that made it. kernels: the releases whose initrds it rebuilt. records: by path. directories: those that were
    there before and had something put into them. var_lib_mtime_ns: of /var/lib before the state directory was made in it.
    """

    version: str
    kernels: tuple[str, ...]
    records: dict[str, Record]
    directories: dict[str, Times]
    var_lib_mtime_ns: int

    def to_text(self) -> str:
        data = {
            "format": FORMAT,
            "version": self.version,
            "kernels": list(self.kernels),
            "var_lib_mtime_ns": self.var_lib_mtime_ns,
            "directories": {path: [times.before, times.after] for path, times in sorted(self.directories.items())},
            "records": [self.records[path].to_json() for path in sorted(self.records)],
        }
        return json.dumps(data, indent=1) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """Undo `to_text`. Raises CowrootError if it is not a manifest that this version understands."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise CowrootError(
                    f"{MANIFEST} has format {data['format']}, this cowroot knows {FORMAT}", hint="use the cowroot that installed it"
                )
            records = [Record.from_json(record) for record in data["records"]]
            return cls(
                version=data["version"],
                kernels=tuple(data["kernels"]),
                records={record.path: record for record in records},
                directories={absolute_path(path): Times(*map(whole_number, times)) for path, times in data["directories"].items()},
                var_lib_mtime_ns=whole_number(data["var_lib_mtime_ns"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CowrootError(f"{MANIFEST} is damaged ({error!r})", hint="restore it from a backup of the image") from None

    def originals(self) -> set[str]:
        """Return the SHA-256 of every content that `uninstall` will need."""
        return {record.before.sha256 for record in self.records.values() if record.before and record.before.sha256}


@dataclass(frozen=True)
class Drift:
    """A path that is no longer as it was installed; `what` says how, in a few words."""

    path: str
    origin: str
    what: str


def read_manifest(root: Tree | str | Path) -> Manifest | None:
    """Return the manifest of the installation in `root`, None if there is none. Raises CowrootError for a damaged one."""
    if not isinstance(root, Tree):
        with Tree(root) as tree:
            return read_manifest(tree)
    try:
        return Manifest.from_text(root.read_text(MANIFEST))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def drift(root: Tree | str | Path, manifest: Manifest, paths: Iterable[str] | None = None) -> list[Drift]:
    """Return where `root` differs from its manifest, sorted by path. Reads every file of it, or only `paths`."""
    if not isinstance(root, Tree):
        with Tree(root) as tree:
            return drift(tree, manifest, paths)
    found = []
    for path in sorted(manifest.records if paths is None else paths):
        record = manifest.records[path]
        what = _difference(record.after, look(root, path))
        if what:
            found.append(Drift(path, record.origin, what))
    return found


def refuse_drift(found: list[Drift], what_force_does: str) -> None:
    """Raise ConflictError if there is any drift; `what_force_does` completes "--force …"."""
    if found:
        lines = "".join(f"\n  {each.path} {each.what}" for each in found)
        raise ConflictError(
            f"these files were changed since they were installed:{lines}", hint=f"save what you need of them; --force {what_force_does}"
        )


def _difference(expected: State | None, found: State | None) -> str:
    if expected is None:
        return "is back" if found else ""
    if found is None:
        return "is gone"
    if expected.same(found):
        return ""
    if expected.kind != found.kind:
        return f"is a {found.kind}, not a {expected.kind}"
    if expected.sha256 != found.sha256:
        return "has other content"
    if expected.target != found.target:
        return f"leads to {found.target}, not {expected.target}"
    return "has another mode, owner or attributes"
