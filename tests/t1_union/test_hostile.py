"""Layers that somebody has tampered with: each of these was found by random ones (tests/fuzz/layers.py)."""

from __future__ import annotations

import errno
import os

import pytest

from tests.t1_union.conftest import ROOT, Bench


def truncate(bench: Bench, name: str) -> None:
    bench.union.setattr(bench.node(name), size=0, mode=0o777)


def test_an_index_entry_that_is_a_link_leads_nowhere(bench: Bench) -> None:
    """By the lower's word it is a regular file: truncating it by name would reach what it points to, as root."""
    outside = bench.base / "outside"
    outside.write_text("as it was")
    outside.chmod(0o644)
    (bench.lower / "a").write_text("below")
    os.link(bench.lower / "a", bench.lower / "b")
    bench.write("a", b"x")
    bench.close()
    [entry] = (bench.work / "cowroot/index").iterdir()
    (bench.upper / "a").unlink()
    entry.unlink()
    entry.symlink_to(outside)
    for name in ("a", "b"):
        with pytest.raises(OSError) as caught:
            truncate(bench, name)
        assert caught.value.errno == errno.EIO
    assert outside.read_text() == "as it was"
    assert outside.stat().st_mode & 0o777 == 0o644


def test_one_damaged_name_does_not_hide_the_others(bench: Bench) -> None:
    """Nor can the directory that holds it, and be it the root, no longer be looked at."""
    (bench.lower / "directory").mkdir()
    (bench.lower / "file").write_text("below")
    bench.union.mkdir(bench.union.root, b"new", 0o755, ROOT)
    bench.union.setattr(bench.node("directory"), mode=0o700)
    bench.close()
    os.setxattr(bench.upper / "directory", "trusted.overlay.redirect", b"/../..")
    assert bench.union.getattr(bench.union.root).nlink == 4
    handle = bench.union.opendir(bench.union.root)
    assert sorted(entry.name for entry in bench.union.readdir(handle)[2:]) == [b"directory", b"file", b"new"]
    bench.union.releasedir(handle)
    with pytest.raises(OSError) as caught:
        bench.node("directory")
    assert caught.value.errno == errno.EIO


def test_nothing_is_made_in_what_is_no_directory(bench: Bench) -> None:
    (bench.lower / "file").write_text("below")
    with pytest.raises(NotADirectoryError):
        bench.union.mkdir(bench.node("file"), b"new", 0o755, ROOT)
