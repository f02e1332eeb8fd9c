"""Owners, modes, access lists and extended attributes."""

from __future__ import annotations

import errno
import os
import stat as st
import struct

import pytest

from tests.behaviour.filesystem import FileSystem, exists, optional_xattr, read_all, write_file
from tests.behaviour.generate import acl
from tests.behaviour.test_copy_up import CAPABILITY
from tests.behaviour.trees import Dir, File, Spec, Special, Symlink

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"


@pytest.mark.lower({b"d": Dir()})
def test_umask(fs: FileSystem) -> None:
    for mask in (0, 0o022, 0o077, 0o777):
        fs.umask(mask)
        fs.close(fs.open(b"d/f", os.O_CREAT | os.O_WRONLY, 0o6666))
        fs.mkdir(b"d/sub", 0o1777)
        fs.mknod(b"d/p", st.S_IFIFO | 0o666)
        fs.symlink(b"x", b"d/s")
        assert fs.stat(b"d/f").permissions == 0o6666 & ~mask
        assert fs.stat(b"d/sub").permissions == 0o1777 & ~mask
        assert fs.stat(b"d/p").permissions == 0o666 & ~mask
        assert fs.stat(b"d/s", follow=False).permissions == 0o777
        for name in (b"f", b"p", b"s"):
            fs.unlink(b"d/" + name)
        fs.rmdir(b"d/sub")


@pytest.mark.lower({b"d": Dir(mode=0o2775, uid=9, gid=60)})
def test_sgid_directories_hand_their_group_down(fs: FileSystem) -> None:
    write_file(fs, b"d/f", b"")
    fs.mkdir(b"d/sub")
    fs.symlink(b"x", b"d/s")
    fs.mknod(b"d/p", st.S_IFIFO | 0o600)
    for name in (b"f", b"sub", b"s", b"p"):
        made = fs.stat(b"d/" + name, follow=False)
        assert (made.uid, made.gid) == (0, 60), name
    assert fs.stat(b"d/sub").permissions == 0o2755
    fs.mkdir(b"d/sub/deeper")
    assert fs.stat(b"d/sub/deeper").gid == 60


@pytest.mark.lower({b"d": Dir(xattrs={DEFAULT: acl(1000, 6)}), b"plain": Dir()})
def test_default_acls_are_inherited(fs: FileSystem) -> None:
    """With a default ACL the umask does not count (acl(5)), and the mode is limited by what the caller asked for."""
    fs.umask(0o077)
    write_file(fs, b"d/f", b"", mode=0o664)
    fs.mkdir(b"d/sub", 0o777)
    assert fs.stat(b"d/f").permissions == 0o660
    assert optional_xattr(fs, b"d/f", ACCESS) is not None
    assert optional_xattr(fs, b"d/f", DEFAULT) is None
    assert fs.getxattr(b"d/sub", DEFAULT) == acl(1000, 6)
    assert fs.stat(b"d/sub").permissions == 0o770
    write_file(fs, b"d/sub/g", b"", mode=0o600)
    assert fs.stat(b"d/sub/g").permissions == 0o600
    fs.mknod(b"d/p", st.S_IFIFO | 0o666)
    assert fs.stat(b"d/p").permissions == 0o660
    write_file(fs, b"plain/f", b"", mode=0o664)
    assert fs.stat(b"plain/f").permissions == 0o600


@pytest.mark.lower({b"f": File(mode=0o640), b"g": File(mode=0o640, xattrs={ACCESS: acl(1000, 4)}), b"d": Dir()})
def test_access_acls(fs: FileSystem) -> None:
    fs.setxattr(b"f", ACCESS, acl(1000, 6))
    assert fs.stat(b"f").permissions == 0o770
    assert fs.getxattr(b"g", ACCESS) == acl(1000, 4)
    fs.chmod(b"g", 0o700)  # the group bits of a mode are the mask of an ACL
    mask = struct.unpack_from("<HHI", fs.getxattr(b"g", ACCESS), 4 + 3 * 8)
    assert mask[:2] == (0x10, 0)
    fs.removexattr(b"g", ACCESS)
    assert ACCESS not in fs.listxattr(b"g")
    with pytest.raises(OSError) as error:
        fs.setxattr(b"f", DEFAULT, acl(1000, 6))
    assert error.value.errno == errno.EACCES
    fs.setxattr(b"d", DEFAULT, acl(1000, 6))
    fs.removexattr(b"d", DEFAULT)
    fs.removexattr(b"d", DEFAULT)  # there is none: fine


