"""Nothing in a hostile tree leads out of it, and nothing in it is opened but regular files."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.install.tree import Tree
from tests.t3_install.fake import Link, make_fake_tree, snapshot


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return make_fake_tree(tmp_path / "outside", {"secret": "of the host", "etc/passwd": "host", "file": "host"})


@pytest.fixture
def tree(tmp_path: Path, outside: Path) -> Iterator[Tree]:
    root = make_fake_tree(
        tmp_path / "root",
        {
            "/usr/lib/os-release": "ID=debian\n",
            "/etc/os-release": Link("../usr/lib/os-release"),
            "/lib": Link("usr/lib"),
            "/absolute": Link("/usr"),
            "/host": Link(str(outside)),
            "/up": Link("../../../../../../../../../../.." + str(outside)),
            "/etc/up": Link("../../outside"),
            "/loop": Link("loop"),
            "/ring/a": Link("../ring/b"),
            "/ring/b": Link("../ring/a"),
            "/dangling": Link("/not/there"),
            "/root-link": Link("/"),
            "/proc-link": Link("/proc/self/root"),
            "/a/b/c": "deep",
        },
    )
    with Tree(root) as tree:
        yield tree


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/", "/"),
        ("", "/"),
        ("/etc/os-release", "/etc/os-release"),
        ("//etc/./os-release/", "/etc/os-release"),
        ("/lib/os-release", "/usr/lib/os-release"),
        ("/absolute/lib/os-release", "/usr/lib/os-release"),
        ("/root-link/root-link/lib/os-release", "/usr/lib/os-release"),
        ("/a/b/../b/c", "/a/b/c"),
        ("/../../a/b/c", "/a/b/c"),
        ("/lib/new/file", "/usr/lib/new/file"),
        ("/dangling/file", "/not/there/file"),
        ("/proc-link/etc", "/proc/self/root/etc"),
    ],
)
def test_canonical(tree: Tree, path: str, canonical: str) -> None:
    assert tree.canonical(path) == canonical


def test_links_are_followed_inside_the_root(tree: Tree) -> None:
    assert tree.read_text("/etc/os-release") == "ID=debian\n"
    assert tree.read_text("/absolute/lib/os-release") == "ID=debian\n"
    assert tree.listdir("/lib") == ["os-release"]


@pytest.mark.parametrize("path", ["/host/secret", "/up/secret", "/etc/up/secret", "/../outside/secret", "/etc/../../outside/secret"])
def test_no_path_leads_out(tree: Tree, path: str) -> None:
    assert not tree.exists(path)
    with pytest.raises(FileNotFoundError):
        tree.read(path)


@pytest.mark.parametrize("path", ["/loop", "/ring/a", "/loop/x"])
def test_link_loops_end(tree: Tree, path: str) -> None:
    assert not tree.exists(path)
    with pytest.raises(OSError, match="Too many levels") as caught:
        tree.read(path)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("place", ["/host/new", "/up/new", "/etc/up/new", "/../outside/new"])
def test_nothing_is_written_outside(tree: Tree, outside: Path, place: str) -> None:
    before = snapshot(outside)
    with pytest.raises(FileNotFoundError):
        tree.write(place, b"x", mode=0o644, uid=0, gid=0, mtime_ns=None, xattrs={})
    with pytest.raises(FileNotFoundError):
        tree.mkdir(place, mode=0o755, uid=0, gid=0, xattrs={})
    with pytest.raises(FileNotFoundError):
        tree.symlink(place, "x", uid=0, gid=0, mtime_ns=None)
    tree.remove(place)
    assert snapshot(outside) == before


def test_a_link_is_replaced_not_written_through(tree: Tree, outside: Path) -> None:
    before = snapshot(outside)
    tree.symlink("/link", str(outside / "file"), uid=0, gid=0, mtime_ns=None)
    tree.write("/link", b"new", mode=0o600, uid=0, gid=0, mtime_ns=5, xattrs={})
    assert (tree.path / "link").read_bytes() == b"new"
    assert not (tree.path / "link").is_symlink()
    tree.symlink("/link", str(outside), uid=0, gid=0, mtime_ns=7)
    tree.remove("/link")
    assert snapshot(outside) == before


def test_a_planted_temporary_file_is_not_written_through(tree: Tree, outside: Path) -> None:
    before = snapshot(outside)
    (tree.path / "motd.cowroot-new").symlink_to(outside / "file")
    tree.write("/motd", b"new", mode=0o600, uid=0, gid=0, mtime_ns=None, xattrs={})
    (tree.path / "motd.cowroot-new").symlink_to(outside / "file")
    tree.symlink("/motd", "x", uid=0, gid=0, mtime_ns=None)
    assert snapshot(outside) == before
    assert not (tree.path / "motd.cowroot-new").is_symlink()


def test_only_regular_files_are_opened(tree: Tree) -> None:
    os.mkfifo(tree.path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree.path / "socket"))
    for path in ("/fifo", "/socket", "/usr"):
        with pytest.raises(OSError, match="not a regular file"):
            tree.read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device node needs root")
def test_a_device_is_not_opened(tree: Tree) -> None:
    os.mknod(tree.path / "null", 0o666 | 0o020000, os.makedev(1, 3))
    with pytest.raises(OSError, match="not a regular file"):
        tree.read("/null")


def test_an_endless_file_is_not_read_whole(tree: Tree) -> None:
    with (tree.path / "endless").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than any such file"):
        tree.read("/endless")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tree: Tree) -> None:
    before = snapshot(tree.path / "a")
    with pytest.raises(OSError):
        tree.write("/a/b/c", b"new", mode=0o644, uid=0, gid=0, mtime_ns=None, xattrs={"nonsense.attribute": b""})
    after = snapshot(tree.path / "a")
    before["b"][3] = after["b"][3]  # the time of the directory
    assert after == before
