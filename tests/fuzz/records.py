"""The records of an installation, as an image that means harm may bring them along: manifest and journal."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

from cowroot.errors import CowrootError
from cowroot.install.journal import JOURNAL, settle, undo
from cowroot.install.manifest import FORMAT, MANIFEST, drift, read_manifest
from cowroot.install.tree import Tree
from tests.fuzz.bytes import mutated

TREE = ("etc/cowroot", "var/lib/cowroot/originals", "boot/grub", "usr/lib", "tmp")
PATHS = [
    "/etc/cowroot", "/etc/cowroot/cowroot.yaml", "/etc/link/file", "/etc/out/file", "/etc/up/file", "/../outside/file",
    "/etc/../../outside/file",
    "/", "//", "", "etc", "/etc/", "/var/lib/cowroot", "/var/lib/cowroot/manifest.json", "/var/lib", "/x" * 3000, "/" + "x" * 300, "/a\0b",
    "/etc/fifo", "/etc/device", "/etc/\udc80", "/etc/out", "/etc/self", "/etc/self/file", "/usr/lib/new", "/tmp/\n",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 1 << 63, -(1 << 63), 1 << 70, 1.5, 1e308, "", "y", "0644", "7777", "99999", "0" * 64, "../" * 30 + "outside/file",
    [], {},
    [[]], {"a": 1}, "file", "link", "directory", "install", "uninstall", "\udc80", "é" * 3000,
]  # fmt: skip
WORDS = [b"[" * 100_000, b'{"a":' * 50_000, b"\x00", b"\xff", b"NaN", b"Infinity", b"9" * 5000, b'"', b"\\u0000", b"\\ud800", b"null"]


def records(chance: random.Random) -> None:
    """Look at an image with such records, go on with what they say was interrupted, undo what they say was installed."""
    with tempfile.TemporaryDirectory(prefix="cowroot-fuzz-") as directory:
        root, outside = Path(directory, "root"), Path(directory, "outside")
        for name in TREE:
            (root / name).mkdir(parents=True)
        outside.mkdir()
        for place in (outside, root / "etc/cowroot", root / "var/lib/cowroot/originals"):
            (place / "file").write_text("as it was")
        (root / "var/lib/cowroot/originals" / ("0" * 64)).write_text("original")
        for name, target in {"link": "cowroot", "out": str(outside), "up": "../" * 30 + str(outside), "self": "self"}.items():
            (root / "etc" / name).symlink_to(target)
        os.mkfifo(root / "etc/fifo")
        _write(chance, root / MANIFEST.lstrip("/"), _manifest(chance))
        if chance.random() < 0.5:
            _write(chance, root / JOURNAL.lstrip("/"), _journal(chance))
        with Tree(root) as tree:
            _use(tree)
        assert os.listdir(outside) == ["file"] and (outside / "file").read_text() == "as it was"
        assert sorted(os.listdir(directory)) == ["outside", "root"]


def _use(tree: Tree) -> None:
    """OSError and CowrootError are answers."""
    try:
        manifest = read_manifest(tree)
        if manifest is not None:
            drift(tree, manifest)
    except (OSError, CowrootError):
        pass
    try:
        settle(tree, lambda _: None, force=True)
        manifest = read_manifest(tree)
        if manifest is not None:
            undo(tree, manifest)
    except (OSError, CowrootError):
        pass


def _write(chance: random.Random, path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(_tampered(chance, data)).encode()
    path.write_bytes(mutated(chance, text, WORDS) if chance.random() < 0.3 else text)


def _state(chance: random.Random) -> dict[str, Any]:
    state: dict[str, Any] = {"kind": chance.choice(("file", "link", "directory")), "mode": "0644", "uid": 0, "gid": 0, "mtime_ns": 1}
    if state["kind"] == "file":
        state.update(size=8, sha256="0" * 64)
    if state["kind"] == "link":
        state["target"] = chance.choice(PATHS).replace("\0", "") or "x"
    if chance.random() < 0.3:
        state["xattrs"] = {chance.choice(("user.a", "trusted.overlay.opaque", "security.capability", "x", "")): "AAAA"}
    return state


def _records(chance: random.Random) -> list[dict[str, Any]]:
    states = [None, _state(chance), _state(chance)]
    return [
        {"path": chance.choice(PATHS), "origin": "rendered", "before": chance.choice(states), "after": chance.choice(states)}
        for _ in range(chance.randrange(6))
    ]


def _manifest(chance: random.Random) -> dict[str, Any]:
    return {
        "format": FORMAT, "version": "1", "kernels": ["6.1"], "var_lib_mtime_ns": 1, "records": _records(chance),
        "directories": {chance.choice(PATHS): [1, 2] for _ in range(2)},
    }  # fmt: skip


def _journal(chance: random.Random) -> dict[str, Any]:
    manifest = json.dumps(_manifest(chance)) if chance.random() < 0.5 else None
    return {
        "format": FORMAT, "verb": chance.choice(("install", "uninstall")), "records": _records(chance), "manifest": manifest,
        "directories": {chance.choice(PATHS): 5}, "var_lib_mtime_ns": 1,
    }  # fmt: skip


def _tampered(chance: random.Random, data: Any) -> Any:
    """With a value somewhere in it that does not belong there, mostly; sometimes with a key missing."""
    if chance.random() < 0.03:
        return chance.choice(VALUES)
    if isinstance(data, dict):
        return {key: _tampered(chance, value) for key, value in data.items() if chance.random() > 0.01}
    if isinstance(data, list):
        return [_tampered(chance, value) for value in data]
    return data