@pytest.mark.lower({b"f": File(mode=0o660, xattrs={ACCESS: acl(1000, 6)}), b"g": File(mode=0o660, xattrs={ACCESS: acl(1001, 6)})})
@pytest.mark.mounted
def test_acls_decide(fs: FileSystem) -> None:
    with fs.user(1000, 1000):
        fs.close(fs.open(b"f", os.O_RDWR))
        with pytest.raises(PermissionError):
            fs.open(b"g", os.O_RDWR)


SUID: dict[bytes, Spec] = {b"f": File(data=b"x", mode=0o6755, uid=1000, gid=1000, xattrs={b"security.capability": CAPABILITY})}


@pytest.mark.lower(SUID)
def test_chown_clears_suid_and_capabilities(fs: FileSystem) -> None:
    fs.chown(b"f", 5, 5)
    assert fs.stat(b"f").permissions == 0o755
    assert optional_xattr(fs, b"f", b"security.capability") is None


@pytest.mark.lower(SUID)
@pytest.mark.parametrize("change", ["write", "truncate", "fallocate", "open"])
def test_root_changing_content_clears_capabilities_alone(fs: FileSystem, change: str) -> None:
    fd = fs.open(b"f", os.O_RDWR | (os.O_TRUNC if change == "open" else 0))
    if change == "write":
        fs.write(fd, b"y")
    elif change == "truncate":
        fs.truncate(fd, 0)
    elif change == "fallocate":
        fs.fallocate(fd, 0, 0, 100)
    fs.close(fd)
    assert fs.stat(b"f").permissions == 0o6755
    assert optional_xattr(fs, b"f", b"security.capability") is None


@pytest.mark.lower(SUID)
@pytest.mark.mounted
@pytest.mark.parametrize("change", ["write", "truncate", "chown", "open"])
def test_users_changing_a_file_clear_suid(fs: FileSystem, change: str) -> None:
    with fs.user(1000, 1000):
        if change == "write":
            write_file(fs, b"f", b"y", 0)
        elif change == "truncate":
            fs.truncate(b"f", 0)
        elif change == "open":
            fs.close(fs.open(b"f", os.O_WRONLY | os.O_TRUNC))
        else:
            fs.chown(b"f", -1, 1000)
    assert fs.stat(b"f").permissions == 0o755


@pytest.mark.lower({b"f": File(data=b"x", mode=0o2666), b"mine": File(data=b"x", mode=0o2666, gid=1000)})
@pytest.mark.mounted
@pytest.mark.parametrize("change", ["write", "truncate", "fallocate", "open"])
def test_strangers_to_a_group_clear_sgid(fs: FileSystem, change: str) -> None:
    """Also without group execution; members of the file's group leave it alone then."""
    for path in (b"f", b"mine"):
        with fs.user(1000, 1000):
            if change == "truncate":
                fs.truncate(path, 0)
                continue
            fd = fs.open(path, os.O_RDWR | (os.O_TRUNC if change == "open" else 0))
            if change == "write":
                fs.write(fd, b"y")
            elif change == "fallocate":
                fs.fallocate(fd, 0, 0, 100)
            fs.close(fd)
    assert fs.stat(b"f").permissions == 0o666
    assert fs.stat(b"mine").permissions == 0o2666


def test_chown_of_nothing(fs: FileSystem) -> None:
    """chown(-1, -1) changes no owner, yet it is a change: suid goes, the change time moves."""
    write_file(fs, b"f", b"", mode=0o4755)
    fs.chmod(b"f", 0o4755)
    before = fs.stat(b"f").ctime_ns
    while fs.stat(b"f").ctime_ns == before:  # the clock ticks every few milliseconds; a chown that moves nothing ends in the time-out
        fs.chown(b"f", -1, -1)
    assert fs.stat(b"f").permissions == 0o755


