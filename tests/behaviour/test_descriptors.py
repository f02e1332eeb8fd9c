"""One file, whoever opened it and however: descriptors and mappings that were there before the file was copied up, renamed or removed."""

from __future__ import annotations

import errno
import mmap
import os
import stat as st

import pytest

from tests.behaviour import calls
from tests.behaviour.calls import OMIT
from tests.behaviour.filesystem import FileSystem, MountedFileSystem, exists, names, read_all, write_file
from tests.behaviour.trees import OLD_NS, Dir, File, Hardlink, Special, pattern

PAGE = mmap.PAGESIZE


@pytest.mark.lower({b"f": File(data=b"old content")})
def test_a_reader_sees_later_writes(fs: FileSystem) -> None:
    reader = fs.open(b"f", os.O_RDONLY)
    assert fs.pread(reader, 3, 0) == b"old"
    writer = fs.open(b"f", os.O_RDWR)
    fs.pwrite(writer, b"new", 0)
    assert fs.pread(reader, 20, 0) == b"new content"
    fs.truncate(b"f", 3)
    assert read_all(fs, reader) == b"new"
    assert fs.stat(reader)[:7] == fs.stat(writer)[:7] == fs.stat(b"f")[:7]
    fs.close(reader)
    fs.close(writer)


@pytest.mark.lower({b"f": File(extents=[(0, 1, 3 * PAGE)])})
def test_a_mapping_sees_later_writes(fs: FileSystem) -> None:
    reader = fs.open(b"f", os.O_RDONLY)
    mapping = fs.map(reader, 3 * PAGE)
    assert mapping.read(0, 10) == pattern(1, 10)
    write_file(fs, b"f", b"new", 0)
    assert mapping.read(0, 3) == b"new"
    writer = fs.open(b"f", os.O_RDWR)
    other = fs.map(writer, 3 * PAGE, writable=True)
    other.write(PAGE, b"by mapping")
    assert mapping.read(PAGE, 10) == b"by mapping"
    assert fs.pread(reader, 10, PAGE) == b"by mapping"
    other.sync()
    fs.close(reader)
    fs.close(writer)
    other.close()
    assert mapping.read(PAGE, 10) == b"by mapping"
    mapping.close()
    assert read_all(fs, b"f")[PAGE : PAGE + 10] == b"by mapping"


@pytest.mark.lower({b"f": File(extents=[(0, 1, 2 * PAGE)])})
def test_a_mapping_outlives_descriptor_and_name(fs: FileSystem) -> None:
    fd = fs.open(b"f", os.O_RDWR)
    mapping = fs.map(fd, 2 * PAGE, writable=True)
    fs.close(fd)
    fs.unlink(b"f")
    mapping.write(PAGE, b"kept")
    mapping.sync()
    assert mapping.read(PAGE, 4) == b"kept"
    mapping.close()
    assert names(fs) == []


def change_through(fs: FileSystem, fd: int) -> None:
    """Every change that needs no name."""
    fs.chmod(fd, 0o640)
    fs.chown(fd, 11, 12)
    fs.utimens(fd, 5, 6)
    fs.setxattr(fd, b"user.k", b"v")
    assert fs.getxattr(fd, b"user.k") == b"v"
    assert b"user.k" in fs.listxattr(fd)
    found = fs.stat(fd)
    assert (found.permissions, found.uid, found.gid, found.mtime_ns) == (0o640, 11, 12, 6)
    fs.removexattr(fd, b"user.k")
    assert b"user.k" not in fs.listxattr(fd)


