"""What overlayfs writes into an upper to say "not here", "nothing from below" and "my lower part is elsewhere".

The format is the kernel's (Documentation/filesystems/overlayfs.rst, fs/overlayfs/overlayfs.h), so that the kernel can mount what is
written here and the other way round. Attributes of our own stand beside it; an upper without them is valid.
"""

from __future__ import annotations

import errno
import os
import stat

from cowroot.union.syscalls import through

OCI_PREFIX, OCI_OPAQUE = b".wh.", b".wh..wh..opq"  # see whiteouts.py
REDIRECT_MAX = 4096  # PATH_MAX; the kernel accepts no more than XATTR_SIZE_MAX and then fails in look-up


class Marks:
    """The names of the attributes, in the namespace that the mount uses.

    `trusted.*` needs CAP_SYS_ADMIN; with `userxattr`, overlayfs and we use `user.*` instead.
    """

    def __init__(self, userxattr: bool = False) -> None:
        self.userxattr = userxattr
        space = "user" if userxattr else "trusted"
        self.opaque = f"{space}.overlay.opaque"
        self.redirect = f"{space}.overlay.redirect"
        self.metacopy = f"{space}.overlay.metacopy"
        # an empty file with it is a whiteout, in a directory whose opaque is "x" (Linux 6.7)
        self.whiteout = f"{space}.overlay.whiteout"
        # the directory has entries that came from below: only then d_ino is not simply the upper's (fs/overlayfs/readdir.c)
        self.impure = f"{space}.overlay.impure"
        # the inode number that the file showed before it was copied up
        self.ino = f"{space}.cowroot.ino"
        # on a character device 0:0: it is one, made by somebody through the union, and not a whiteout
        self.device = f"{space}.cowroot.device"
        # how many bytes of the lower's data count in a file that is copied up in part
        self.limit = f"{space}.cowroot.limit"
        # nothing ever has it: to remove it tells whether a file system can be written, and changes nothing
        self.none = f"{space}.cowroot.none"
        # on an upper's root: the number of its file system, and the name of the work directory beside it (former.py)
        self.fs = f"{space}.cowroot.fs"
        self.work = f"{space}.cowroot.work"
        self._private = (f"{space}.overlay.", f"{space}.cowroot.")

    def is_private(self, name: str) -> bool:
        """True for attributes that belong to the union and are never shown through it."""
        return name.startswith(self._private)

    def is_whiteout(self, fd: int, path: bytes, st: os.stat_result) -> bool:
        """True if what `st` describes, `path` below the directory `fd`, is a whiteout: a character device 0:0 hides the name below."""
        return st.st_rdev == 0 and stat.S_ISCHR(st.st_mode) and self.device not in self.read(fd, path)

    def read(self, fd: int, path: bytes) -> dict[str, bytes]:
        """The private attributes of `path` below the directory `fd`; empty where the file system has none."""
        place = through(fd, path)
        try:
            names = os.listxattr(place, follow_symlinks=False)
        except OSError as e:
            if e.errno in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
                return {}
            raise
        return {name: os.getxattr(place, name, follow_symlinks=False) for name in names if self.is_private(name)}

    def set(self, fd: int, path: bytes, name: str, value: bytes) -> None:
        """Set one attribute of `path` below the directory `fd`."""
        os.setxattr(through(fd, path), name, value, follow_symlinks=False)


def parse_redirect(value: bytes) -> tuple[bool, list[bytes]]:
    """Read a redirect: (True, components from the root of the layer) or (False, [another name in the same directory]).

    Raises OSError(EIO) for anything else: an empty, absurdly long or climbing path is damage or an attack.
    """
    absolute = value.startswith(b"/")
    parts = value[1:].split(b"/") if absolute else [value]
    if len(value) > REDIRECT_MAX or b"\0" in value or any(p in (b"", b".", b"..") or b"/" in p for p in parts):
        raise OSError(errno.EIO, f"invalid redirect {value[:80]!r} in the upper")
    return absolute, parts