@pytest.mark.lower(
    {
        b"f": File(uid=1000, gid=1000),
        b"d": Dir(uid=1000, gid=1000),
        b"rootf": File(mode=0o600),
        b"sticky": Dir(mode=0o1777),
        b"sticky/f": File(),
    }
)
@pytest.mark.mounted
def test_permissions(fs: FileSystem) -> None:
    with fs.user(1000, 1000):
        write_file(fs, b"d/mine", b"x")
        fs.chmod(b"f", 0o600)
        for call in (
            lambda: fs.open(b"rootf", os.O_RDONLY),
            lambda: fs.chmod(b"rootf", 0o777),
            lambda: fs.chown(b"f", 0, 0),
            lambda: fs.unlink(b"rootf"),
            lambda: fs.unlink(b"sticky/f"),
            lambda: fs.rename(b"sticky/f", b"d/f"),
            lambda: fs.mkdir(b"new"),
            lambda: fs.setxattr(b"f", b"trusted.x", b"1"),
            lambda: fs.utimens(b"rootf", 1, 1),
            lambda: fs.mknod(b"d/c", st.S_IFCHR | 0o600, os.makedev(1, 3)),
        ):
            with pytest.raises(PermissionError):
                call()
    made = fs.stat(b"d/mine")
    assert (made.uid, made.gid, made.permissions) == (1000, 1000, 0o644)
    with fs.user(1001, 1001), pytest.raises(PermissionError):
        read_all(fs, b"f")


@pytest.mark.lower(
    {
        b"f": File(data=b"x", xattrs={b"user.a": b"1", b"trusted.b": b"2", b"security.c": b"3"}),
        b"d": Dir(),
        b"s": Symlink(),
        b"p": Special(),
    }
)
def test_xattrs(fs: FileSystem) -> None:
    assert sorted(fs.listxattr(b"f")) == [b"security.c", b"trusted.b", b"user.a"]
    fs.setxattr(b"f", b"user.a", b"new")
    fs.setxattr(b"f", b"user.empty", b"")
    fs.setxattr(b"f", b"user.\xff\xfe", bytes(range(256)))
    fs.removexattr(b"f", b"trusted.b")
    assert fs.getxattr(b"f", b"user.a") == b"new"
    assert fs.getxattr(b"f", b"user.empty") == b""
    assert fs.getxattr(b"f", b"user.\xff\xfe") == bytes(range(256))
    assert sorted(fs.listxattr(b"f")) == [b"security.c", b"user.a", b"user.empty", b"user.\xff\xfe"]
    for path in (b"s", b"p"):
        fs.setxattr(path, b"trusted.x", b"1", follow=False)
        assert fs.listxattr(path, follow=False) == [b"trusted.x"]
        with pytest.raises(PermissionError):
            fs.setxattr(path, b"user.x", b"1", follow=False)
    assert read_all(fs, b"f") == b"x"


@pytest.mark.lower({b"f": File(xattrs={b"user.a": b"1"})})
def test_errors_of_xattrs(fs: FileSystem) -> None:
    for call, code in (
        (lambda: fs.getxattr(b"f", b"user.none"), errno.ENODATA),
        (lambda: fs.removexattr(b"f", b"user.none"), errno.ENODATA),
        (lambda: fs.setxattr(b"f", b"user.a", b"2", os.XATTR_CREATE), errno.EEXIST),
        (lambda: fs.setxattr(b"f", b"user.b", b"2", os.XATTR_REPLACE), errno.ENODATA),
        (lambda: fs.setxattr(b"f", b"nonsense.x", b"2"), errno.EOPNOTSUPP),
        (lambda: fs.setxattr(b"f", b"user." + b"x" * 251, b"2"), errno.ERANGE),
        (lambda: fs.setxattr(b"f", b"user.big", b"x" * 65537), errno.E2BIG),
    ):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == code, call.__code__.co_firstlineno


@pytest.mark.lower({b"d/f": File(data=b"x"), b"d/g": File()}, {b"d/low": File()})
@pytest.mark.union
def test_the_unions_own_marks_are_hidden(fs: FileSystem) -> None:
    fs.rename(b"d", b"e")
    fs.mkdir(b"d")
    fs.chmod(b"e/f", 0o600)
    fs.unlink(b"e/g")
    fs.link(b"e/f", b"e/h")
    for path in (b"", b"d", b"e", b"e/f", b"e/h"):
        for name in fs.listxattr(path):
            assert not name.startswith((b"trusted.overlay.", b"trusted.cowroot.")), (path, name)
    for name in (b"trusted.overlay.redirect", b"trusted.overlay.opaque", b"trusted.cowroot.ino", b"trusted.overlay.anything"):
        with pytest.raises(OSError):
            fs.getxattr(b"e", name)


@pytest.mark.lower({b"d/f": File(data=b"x"), b"d/g": File()})
@pytest.mark.union
def test_the_unions_own_marks_cannot_be_set(fs: FileSystem) -> None:
    for name, value in ((b"trusted.overlay.opaque", b"y"), (b"trusted.overlay.redirect", b"/etc"), (b"trusted.cowroot.ino", b"1")):
        with pytest.raises(OSError):
            fs.setxattr(b"d", name, value)
    assert exists(fs, b"d/f")
