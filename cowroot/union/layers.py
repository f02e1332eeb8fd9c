"""The layers of a union: directories held by descriptor, checked before anything is served from them.

Descriptors, not paths: once `/` is handed over by `mount --move`, the paths by which the layers were found lead elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Container, Sequence
from typing import NamedTuple, Optional
from typing import Union as EitherOf

from cowroot.errors import DamageError, LayerError
from cowroot.union import former
from cowroot.union.directories import empty, is_inside, lock, make_directory, open_directory, remove
from cowroot.union.marks import OCI_OPAQUE, Marks
from cowroot.union.syscalls import RENAME_EXCHANGE, is_btrfs, let_go, near, open_beneath, private_mount, renameat2

Where = EitherOf[str, bytes, int]

DAMAGE = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENOTDIR, errno.ELOOP)  # what a damaged file system answers, or a tree in disorder
# temporaries; hard-linked lower files that were copied up; their link counts; files without a name that are still open; the numbers of file
# systems inside layers
WORK_DIRECTORIES = (b"tmp", b"index", b"links", b"orphans", b"numbers")


class LayerSpec(NamedTuple):
    """Which directories make a union: paths or directory descriptors.

    Arguments: `lower`, topmost first, at least one; `upper` and `work`, both or none (none: a read-only union), on one file system;
    `userxattr`: keep marks in `user.overlay.*`, for mounts without privileges; `metacopy`: copy up no more of a large file than is written,
    if the upper's file system can hold that (else, or if False: all of it); `mountpoint`: where the union will be mounted, if it will;
    `whiteouts`: which ones to look for in each lower, "overlay" or also "oci"; nothing: overlay's, a single one: the same in all;
    `reserve`: how much of the upper is kept for root (reserve.py).
    """

    lower: Sequence[Where]
    upper: Optional[Where] = None
    work: Optional[Where] = None
    userxattr: bool = False
    metacopy: bool = True
    mountpoint: Optional[Where] = None
    whiteouts: Sequence[str] = ()
    reserve: str = "0"


class Layer:
    """One directory tree: its descriptor, what to call it in messages, the number of its file system (numbers.py).

    A lower that was an upper (former.py) has `number`, what its file system's was then, and `work`, which is no layer but holds files, too.
    """

    __slots__ = ("dev", "fd", "fs", "label", "marked", "number", "oci", "private", "rank", "uniform", "work")

    def __init__(self, where: Where, what: str) -> None:
        self.label = f"descriptor {where}" if isinstance(where, int) else os.fsdecode(where)
        self.fs = 0
        self.oci = False  # has whiteouts of OCI's form
        self.private = False  # no mount is to be seen in it
        self.marked = False  # may hold opaque directories and redirects that matter: there is a layer below
        self.rank = 0  # how many layers are above it, of the lowers
        self.number = -1
        self.work: Layer | None = None
        try:
            if isinstance(where, int):
                self.fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=where)
            else:
                self.fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            hint = f"create it: mkdir -p {self.label}" if e.errno == errno.ENOENT else "name a directory that you may read"
            kind = LayerError if what.startswith("lower") else _kind_of(e)
            raise kind(f"{what} {self.label}: {e.strerror}", hint=hint) from None
        st = os.fstat(self.fd)
        self.dev = st.st_dev
        # Where directories have no link count (btrfs, overlayfs), files can be on several devices, and readdir's inode numbers others than
        # stat's.
        self.uniform = st.st_nlink > 1

    def withdraw(self) -> None:
        """Go over to a mount of our own, as overlayfs does, where that is possible.

        What is mounted on directories of the layer then is not part of it: with the union itself among that, looking it up would be to
        wait for ourselves.
        """
        with contextlib.suppress(OSError):
            fd = private_mount(self.fd)
            os.close(self.fd)
            self.fd, self.private = fd, True

    def stat(self, path: bytes) -> os.stat_result:
        dir_fd, path = near(self.fd, path)
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def has(self, path: bytes) -> bool:
        """True if there is something at `path`."""
        try:
            self.stat(path)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                return False
            raise
        return True

    def names(self, directory: bytes) -> list[bytes]:
        """What is in a directory, in any order."""
        fd = open_directory(self.fd, directory)
        try:
            return [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)

    def open_untouched(self, path: bytes, flags: int = 0) -> int:
        """Open for reading without moving the access time, where the file is ours or we are root: a lower is not to be written."""
        try:
            return open_beneath(self.fd, path, flags | os.O_NOATIME)
        except PermissionError:
            return open_beneath(self.fd, path, flags)

    def recognise(self, marks: Marks, own: Layer | None) -> None:
        """Find out whether it was an upper. To be called before `withdraw`, for its work directory is beside it. Raises LayerError.

        Arguments: `own`: the work directory that the union has now.
        """
        try:
            self.number = former.number_of(self.fd, marks)
            fd = former.open_work(self.fd, marks) if self.number >= 0 else -1
        except OSError as e:
            raise LayerError(f"lower directory {self.label}: {e.strerror}", hint="check its file system") from None
        if fd >= 0 and own is not None and os.path.sameopenfile(fd, own.fd):
            os.close(fd)  # another upper has taken it over
        elif fd >= 0:
            self.adopt_work(fd)
            if not lock(fd, fcntl.LOCK_SH):
                raise LayerError(
                    f"lower directory {self.label} is the upper of a union that is mounted",
                    hint="unmount that one: what is in a lower must not change",
                )

    def adopt_work(self, fd: int) -> None:
        """`fd`, our part of a work directory, is that of this layer. The descriptor is the layer's from now on."""
        self.work = Layer(fd, "work directory")
        os.close(self.work.fd)
        self.work.fd, self.work.label, self.work.number = fd, self.label, self.number

    def close(self) -> None:
        os.close(self.fd)
        if self.work is not None:
            self.work.close()


