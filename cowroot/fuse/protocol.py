"""The kernel's FUSE protocol, as far as it is looked at: numbers and structures of include/uapi/linux/fuse.h.

All integers are in the machine's byte order and aligned by hand, so that `=` formats describe them.
"""

from __future__ import annotations

import struct

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT = 20, 21, 22, 23, 24, 25, 26
OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 27, 28, 29, 30
CREATE, INTERRUPT, DESTROY, IOCTL, POLL, BATCH_FORGET, FALLOCATE = 35, 36, 38, 39, 40, 42, 43
ACCESS, BMAP, READDIRPLUS, SYNCFS, STATX = 34, 37, 44, 50, 52
RENAME2, LSEEK, COPY_FILE_RANGE, TMPFILE, COPY_FILE_RANGE_64 = 45, 46, 47, 51, 53

OPCODES = {
    number: name.lower()
    for name, number in list(globals().items())
    if name.isupper() and isinstance(number, int)
}  # fmt: skip
OPCODE_LIMIT = 64

# Flags of INIT, in the order of their bits: what `cowroot status` calls protocol features.
INIT_FLAGS = (
    "async_read", "posix_locks", "file_ops", "atomic_o_trunc", "export_support", "big_writes", "dont_mask", "splice_write",
    "splice_move", "splice_read", "flock_locks", "ioctl_dir", "auto_inval_data", "readdirplus", "readdirplus_auto", "async_dio",
    "writeback_cache", "no_open_support", "parallel_dirops", "handle_killpriv", "posix_acl", "abort_error", "max_pages",
    "cache_symlinks", "no_opendir_support", "explicit_inval_data", "map_alignment", "submounts", "handle_killpriv_v2",
    "setxattr_ext", "init_ext",
)  # fmt: skip
PARALLEL_DIROPS, POSIX_ACL, MAX_PAGES, CACHE_SYMLINKS, HANDLE_KILLPRIV_V2 = 1 << 18, 1 << 20, 1 << 22, 1 << 23, 1 << 28
SETXATTR_EXT = 1 << 29

FOPEN_KEEP_CACHE = 1 << 1
SETXATTR_ACL_KILL_SGID = 1 << 0
WRITE_CACHE = 1 << 0  # pages of a shared mapping, written back
WRITE_KILL_SUIDGID = 1 << 2
OPEN_KILL_SUIDGID = 1 << 0
FSYNC_FDATASYNC = 1 << 0

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME = 1, 2, 4, 8, 16, 32
FATTR_CHANGES = 63  # those six: what a caller can have asked for
FATTR_FH, FATTR_ATIME_NOW, FATTR_MTIME_NOW, FATTR_KILL_SUIDGID = 1 << 6, 1 << 7, 1 << 8, 1 << 11

ROOT_ID = 1

IN_HEADER = struct.Struct("=IIQQIIII")  # len opcode unique nodeid uid gid pid padding
REWRITTEN = struct.Struct("=II")  # the part of it that changes when a request is made into another
OUT_HEADER = struct.Struct("=IiQ")  # len error unique
BODY = IN_HEADER.size  # where a request's own structure begins
NODEID_OFFSET = 16

INIT_IN = struct.Struct("=IIII")  # major minor max_readahead flags
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment flags2
INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
ENTRY_OUT = struct.Struct("=QQQQII")  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec; then an attr
ATTR = struct.Struct("=QQQqqqIIIIIIIIII")  # ino size blocks atime mtime ctime their_nsec*3 mode nlink uid gid rdev blksize flags
ATTR_OUT = struct.Struct("=QII")  # attr_valid attr_valid_nsec dummy; then an attr
OPEN_OUT = struct.Struct("=QII")  # fh open_flags padding
SETATTR_IN = struct.Struct("=IIQQQqqqIIIIIIII")  # valid pad fh size lock_owner atime mtime ctime nsec*3 mode unused uid gid unused
OPEN_IN = struct.Struct("=II")  # flags open_flags
CREATE_IN = struct.Struct("=IIII")  # flags mode umask open_flags
MKNOD_IN = struct.Struct("=IIII")  # mode rdev umask padding
MKDIR_IN = struct.Struct("=II")  # mode umask
READ_IN = struct.Struct("=QQI")  # fh offset size; more follows
WRITE_IN = struct.Struct("=QQIIQII")  # fh offset size write_flags lock_owner flags padding
WRITE_OUT = struct.Struct("=II")  # size padding
FSYNC_IN = struct.Struct("=QI")  # fh fsync_flags; padding follows
FALLOCATE_IN = struct.Struct("=QQQII")  # fh offset length mode padding
LSEEK_IN = struct.Struct("=QqII")  # fh offset whence padding; the offset may be negative
COPY_IN = struct.Struct("=QQQQQQQ")  # fh_in off_in nodeid_out fh_out off_out len flags
RENAME2_IN = struct.Struct("=QII")  # newdir flags padding
SETXATTR_IN = struct.Struct("=II")  # size flags
SETXATTR_IN_EXT = struct.Struct("=IIII")  # size flags setxattr_flags padding: with SETXATTR_EXT
GETXATTR_IN = struct.Struct("=II")  # size padding
FORGET_ONE = struct.Struct("=QQ")  # nodeid nlookup
KSTATFS = struct.Struct("=QQQQQIIII24x")  # blocks bfree bavail files ffree bsize namelen frsize padding spare

U64 = struct.Struct("=Q")
U32 = struct.Struct("=I")


def flag_names(flags: int) -> list[str]:
    """The names of the INIT flags that are set."""
    return [name for bit, name in enumerate(INIT_FLAGS) if flags >> bit & 1]
