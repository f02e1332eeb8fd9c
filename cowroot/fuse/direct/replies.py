"""Replies of the FUSE protocol (include/uapi/linux/fuse.h), each packed in one go with its header.

Numbers and structures that the other engine looks at too are in `cowroot.fuse.protocol`; here is what only this engine needs.
"""

from __future__ import annotations

import os
import struct

from cowroot.union import Attr

YEAR = 365 * 24 * 3600  # seconds: how long the kernel may believe what it was told

FSYNC_IN = struct.Struct("=QI")  # fh fsync_flags; padding follows
SETXATTR_ACL_KILL_SGID = 1 << 0
FSYNC_FDATASYNC = 1 << 0
WRITE_CACHE = 1 << 0
NOTIFY_INVAL_INODE = 2

_HEADER = "IiQ"  # len error unique
_ENTRY = "QQQQII"  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec
_ATTR = "QQQqqqIIIIIIIIII"  # ino size blocks atime mtime ctime their_nsec*3 mode nlink uid gid rdev blksize flags; times may be negative
_OPEN = "QIi"  # fh open_flags backing_id
_DIRENT = "QQII"  # ino off namelen type; then the name, padded to 8 bytes

header = struct.Struct("=" + _HEADER).pack
_entry = struct.Struct("=" + _HEADER + _ENTRY + _ATTR)
_create = struct.Struct("=" + _HEADER + _ENTRY + _ATTR + _OPEN)
_attr = struct.Struct("=" + _HEADER + "QII" + _ATTR)  # attr_valid attr_valid_nsec dummy
_open = struct.Struct("=" + _HEADER + _OPEN)
_write = struct.Struct("=" + _HEADER + "II")  # size padding
_lseek = struct.Struct("=" + _HEADER + "Q")
_kstatfs = struct.Struct("=" + _HEADER + "QQQQQIIII24x")  # blocks bfree bavail files ffree bsize namelen frsize padding
_dirent = struct.Struct("=" + _DIRENT)
_direntplus = struct.Struct("=" + _ENTRY + _ATTR + _DIRENT)
_inval_inode = struct.Struct("=" + _HEADER + "Qqq")  # a notification's header has its code for an error; ino off len

DIRENT_SIZE, DIRENTPLUS_SIZE = _dirent.size, _direntplus.size
_NO_ENTRY = (0,) * (len(_ENTRY) + len(_ATTR))
_PADDING = tuple(b"\0" * (-length % 8) for length in range(8))
_NOTHING = struct.pack("=" + _ENTRY + _ATTR, 0, 0, YEAR, *_NO_ENTRY[3:])
_BILLION = 10**9


def ok(unique: int) -> bytes:
    """Done, nothing to tell."""
    return header(16, 0, unique)


def failed(unique: int, number: int) -> bytes:
    """The error `number` of <errno.h>."""
    return header(16, -number, unique)


def data(unique: int, content: bytes) -> bytes:
    """Just bytes: a link's target, an attribute, directory entries."""
    return header(16 + len(content), 0, unique) + content


def entry(unique: int, nodeid: int, attr: Attr, valid: int) -> bytes:
    """A name's node. `valid`: for how many seconds the attributes are; the name is for a year."""
    ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime = attr
    return _entry.pack(
        _entry.size, 0, unique, nodeid, 0, YEAR, valid, 0, 0, ino, size, blocks, atime // _BILLION, mtime // _BILLION, ctime // _BILLION,
        atime % _BILLION, mtime % _BILLION, ctime % _BILLION, mode, nlink, uid, gid, rdev & 0xFFFFFFFF, blksize, 0,
    )  # fmt: skip


def no_entry(unique: int) -> bytes:
    """There is no such name, and the kernel may remember it: node 0."""
    return header(_entry.size, 0, unique) + _NOTHING


def created(unique: int, nodeid: int, attr: Attr, fh: int, open_flags: int, backing: int, valid: int) -> bytes:
    """A new file, open."""
    ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime = attr
    return _create.pack(
        _create.size, 0, unique, nodeid, 0, YEAR, valid, 0, 0, ino, size, blocks, atime // _BILLION, mtime // _BILLION, ctime // _BILLION,
        atime % _BILLION, mtime % _BILLION, ctime % _BILLION, mode, nlink, uid, gid, rdev, blksize, 0, fh, open_flags, backing,
    )  # fmt: skip


