"""Look-up through layers, whiteouts, opaque directories, renames and redirects, in overlayfs' format."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowroot.union import Caller
from cowroot.union.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from tests.t1_union.conftest import ROOT, Bench


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def is_whiteout(path: Path) -> bool:
    st = path.lstat()
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def fails(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == number


def three_layers(bench: Bench) -> None:
    """top hides and adds, middle is opaque in one place, bottom is the disk."""
    top, middle = bench.base / "top", bench.base / "middle"
    for layer in (top, middle):
        layer.mkdir()
    for name in ("hidden", "kept", "d/bottom", "o/bottom", "f/x"):
        (bench.lower / name).parent.mkdir(exist_ok=True)
        (bench.lower / name).write_text("bottom")
    (middle / "d").mkdir()
    (middle / "d/middle").write_text("middle")
    (middle / "o").mkdir()
    (middle / "o/middle").write_text("middle")
    os.setxattr(middle / "o", "trusted.overlay.opaque", b"y")
    (middle / "f").write_text("a file over a directory")
    (top / "d").mkdir()
    whiteout(top / "hidden")
    whiteout(top / "d/bottom")
    (top / "o").mkdir()
    (top / "o/top").write_text("top")
    bench.lowers = [top, middle, bench.lower]


def test_layers_merge(bench: Bench) -> None:
    three_layers(bench)
    assert bench.names() == ["d", "f", "kept", "o"]
    assert bench.names("d") == ["middle"]
    assert bench.names("o") == ["middle", "top"]
    assert bench.read("f") == b"a file over a directory"
    fails(errno.ENOENT, bench.node, "hidden")
    fails(errno.ENOENT, bench.node, "d/bottom")
    fails(errno.ENOTDIR, bench.node, "f/x")
    assert bench.union.getattr(bench.union.root).nlink == 2 + 2


def test_removing_leaves_whiteouts_only_where_needed(bench: Bench) -> None:
    (bench.lower / "below").touch()
    union = bench.union
    union.create(union.root, b"above", 0o644, os.O_RDWR, ROOT)
    union.unlink(union.root, b"above")
    assert os.listdir(bench.upper) == []
    union.unlink(union.root, b"below")
    assert is_whiteout(bench.upper / "below")
    fails(errno.ENOENT, union.unlink, union.root, b"below")


def test_new_directory_over_a_whiteout_is_opaque(bench: Bench) -> None:
    (bench.lower / "d/old").mkdir(parents=True)
    union = bench.union
    union.rmdir(bench.node("d"), b"old")
    union.rmdir(union.root, b"d")
    assert is_whiteout(bench.upper / "d")
    union.mkdir(union.root, b"d", 0o755, ROOT)
    assert os.getxattr(bench.upper / "d", "trusted.overlay.opaque") == b"y"
    bench.remount()
    assert bench.names("d") == []
    assert os.listdir(bench.work / "cowroot/tmp") == []


def test_taken_names(bench: Bench) -> None:
    (bench.lower / "below").touch()
    union = bench.union
    fails(errno.EEXIST, union.mkdir, union.root, b"below", 0o755, ROOT)  # without a look-up before
    union.create(union.root, b"above", 0o644, os.O_RDWR, ROOT)
    bench.remount()
    fails(errno.EEXIST, bench.union.symlink, bench.union.root, b"above", b"x", ROOT)


def test_renamed_directory_keeps_its_contents_where_they_are(bench: Bench) -> None:
    (bench.lower / "a/b/c").mkdir(parents=True)
    (bench.lower / "a/b/c/file").write_text("deep")
    (bench.lower / "other").mkdir()
    union = bench.union
    union.rename(bench.node("a"), b"b", bench.node("other"), b"moved")
    assert os.getxattr(bench.upper / "other/moved", "trusted.overlay.redirect") == b"/a/b"
    assert is_whiteout(bench.upper / "a/b")
    bench.write("other/moved/c/file", b"DEEP")
    union = bench.remount()
    assert bench.read("other/moved/c/file") == b"DEEP"
    assert bench.names("a") == []
    union.rename(union.root, b"other", union.root, b"again")
    bench.remount()
    assert bench.read("again/moved/c/file") == b"DEEP"
    assert not (bench.upper / "again/moved/c/c").exists()


def test_directory_renamed_onto_a_lower_name_hides_what_was_there(bench: Bench) -> None:
    (bench.lower / "old/secret").mkdir(parents=True)
    union = bench.union
    union.rmdir(bench.node("old"), b"secret")
    union.mkdir(union.root, b"new", 0o755, ROOT)
    union.rename(union.root, b"new", union.root, b"old")
    bench.remount()
    assert bench.names("old") == []
    assert bench.names() == ["old"]


def test_exchange_and_noreplace(bench: Bench) -> None:
    (bench.lower / "d").mkdir()
    (bench.lower / "d/in").touch()
    (bench.lower / "f").write_text("file")
    union = bench.union
    fails(errno.EEXIST, union.rename, union.root, b"f", union.root, b"d", RENAME_NOREPLACE)
    fails(errno.ENOENT, union.rename, union.root, b"f", union.root, b"none", RENAME_EXCHANGE)
    union.rename(union.root, b"f", union.root, b"d", RENAME_EXCHANGE)
    assert (bench.names("f"), bench.read("d")) == (["in"], b"file")
    bench.remount()
    assert (bench.names("f"), bench.read("d")) == (["in"], b"file")


def test_rename_over(bench: Bench) -> None:
    (bench.lower / "empty").mkdir()
    (bench.lower / "full/x").mkdir(parents=True)
    (bench.lower / "file").write_text("a")
    (bench.lower / "dir").mkdir()
    union = bench.union
    fails(errno.EISDIR, union.rename, union.root, b"file", union.root, b"dir")
    fails(errno.ENOTDIR, union.rename, union.root, b"dir", union.root, b"file")
    fails(errno.ENOTEMPTY, union.rename, union.root, b"dir", union.root, b"full")
    fails(errno.EINVAL, union.rename, union.root, b"full", bench.node("full/x"), b"self")
    union.rename(union.root, b"full", union.root, b"empty")
    bench.remount()
    assert bench.names() == ["dir", "empty", "file"]
    assert bench.names("empty") == ["x"]


def test_owner_mode_and_setgid_directories(bench: Bench) -> None:
    (bench.lower / "shared").mkdir()
    os.chown(bench.lower / "shared", 0, 99)
    (bench.lower / "shared").chmod(0o2775)
    (bench.lower / "shared/gone").touch()
    union = bench.union
    shared = bench.node("shared")
    union.unlink(shared, b"gone")  # so that one of the names has a whiteout in its way
    for name in (b"gone", b"fresh"):
        node, handle = union.create(shared, name, 0o4666, os.O_RDWR, Caller(1000, 1000, 0o027))
        union.release(handle)
        attr = union.getattr(node)
        assert (attr.uid, attr.gid, stat.S_IMODE(attr.mode)) == (1000, 99, 0o4640)
    directory = union.mkdir(shared, b"sub", 0o777, Caller(1000, 1000, 0o022))
    assert stat.S_IMODE(union.getattr(directory).mode) == 0o2755
    assert union.getattr(directory).gid == 99


def test_default_acl_is_inherited_also_over_a_whiteout(bench: Bench) -> None:
    (bench.lower / "d").mkdir()
    (bench.lower / "d/gone").touch()
    assert os.system(f"setfacl -d -m u:77:rwx,g::r-x,o::--- {bench.lower}/d") == 0
    union = bench.union
    union.unlink(bench.node("d"), b"gone")
    for name in (b"gone", b"fresh"):
        node, handle = union.create(bench.node("d"), name, 0o666, os.O_RDWR, Caller(0, 0, 0o077))
        union.release(handle)
        assert stat.S_IMODE(union.getattr(node).mode) == 0o660, "the ACL takes the place of the umask"
        assert b"system.posix_acl_access" in union.listxattr(node)


def test_any_byte_in_a_name(bench: Bench) -> None:
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."] + [b"x" * 255, b"\xff\xfe\n", " é€".encode()]
    union = bench.union
    for name in names:
        _, handle = union.create(union.root, name, 0o644, os.O_RDWR, ROOT)
        union.release(handle)
    bench.remount()
    shown = [entry.name for entry in bench.union.readdir(bench.union.opendir(bench.union.root))]
    assert sorted(shown) == sorted([b".", b"..", *names])
    fails(errno.ENAMETOOLONG, bench.union.lookup, bench.union.root, b"x" * 256)


def test_device_like_a_whiteout_is_shown(bench: Bench) -> None:
    """Whoever makes a character device 0:0, or leaves one by RENAME_WHITEOUT, gets it, as on a plain file system."""
    (bench.lower / "below").write_text("hidden by it")
    (bench.lower / "moved").write_text("x")
    union = bench.union
    union.unlink(union.root, b"below")
    union.mknod(union.root, b"below", stat.S_IFCHR | 0o600, 0, ROOT)
    union.rename(union.root, b"moved", union.root, b"new", RENAME_WHITEOUT)
    for _ in range(2):
        assert bench.names() == ["below", "moved", "new"]
        for name in ("below", "moved"):
            attr = bench.union.getattr(bench.node(name))
            assert (stat.S_IFMT(attr.mode), attr.rdev) == (stat.S_IFCHR, 0)
            assert bench.union.listxattr(bench.node(name)) == []
        assert bench.read("new") == b"x"
        bench.remount()
    bench.union.unlink(bench.union.root, b"moved")
    bench.remount()
    assert bench.names() == ["below", "new"]
    bench.close()
    bench.upper.rename(bench.base / "top")
    bench.upper.mkdir()
    bench.lowers = [bench.base / "top", bench.lower]
    bench.union.setattr(bench.node("below"), mode=0o640)
    bench.remount()
    assert bench.names() == ["below", "new"], "one that lies in a lower layer is copied up as what it is"


def test_private_attributes_are_not_shown(bench: Bench) -> None:
    (bench.lower / "d").mkdir()
    os.setxattr(bench.lower / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(bench.lower / "d", "user.mine", b"1")
    union = bench.union
    assert union.listxattr(bench.node("d")) == [b"user.mine"]
    fails(errno.ENODATA, union.getxattr, bench.node("d"), b"trusted.overlay.opaque")
    fails(errno.EOPNOTSUPP, union.setxattr, bench.node("d"), b"trusted.cowroot.ino", b"1")
    union.removexattr(bench.node("d"), b"user.mine")
    assert union.listxattr(bench.node("d")) == []


@pytest.mark.parametrize("redirect", [b"", b"..", b"/../etc", b"/a/./b", b"a/b", b"/a//b", b"/", b"x\0y"], ids=repr)
def test_hostile_redirects_are_errors(bench: Bench, redirect: bytes) -> None:
    (bench.upper / "d").mkdir()
    os.setxattr(bench.upper / "d", "trusted.overlay.redirect", redirect)
    fails(errno.EIO, bench.node, "d")


def test_redirects_of_layers_end(bench: Bench) -> None:
    """Two lower layers that redirect to each other's directories: only layers further down are searched."""
    top = bench.base / "top"
    (top / "a").mkdir(parents=True)
    os.setxattr(top / "a", "trusted.overlay.redirect", b"/b")
    (bench.lower / "b/in").mkdir(parents=True)
    os.setxattr(bench.lower / "b", "trusted.overlay.redirect", b"/a")
    bench.lowers = [top, bench.lower]
    assert bench.names("a") == ["in"]