@pytest.mark.lower({b"f": File(data=b"0123456789"), b"d/g": File(data=b"x")})
@pytest.mark.parametrize("fate", ["kept", "unlinked", "renamed", "renamed over", "copied up", "directory renamed"])
def test_changes_through_a_descriptor(fs: FileSystem, fate: str) -> None:
    fs.rename(b"f", b"d/f")
    fd = fs.open(b"d/f", os.O_RDWR)
    if fate == "unlinked":
        fs.unlink(b"d/f")
    elif fate == "renamed":
        fs.rename(b"d/f", b"moved")
    elif fate == "renamed over":
        fs.rename(b"d/g", b"d/f")
    elif fate == "copied up":
        fs.chmod(b"d/f", 0o600)
    elif fate == "directory renamed":
        fs.rename(b"d", b"e")
    change_through(fs, fd)
    fs.truncate(fd, 4)
    fs.pwrite(fd, b"AB", 1)
    assert read_all(fs, fd) == b"0AB3"
    fs.fsync(fd)
    assert fs.stat(fd).nlink == (0 if fate in ("unlinked", "renamed over") else 1)
    fs.close(fd)
    where = {"renamed": b"moved", "directory renamed": b"e/f"}.get(fate, b"d/f")
    if fate not in ("unlinked", "renamed over"):
        assert read_all(fs, where) == b"0AB3"


@pytest.mark.lower({b"f": File(data=b"0123456789")})
def test_a_reader_changes_attributes_of_what_is_gone(fs: FileSystem) -> None:
    """The file is only in the lower and has no name any more, so that there is nothing in the upper to change."""
    fd = fs.open(b"f", os.O_RDONLY)
    fs.unlink(b"f")
    assert read_all(fs, fd) == b"0123456789"
    change_through(fs, fd)
    assert fs.stat(fd).nlink == 0
    fs.close(fd)


@pytest.mark.lower({b"d/f": File()})
def test_changes_through_a_descriptor_of_a_removed_directory(fs: FileSystem) -> None:
    fs.mkdir(b"new")
    for path in (b"d", b"new"):
        fd = fs.open(path, os.O_RDONLY | os.O_DIRECTORY)
        if path == b"d":
            fs.unlink(b"d/f")
        fs.rmdir(path)
        change_through(fs, fd)
        fs.fsync(fd)
        with pytest.raises(FileNotFoundError):
            fs.getdents(fd)
        fs.close(fd)