def attributes(unique: int, attr: Attr, valid: int) -> bytes:
    """What stat(2) shows, for `valid` seconds."""
    ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime = attr
    return _attr.pack(
        _attr.size, 0, unique, valid, 0, 0, ino, size, blocks, atime // _BILLION, mtime // _BILLION, ctime // _BILLION,
        atime % _BILLION, mtime % _BILLION, ctime % _BILLION, mode, nlink, uid, gid, rdev & 0xFFFFFFFF, blksize, 0,
    )  # fmt: skip


def opened(unique: int, fh: int, open_flags: int, backing: int = 0) -> bytes:
    """An open file."""
    return _open.pack(32, 0, unique, fh, open_flags, backing)


def written(unique: int, size: int) -> bytes:
    """So many bytes were taken."""
    return _write.pack(24, 0, unique, size, 0)


def number(unique: int, value: int) -> bytes:
    """One 64-bit number: an offset found, a count of bytes copied."""
    return _lseek.pack(24, 0, unique, value)


def attribute_size(unique: int, size: int) -> bytes:
    """How large an attribute, or the list of their names, is."""
    return _write.pack(24, 0, unique, size, 0)


def statfs(unique: int, found: os.statvfs_result) -> bytes:
    """What statfs(2) shows."""
    return _kstatfs.pack(
        _kstatfs.size, 0, unique, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
        found.f_bsize, found.f_namemax, found.f_frsize, 0,
    )  # fmt: skip


def directory_entry(ino: int, offset: int, kind: int, name: bytes) -> bytes:
    """An entry of READDIR; `offset` is where the next one starts, `kind` the S_IFMT bits."""
    return _dirent.pack(ino, offset, len(name), kind >> 12) + name + _PADDING[len(name) & 7]


def bare_plus_entry(ino: int, offset: int, kind: int, name: bytes) -> bytes:
    """An entry of READDIRPLUS that says no more than one of READDIR would: the kernel looks it up, if it wants to."""
    return _direntplus.pack(*_NO_ENTRY, ino, offset, len(name), kind >> 12) + name + _PADDING[len(name) & 7]


def plus_entry(nodeid: int, attr: Attr, offset: int, name: bytes, valid: int) -> bytes:
    """An entry of READDIRPLUS with the node behind it, which counts as a look-up."""
    ino, mode, nlink, uid, gid, rdev, size, blocks, blksize, atime, mtime, ctime = attr
    return _direntplus.pack(
        nodeid, 0, YEAR, valid, 0, 0, ino, size, blocks, atime // _BILLION, mtime // _BILLION, ctime // _BILLION,
        atime % _BILLION, mtime % _BILLION, ctime % _BILLION, mode, nlink, uid, gid, rdev & 0xFFFFFFFF, blksize, 0,
        ino, offset, len(name), mode >> 12,
    ) + name + _PADDING[len(name) & 7]  # fmt: skip


def listed_entry(nodeid: int, ino: int, st: os.stat_result, offset: int, name: bytes) -> bytes:
    """The same for what a layer has as it is, and is valid for ever."""
    atime, mtime, ctime, mode = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns, st.st_mode
    return _direntplus.pack(
        nodeid, 0, YEAR, YEAR, 0, 0, ino, st.st_size, st.st_blocks, atime // _BILLION, mtime // _BILLION, ctime // _BILLION,
        atime % _BILLION, mtime % _BILLION, ctime % _BILLION, mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev & 0xFFFFFFFF,
        st.st_blksize, 0, ino, offset, len(name), mode >> 12,
    ) + name + _PADDING[len(name) & 7]  # fmt: skip


def stale_contents(nodeid: int) -> bytes:
    """The notification that what the kernel keeps of a directory's entries is out of date. It locks pages, but not the inode."""
    return _inval_inode.pack(40, NOTIFY_INVAL_INODE, 0, nodeid, 0, 0)


def stale_attributes(nodeid: int) -> bytes:
    """The notification that the attributes and ACLs of a node have changed. The offset -1 leaves its pages alone, and so takes no lock."""
    return _inval_inode.pack(40, NOTIFY_INVAL_INODE, 0, nodeid, -1, 0)