def test_absurd_inode_attribute_is_ignored(bench: Bench) -> None:
    for number, value in enumerate((b"", b"-1", b"x" * 100, b"9" * 25, b"\xff")):
        path = bench.upper / f"f{number}"
        path.touch()
        os.setxattr(path, "trusted.cowroot.ino", value)
        assert bench.union.getattr(bench.node(path.name)).ino & ((1 << 56) - 1) == path.stat().st_ino


def test_inode_numbers_are_those_of_readdir(bench: Bench) -> None:
    three_layers(bench)
    union = bench.union
    union.rename(union.root, b"kept", bench.node("d"), b"kept")
    union.setattr(bench.node("o"), mode=0o700)
    for remounted in (False, True):
        if remounted:
            union = bench.remount()
        for directory in ("", "d", "o"):
            for entry in union.readdir(union.opendir(bench.node(directory))):
                if entry.name not in (b".", b".."):
                    assert union.getattr(union.lookup(bench.node(directory), entry.name)).ino == entry.ino


def test_removed_directory_is_dead(bench: Bench) -> None:
    (bench.lower / "d").mkdir()
    union = bench.union
    node = bench.node("d")
    handle = union.opendir(node)
    union.rmdir(union.root, b"d")
    assert union.getattr(node).nlink == 0
    fails(errno.ENOENT, union.readdir, handle)
    assert union.setattr(node, mode=0o700).mode == stat.S_IFDIR | 0o700
    fails(errno.ENOENT, union.mkdir, node, b"x", 0o755, ROOT)
    fails(errno.ENOENT, union.lookup, node, b"x")