class Layers:
    """All layers of one union, opened and found fit. Raises LayerError if one is not."""

    def __init__(self, spec: LayerSpec) -> None:
        self.marks = Marks(spec.userxattr)
        self.lower: list[Layer] = []
        self.sources: list[Layer] = []  # where files can be that are not in the upper: these, and work directories of former uppers
        self.upper: Layer | None = None
        self.work: Layer | None = None
        self.metacopy = spec.metacopy
        self.reserve = spec.reserve
        self.scattered = False  # fsync in the upper brings to the disk what it is called for alone, not all that was done before
        self.locked = False  # the work directory is ours alone
        self.work_name = b""  # what the work directory is called, if it is beside the upper
        try:
            self._open(spec)
        except BaseException:
            self.close()
            raise

    def _open(self, spec: LayerSpec) -> None:
        if not spec.lower:
            raise LayerError("a union needs a lower directory", hint="give lowerdir=DIR")
        if (spec.upper is None) != (spec.work is None):
            missing, given = ("workdir", "upperdir") if spec.work is None else ("upperdir", "workdir")
            hint = f"give {missing}=DIR too, on the same file system, or neither for a read-only union"
            raise LayerError(f"{given} without {missing}", hint=hint)
        for where in spec.lower:
            self.lower.append(Layer(where, "lower directory"))
        self._take_whiteouts(spec.whiteouts)
        if spec.upper is not None and spec.work is not None:
            self.upper = Layer(spec.upper, "upper directory")
            self.work = Layer(spec.work, "work directory")
            self.scattered = is_btrfs(self.upper.fd)
            self.upper.number = former.number_of(self.upper.fd, self.marks)
            self._refuse_overlaps(self.upper, self.work)
            self._prepare_work(self.upper, self.work)
            self._probe_upper(self.upper, self.work)
        for layer in self.lower:
            layer.recognise(self.marks, self.work)
        self.note_those_above()
        for layer in self.lower:
            layer.withdraw()
        if spec.mountpoint is not None:
            self._refuse_mountpoint(spec.mountpoint)

    def _take_whiteouts(self, kinds: Sequence[str]) -> None:
        """Note the form of each layer's whiteouts; below one whose root is opaque nothing can be seen."""
        if len(kinds) == 1:
            kinds = list(kinds) * len(self.lower)
        for layer, kind in zip(self.lower, kinds):
            layer.oci = kind == "oci"
        for number, layer in enumerate(self.lower):
            if layer.oci and layer.has(OCI_OPAQUE):
                for hidden in self.lower[number + 1 :]:
                    hidden.close()
                del self.lower[number + 1 :]

    def note_those_above(self) -> None:
        """Note which layers have others below them, or had."""
        for layer in (*self.lower[:-1], self.upper):
            if layer is not None:
                layer.marked = True
        for rank, layer in enumerate(self.lower):
            layer.rank = rank
            layer.marked |= layer.number >= 0
            if layer.work is not None:
                layer.work.rank, layer.work.marked = rank, True
        self.sources = [*self.lower, *(layer.work for layer in self.lower if layer.work is not None)]

    def close(self) -> None:
        if self.locked and self.work is not None:
            with contextlib.suppress(OSError):  # of an upper that became read-only, say: the next mount does it
                self.clean()
        self.locked = False
        for layer in (*self.lower, self.upper, self.work):
            if layer is not None:
                layer.close()
        self.lower, self.sources, self.upper, self.work = [], [], None, None
        let_go()

    def _refuse_overlaps(self, upper: Layer, work: Layer) -> None:
        """A layer inside another would show the union its own files, or lose them."""
        writable = [("upper directory", upper), ("work directory", work)]
        for what, layer in writable:
            for other_what, other in [*writable, *(("lower directory", low) for low in self.lower)]:
                if layer is not other and (is_inside(layer.fd, other.fd) or is_inside(other.fd, layer.fd)):
                    raise LayerError(
                        f"{what} {layer.label} and {other_what} {other.label} overlap", hint="use directories of which none lies in another"
                    )

    def _refuse_mountpoint(self, where: Where) -> None:
        """A union that finds itself mounted in one of its layers would wait for itself."""
        try:
            point = Layer(where, "mount point")
        except LayerError:
            return  # whoever mounts there will say it better
        try:
            for layer in (*self.lower, self.upper, self.work):
                if layer is None or layer.private or os.path.sameopenfile(layer.fd, point.fd):
                    continue
                if is_inside(point.fd, layer.fd):
                    raise LayerError(
                        f"mount point {point.label} lies in {layer.label}, a layer", hint="mount it somewhere else, or over the layer"
                    )
        finally:
            point.close()

    def _prepare_work(self, upper: Layer, work: Layer) -> None:
        if upper.dev != work.dev:
            raise LayerError(
                f"upper directory {upper.label} and work directory {work.label} are on different file systems",
                hint="put both on one mounted file system, next to each other",
            )
        try:
            # a directory of our own in it: the kernel's overlayfs keeps `work` and `index` beside it
            make_directory(work.fd, b"cowroot")
            own = open_directory(work.fd, b"cowroot")
            self.work_name = former.name_beside(work.fd, upper.fd)
            os.dup2(own, work.fd, inheritable=False)
            os.close(own)
            if not lock(work.fd):
                raise LayerError(
                    f"work directory {work.label} is in use by another mount",
                    hint="unmount that one, or use another upper and work directory",
                )
            for name in WORK_DIRECTORIES:
                make_directory(work.fd, name)
            self.clean()
            self.locked = True
        except OSError as e:
            raise _kind_of(e)(f"work directory {work.label}: {e.strerror}", hint="use an empty directory that you may write") from None

    def fault_of_upper(self) -> str:
        """Why the upper cannot be written any more; nothing if it can, or nobody can tell.

        The kernel makes a file system read-only when its disk fails, and does not always say so to who asks for its state: ext4 not from
        Linux 6.12 on. So this begins a change, of which nothing comes.
        """
        if self.upper is not None:
            try:
                os.removexattr(self.upper.fd, self.marks.none)
            except OSError as e:
                if e.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES):
                    return e.strerror or str(e)
        return ""

    def clean(self, kept: Container[bytes] = ()) -> None:
        """Remove from the work directory what only a running union can have use for, but for the files `kept`."""
        if self.work is None:
            return
        for directory in (b"tmp", b"orphans"):
            fd = open_directory(self.work.fd, directory)
            try:
                for name in map(os.fsencode, os.listdir(fd)):
                    if directory + b"/" + name not in kept:
                        remove(fd, name)
            finally:
                os.close(fd)

    def _probe_upper(self, upper: Layer, work: Layer) -> None:
        """Try what will be needed, so that an unfit file system is refused now instead of failing some later write."""
        probe = b"tmp/probe"
        st = os.fstat(upper.fd)
        try:
            upper.names(b".")
        except OSError as e:
            raise _kind_of(e)(f"upper directory {upper.label} cannot be read: {e.strerror}", hint="check its file system") from None
        try:
            try:
                os.mknod(probe, stat.S_IFCHR, 0, dir_fd=work.fd)
            except OSError as e:
                raise LayerError(
                    f"upper directory {upper.label}: its file system cannot hold whiteouts (character device 0:0): {e.strerror}",
                    hint="use a Linux file system such as ext4, xfs, btrfs or tmpfs, not FAT, NTFS or a network share",
                ) from None
            try:
                renameat2(work.fd, probe, upper.fd, b".cowroot-probe", 0)
                renameat2(upper.fd, b".cowroot-probe", work.fd, probe, 0)
            except OSError as e:
                raise _kind_of(e)(
                    f"work directory {work.label} and upper directory {upper.label}: renaming between them fails: {e.strerror}",
                    hint="put both on one mounted file system, next to each other, and mount it writable",
                ) from None
            os.mkdir(b"tmp/probe-directory", dir_fd=work.fd)
            try:
                renameat2(work.fd, probe, work.fd, b"tmp/probe-directory", RENAME_EXCHANGE)
                os.rmdir(probe, dir_fd=work.fd)
                os.rename(b"tmp/probe-directory", probe, src_dir_fd=work.fd, dst_dir_fd=work.fd)
            except OSError as e:
                raise LayerError(
                    f"upper directory {upper.label}: its file system cannot exchange two names (RENAME_EXCHANGE): {e.strerror}",
                    hint="use ext4, xfs, btrfs or tmpfs on Linux 3.15 or newer",
                ) from None
            os.unlink(probe, dir_fd=work.fd)
            os.mkdir(probe, dir_fd=work.fd)
            try:
                self.marks.set(work.fd, probe, self.marks.ino, b"0")
            except OSError as e:
                raise LayerError(
                    f"upper directory {upper.label}: its file system does not take the attribute {self.marks.ino}: {e.strerror}",
                    hint="use ext4, xfs, btrfs or tmpfs as root; without privileges add the option userxattr",
                ) from None
        finally:
            os.utime(upper.fd, ns=(st.st_atime_ns, st.st_mtime_ns))  # the root's times are the upper's, and mounting is no change
            empty(open_directory(work.fd, b"tmp"))


def _kind_of(error: OSError) -> type[LayerError]:
    """How to call what is wrong with an upper or work directory that answered so."""
    return DamageError if error.errno in DAMAGE else LayerError