@pytest.mark.lower({b"f": File(data=b"base-")})
def test_append_from_several_descriptors(fs: FileSystem) -> None:
    first, second = (fs.open(b"f", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    third = fs.open(b"f", os.O_RDWR)
    for number in range(4):
        fs.write(first, b"a%d" % number)
        fs.write(second, b"b%d" % number)
    fs.pwrite(third, b"BASE", 0)
    assert read_all(fs, third) == b"BASE-a0b0a1b1a2b2a3b3"
    fs.truncate(b"f", 2)
    fs.write(first, b"!")
    assert read_all(fs, b"f") == b"BA!"
    for fd in (first, second, third):
        fs.close(fd)


@pytest.mark.lower({b"f": File(data=b"0123456789"), b"g": Hardlink(b"f")})
def test_truncation_by_another_name(fs: FileSystem) -> None:
    fd = fs.open(b"f", os.O_RDONLY)
    assert fs.read(fd, 4) == b"0123"
    fs.close(fs.open(b"g", os.O_WRONLY | os.O_TRUNC))
    assert fs.read(fd, 4) == b""
    assert fs.stat(fd).size == 0
    fs.close(fd)


@pytest.mark.lower({b"d": Dir(mode=0o2775, gid=50)})
def test_tmpfile_gets_a_name(fs: FileSystem) -> None:
    fd = fs.open(b"d", os.O_TMPFILE | os.O_RDWR, 0o644)
    assert fs.stat(fd).nlink == 0
    fs.write(fd, b"hello")
    assert names(fs, b"d") == []
    fs.link(fd, b"d/f")
    assert fs.stat(fd).nlink == 1
    fs.write(fd, b" there")
    assert read_all(fs, b"d/f") == b"hello there"
    assert fs.stat(b"d/f").ino == fs.stat(fd).ino
    assert fs.stat(b"d/f").gid == 50
    fs.close(fd)
    fs.close(fs.open(b"d", os.O_TMPFILE | os.O_WRONLY, 0o600))
    assert names(fs, b"d") == [b"f"]


@pytest.mark.lower({b"f": File(data=b"x")})
def test_no_name_for_what_is_gone(fs: FileSystem) -> None:
    fd = fs.open(b"f", os.O_RDWR)
    fs.unlink(b"f")
    with pytest.raises(FileNotFoundError):
        fs.link(fd, b"g")
    fs.close(fd)


@pytest.mark.lower({b"f": File(extents=[(0, 1, 4 * PAGE)])})
def test_fallocate(fs: FileSystem) -> None:
    fd = fs.open(b"f", os.O_RDWR)
    expected = bytearray(pattern(1, 4 * PAGE))
    fs.fallocate(fd, calls.FALLOC_PUNCH_HOLE | calls.FALLOC_KEEP_SIZE, PAGE, PAGE)
    expected[PAGE : 2 * PAGE] = bytes(PAGE)
    assert read_all(fs, fd) == expected
    fs.fallocate(fd, calls.FALLOC_ZERO_RANGE, 10, 100)
    expected[10:110] = bytes(100)
    assert read_all(fs, fd) == expected
    fs.fallocate(fd, 0, 0, 6 * PAGE)
    assert fs.stat(fd).size == 6 * PAGE
    fs.fallocate(fd, calls.FALLOC_KEEP_SIZE, 6 * PAGE, PAGE)
    assert fs.stat(fd).size == 6 * PAGE
    assert read_all(fs, fd) == expected + bytes(2 * PAGE)
    fs.close(fd)


@pytest.mark.lower({b"f": File(extents=[(0, 1, 4 * PAGE)])})
def test_fallocate_shifts(fs: FileSystem) -> None:
    fd = fs.open(b"f", os.O_RDWR)
    data = pattern(1, 4 * PAGE)
    fs.fallocate(fd, calls.FALLOC_COLLAPSE_RANGE, PAGE, PAGE)
    assert read_all(fs, fd) == data[:PAGE] + data[2 * PAGE :]
    fs.fallocate(fd, calls.FALLOC_INSERT_RANGE, PAGE, PAGE)
    assert read_all(fs, fd) == data[:PAGE] + bytes(PAGE) + data[2 * PAGE :]
    fs.close(fd)


@pytest.mark.lower({b"f": File(extents=[(1 << 20, 1, PAGE)], size=4 << 20)})
def test_seek_data_and_hole(fs: FileSystem) -> None:
    for flags in (os.O_RDONLY, os.O_RDWR):
        fd = fs.open(b"f", flags)
        if flags == os.O_RDWR:
            fs.pwrite(fd, b"x", 2 << 20)
            fs.fsync(fd)
        assert fs.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
        assert fs.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + PAGE
        with pytest.raises(OSError) as error:
            fs.lseek(fd, 3 << 20, os.SEEK_DATA)
        assert error.value.errno == errno.ENXIO
        fs.close(fd)


@pytest.mark.lower({b"small": File(data=b"x"), b"large": File(extents=[(0, 1, 300_000)])})
@pytest.mark.parametrize("whence", [os.SEEK_DATA, os.SEEK_HOLE])
def test_seeking_from_where_nothing_can_be(fs: FileSystem, whence: int) -> None:
    write_file(fs, b"new", b"x")
    write_file(fs, b"large", b"x", 5)
    for name in (b"small", b"large", b"new"):
        fd = fs.open(name, os.O_RDONLY)
        for offset in (-1, -(1 << 63), 1 << 50, (1 << 63) - 1):
            with pytest.raises(OSError) as error:
                fs.lseek(fd, offset, whence)
            assert error.value.errno == errno.ENXIO
        fs.close(fd)


@pytest.mark.lower({b"from": File(extents=[(0, 1, 100_000)]), b"to": File(extents=[(0, 2, 50_000)])})
def test_copy_file_range(fs: FileSystem) -> None:
    source, target = fs.open(b"from", os.O_RDONLY), fs.open(b"to", os.O_RDWR)
    done = 0
    while done < 60_000:
        copied = fs.copy_range(source, 1000 + done, target, 20_000 + done, 60_000 - done)
        assert copied
        done += copied
    assert read_all(fs, target) == pattern(2, 50_000)[:20_000] + pattern(1, 100_000)[1000:61_000]
    assert fs.copy_range(source, 100_000, target, 0, 10) == 0
    fs.close(source)
    fs.close(target)


@pytest.mark.lower({b"f": File(extents=[(0, 1, 4 * PAGE)])})
@pytest.mark.mounted
def test_direct_io(fs: FileSystem) -> None:
    fd = fs.open(b"f", os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, PAGE)
    assert os.preadv(fd, [buffer], PAGE) == PAGE
    assert buffer[:] == pattern(1, 4 * PAGE)[PAGE : 2 * PAGE]
    buffer[:] = pattern(9, PAGE)
    assert os.pwritev(fd, [buffer], 0) == PAGE
    other = fs.open(b"f", os.O_RDONLY)
    assert fs.pread(other, PAGE, 0) == pattern(9, PAGE)
    fs.close(fd)
    fs.close(other)


@pytest.mark.lower({b"f": File(extents=[(0, 1, 200_000)])})
@pytest.mark.mounted
def test_sendfile_and_splice(fs: FileSystem) -> None:
    source = fs.open(b"f", os.O_RDONLY)
    target = fs.open(b"g", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < 200_000:
        done += os.sendfile(target, source, done, 200_000 - done)
    assert read_all(fs, target) == pattern(1, 200_000)
    fs.truncate(b"f", 10)
    assert os.sendfile(target, source, 0, 100) == 10
    fs.close(source)
    fs.close(target)


@pytest.mark.lower({b"script": File(data=b"#!/bin/sh\necho ran $0\n", mode=0o755)})
@pytest.mark.mounted
def test_execution(fs: FileSystem) -> None:
    import subprocess

    assert isinstance(fs, MountedFileSystem)
    assert b"ran" in subprocess.run([fs.path(b"script")], capture_output=True, check=True).stdout
    write_file(fs, b"script", b"#!/bin/sh\necho now $0\n")
    assert b"now" in subprocess.run([fs.path(b"script")], capture_output=True, check=True).stdout
    fd = fs.open(b"script", os.O_WRONLY)
    with pytest.raises(OSError) as error:
        subprocess.run([fs.path(b"script")], check=False)
    assert error.value.errno == errno.ETXTBSY
    fs.close(fd)


@pytest.mark.mounted
@pytest.mark.parametrize("name", [b"lower", b"other name", b"upper"])
@pytest.mark.parametrize("how", ["unlink", "rename over"])
@pytest.mark.lower({b"lower": Special(kind=st.S_IFIFO), b"linked": Special(kind=st.S_IFIFO), b"other name": Hardlink(b"linked")})
def test_a_fifo_outlives_its_name(fs: FileSystem, name: bytes, how: str) -> None:
    fs.mknod(b"upper", st.S_IFIFO | 0o600)
    fd = fs.open(name, os.O_RDWR)
    if how == "unlink":
        fs.unlink(name)
    else:
        write_file(fs, b"file", b"")
        fs.rename(b"file", name)
    if name == b"other name":
        assert fs.stat(fd).nlink == 1
        fs.unlink(b"linked")
    fs.write(fd, b"through")
    assert fs.read(fd, 20) == b"through"
    fs.chmod(fd, 0o640)
    fs.chown(fd, 7, 8)
    fs.utimens(fd, OLD_NS, OLD_NS + 1)
    found = fs.stat(fd)
    assert (found.permissions, found.uid, found.gid, found.nlink, found.mtime_ns) == (0o640, 7, 8, 0, OLD_NS + 1)
    fs.close(fd)


@pytest.mark.lower({b"p": File()})
@pytest.mark.mounted
def test_fifos_and_sockets_connect_processes(fs: FileSystem) -> None:
    fs.mknod(b"fifo", st.S_IFIFO | 0o600)
    reader = fs.open(b"fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = fs.open(b"fifo", os.O_WRONLY)
    fs.rename(b"fifo", b"moved")
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    fs.close(reader)
    fs.close(writer)


@pytest.mark.lower({b"f": File(data=b"x", mtime_ns=OLD_NS + 7)})
def test_times(fs: FileSystem) -> None:
    fs.utimens(b"f", 1_111_111_111_123_456_789, OMIT)
    assert (fs.stat(b"f").atime_ns, fs.stat(b"f").mtime_ns) == (1_111_111_111_123_456_789, OLD_NS + 7)
    fs.utimens(b"f", OMIT, 2_222_222_222_987_654_321)
    assert (fs.stat(b"f").atime_ns, fs.stat(b"f").mtime_ns) == (1_111_111_111_123_456_789, 2_222_222_222_987_654_321)
    fs.utimens(b"f", calls.NOW, calls.NOW)
    assert fs.stat(b"f").mtime_ns > OLD_NS + 7
    assert exists(fs, b"f")


@pytest.mark.lower(
    {b"lower": File(data=b"lower", xattrs={b"user.a": b"1"}), b"big": File(extents=[(0, 1, 300_000)]), b"over": File(data=b"over")}
)
@pytest.mark.mounted
@pytest.mark.parametrize("kind", ["new", "lower", "copied up", "in part", "with another name"])
@pytest.mark.parametrize("how", ["unlink", "rename over"])
def test_a_reference_outlives_the_name(fs: FileSystem, kind: str, how: str) -> None:
    """A descriptor opened with O_PATH is no open file, but leads to the file for good: /proc/self/fd opens it properly."""
    path = {"new": b"f", "in part": b"big"}.get(kind, b"lower")
    if kind == "new":
        write_file(fs, path, b"new")
    elif kind == "in part":
        write_file(fs, path, b"part", 0)
    elif kind != "lower":
        fs.chmod(path, 0o600)
    if kind == "with another name":
        fs.link(path, b"other")
    content = read_all(fs, path)
    expected = fs.stat(path)
    reference = fs.open(path, os.O_PATH)
    if how == "unlink":
        fs.unlink(path)
    else:
        fs.rename(b"over", path)
    there = b"/proc/self/fd/%d" % reference
    for _ in range(2):  # closing it is not the end either
        fd = os.open(there, os.O_RDWR)
        assert os.pread(fd, 1 << 20, 0) == content
        os.pwrite(fd, b"C", 2)
        content = content[:2] + b"C" + content[3:]
        assert os.pread(fd, 1 << 20, 0) == content
        found = os.fstat(fd)
        assert (found.st_ino, found.st_nlink, found.st_size) == (expected.ino, int(kind == "with another name"), len(content))
        os.fchmod(fd, 0o640)
        os.close(fd)
    os.chmod(there, 0o4711)
    os.chown(there, 1, 2)
    os.setxattr(there, b"user.b", b"2")
    os.utime(there, ns=(1, 2))
    os.truncate(there, 1)
    found = os.stat(there)
    assert (st.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_size) == (0o711, 1, 2, 1)
    assert "user.b" in os.listxattr(there)
    os.removexattr(there, b"user.b")
    with open(there, "rb") as file:
        assert file.read() == content[:1]
    if kind == "with another name":
        assert read_all(fs, b"other") == content[:1]
        assert fs.stat(b"other").permissions == 0o711
    fs.close(reference)


@pytest.mark.mounted
def test_a_reference_to_a_link_outlives_its_name(fs: FileSystem) -> None:
    fs.symlink(b"nowhere", b"s")
    reference = fs.open(b"s", os.O_PATH | os.O_NOFOLLOW)
    fs.unlink(b"s")
    assert os.readlink(b"", dir_fd=reference) == b"nowhere"
    fs.close(reference)