@pytest.mark.parametrize("origin", ["lower", "upper"])
def test_removed_directory_answers_while_held(bench: Bench, origin: str) -> None:
    (getattr(bench, origin) / "d").mkdir()
    (bench.lower / "over").mkdir()
    union = bench.union
    handle = union.opendir(bench.node("d"))
    union.rename(union.root, b"over", union.root, b"d")
    assert union.setattr(handle.node, uid=5).nlink == 0
    union.setxattr(handle.node, b"user.x", b"1")
    assert union.listxattr(handle.node) == [b"user.x"]
    union.releasedir(handle)
    assert os.listdir(bench.work / "cowroot/orphans") == []
    assert bench.names() == ["d"]


def test_forgotten_nodes_leave_the_table(bench: Bench) -> None:
    for number in range(50):
        (bench.lower / f"d{number}").mkdir()
        (bench.lower / f"d{number}/f").touch()
    union = bench.union
    nodes = [bench.node(f"d{number}/f") for number in range(50)]
    assert union.tree.count == 101
    for node in nodes:
        union.retain(node)
    for node in nodes:
        union.forget(node)
    assert union.tree.count == 1
    assert bench.node("d7/f") is not nodes[7]


def test_nameless_file_gets_a_name(bench: Bench) -> None:
    union = bench.union
    node, handle = union.tmpfile(union.root, 0o640, os.O_RDWR, Caller(5, 6))
    union.write(handle, b"body", 0)
    assert union.getattr(node).nlink == 0
    assert bench.names() == []
    assert union.link(node, union.root, b"named") is node
    union.release(handle)
    assert (bench.read("named"), union.getattr(node).nlink) == (b"body", 1)
    bench.remount()
    assert bench.read("named") == b"body"


def test_who_has_looked_for_a_name_need_not_look_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a file asks first whether the name is free. Lowers do not change, so making and renaming it need not ask them."""
    (bench.lower / "d").mkdir()
    (bench.lower / "d/file").write_text("below")
    union = bench.union
    directory = union.lookup(union.root, b"d")
    fails(errno.ENOENT, union.lookup, directory, b"new")
    below, asked = union.tree.below, []

    def ask(lowers: Any, name: bytes) -> Any:
        asked.append(name)
        return below(lowers, name)

    monkeypatch.setattr(union.tree, "below", ask)
    for _ in range(2):
        _, handle = union.create(directory, b"new", 0o100644, os.O_WRONLY, ROOT)
        union.release(handle)
        union.rename(directory, b"new", directory, b"file")
        fails(errno.ENOENT, union.lookup, directory, b"new")
    assert asked == [b"file"]
    union.rename(directory, b"file", directory, b"new")
    assert is_whiteout(bench.upper / "d/file")
    fails(errno.ENOENT, union.lookup, directory, b"file")
    union.unlink(directory, b"new")
    assert os.listdir(bench.upper / "d") == ["file"], "nothing has to be hidden under a name of which the lower has nothing"
