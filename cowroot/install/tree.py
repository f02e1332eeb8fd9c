"""A root file system that is reached without ever leaving it.

The content of an image is nobody's friend: `/etc` may be a symbolic link to `/evil` or to `../../../etc`, `/etc/os-release` a FIFO
or a device. So no path of a target is ever given to the kernel whole. `Tree` walks it name by name with descriptors, reads symbolic
links itself and starts absolute ones at its own root, as the image would see them after booting; `..` goes back along the
descriptors it came by and stops at the root. (openat2's RESOLVE_IN_ROOT does the same from Linux 5.6 on; this needs no particular
kernel.) Content is read from regular files only, and nothing but a regular file is ever opened.

All methods take paths as seen from inside the root, with or without a leading slash, and raise OSError with such a path as `filename`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

# As many as the kernel follows (MAXSYMLINKS in linux/namei.h).
_MOST_LINKS = 40
# Nothing that is read whole is larger (the largest is a kernel's /boot/config or modules.dep); the rest is streamed.
_MOST_TEXT = 16 << 20
_BLOCK = 1 << 20

_MSDOS_SUPER_MAGIC = 0x4D44  # linux/magic.h

_libc = ctypes.CDLL(None, use_errno=True)


class Tree:
    """A root file system at a directory; a context manager that closes its descriptor."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.path = Path(root)
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.fd)

    # Looking

    def canonical(self, path: str, *, follow: bool = False) -> str:
        """Return `path` with every symbolic link resolved, the last name only if `follow`. What does not exist yet is kept."""
        with self._walked(path, follow=follow, missing_ok=True) as (_, names):
            return "/" + "/".join(names)

    def lstat(self, path: str) -> os.stat_result:
        with self._at(path) as (parent, name):
            return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def exists(self, path: str, *, follow: bool = True) -> bool:
        """Tell whether there is anything at `path`. A dangling or looping link counts as nothing when followed."""
        try:
            with self._at(path, follow=follow) as (parent, name):
                os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return True

    def is_file(self, path: str) -> bool:
        return self._is(path, stat.S_ISREG)

    def is_dir(self, path: str) -> bool:
        return self._is(path, stat.S_ISDIR)

    def _is(self, path: str, kind: object) -> bool:
        assert callable(kind)
        try:
            with self._at(path, follow=True) as (parent, name):
                return bool(kind(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise

    def readlink(self, path: str) -> str:
        with self._at(path) as (parent, name):
            return os.readlink(name, dir_fd=parent)

    def listdir(self, path: str) -> list[str]:
        """Return the sorted names in the directory `path`; an empty list if there is no such directory."""
        try:
            with self.directory(path) as fd:
                return sorted(os.listdir(fd))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return []
            raise

    def xattrs(self, path: str) -> dict[str, bytes]:
        """Return the extended attributes of a file or directory (ACLs and capabilities among them), none where there cannot be any."""
        with self._pinned(path) as fd:
            # The descriptor is O_PATH, on which no attribute can be asked for; its link in /proc leads to the same inode.
            link = f"/proc/self/fd/{fd}"
            try:
                return {name: os.getxattr(link, name) for name in os.listxattr(link)}
            except OSError as error:
                if error.errno == errno.ENOTSUP:
                    return {}
                raise

    def is_on_fat(self, path: str) -> bool:
        """Tell whether the directory that holds `path` is on FAT, which keeps neither permissions nor owners (statfs(2), f_type)."""
        with self._at(path) as (parent, _):
            facts = (ctypes.c_long * 32)()
            return _libc.fstatfs(parent, facts) == 0 and facts[0] == _MSDOS_SUPER_MAGIC

    def open_file(self, path: str, *, follow: bool = False) -> int:
        """Open a regular file for reading and return the descriptor. EINVAL if it is anything else, which is then not opened."""
        with self._pinned(path, follow=follow) as fd:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "is not a regular file", path)
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, path: str) -> bytes:
        """Return the content of a regular file of at most 16 MiB, following links inside the root."""
        fd = self.open_file(path, follow=True)
        with open(fd, "rb") as file:
            content = file.read(_MOST_TEXT + 1)
        if len(content) > _MOST_TEXT:
            raise OSError(errno.EFBIG, "is larger than any such file", path)
        return content

    def read_text(self, path: str) -> str:
        return self.read(path).decode("utf-8", "replace")

    @contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """Open the directory `path` (links followed) for as long as the block lasts."""
        with self._pinned(path, follow=True) as pinned:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=pinned)
        try:
            yield fd
        finally:
            os.close(fd)

    # Changing. Nothing below follows a link in the last name: what is there is replaced, not written through.

    def write(
        self, path: str, source: int | bytes, *, mode: int, uid: int, gid: int, mtime_ns: int | None, xattrs: dict[str, bytes]
    ) -> None:
        """Put a regular file at `path`, whole or not at all.

        `source` is the content or a descriptor to copy it from. It is written beside `path`, as `temporary(path)`, and renamed.
        `mode` are the permission bits, `mtime_ns` the modification time (None: now).
        """
        with self._at(path) as (parent, name):
            fresh = temporary(name)
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=parent)
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                _fill(fd, source)
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
                # After chown, which drops security.capability.
                for key, value in xattrs.items():
                    os.setxattr(fd, key, value)
                if mtime_ns is not None:
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
                os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(OSError):
                    os.unlink(fresh, dir_fd=parent)
                raise
            finally:
                os.close(fd)

    def symlink(self, path: str, target: str, *, uid: int, gid: int, mtime_ns: int | None) -> None:
        """Put a symbolic link at `path`, whole or not at all."""
        with self._at(path) as (parent, name):
            fresh = temporary(name)
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=parent)
            os.symlink(target, fresh, dir_fd=parent)
            os.chown(fresh, uid, gid, dir_fd=parent, follow_symlinks=False)
            if mtime_ns is not None:
                os.utime(fresh, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
            os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)

    def mkdir(self, path: str, *, mode: int, uid: int, gid: int, xattrs: dict[str, bytes]) -> None:
        """Make a directory, or give one that is there this mode, owner and attributes."""
        with self._at(path) as (parent, name):
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fchown(fd, uid, gid)
                os.fchmod(fd, mode)
                for key in os.listxattr(fd):
                    if key not in xattrs:
                        os.removexattr(fd, key)
                for key, value in xattrs.items():
                    os.setxattr(fd, key, value)
            finally:
                os.close(fd)

    def remove(self, path: str) -> None:
        """Remove whatever is at `path`; a directory must be empty. What is not there counts as removed."""
        try:
            with self._at(path) as (parent, name):
                if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    os.rmdir(name, dir_fd=parent)
                else:
                    os.unlink(name, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            return

    def set_xattr(self, path: str, name: str, value: bytes | None) -> None:
        """Set an extended attribute of a file or directory, or remove it (None). What cannot have any is left without."""
        with self._pinned(path) as fd:
            link = f"/proc/self/fd/{fd}"
            try:
                if value is None:
                    os.removexattr(link, name)
                else:
                    os.setxattr(link, name, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENODATA):
                    raise

    def set_mtime(self, path: str, mtime_ns: int) -> None:
        """Set the modification time; the access time becomes the same."""
        with self._at(path) as (parent, name):
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)

    def sync(self, directories: Iterable[str] = ("/",)) -> None:
        """Wait until everything is on the disk that was written to the file systems of these directories. Raises what writing raised."""
        done = set()
        for path in directories:
            with self.directory(path) as fd:
                device = os.fstat(fd).st_dev
                if device not in done and _libc.syncfs(fd) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), path)
                done.add(device)

    # Walking

    @contextmanager
    def _at(self, path: str, *, follow: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the open directory that holds `path`, and the name in it. The root itself is `.` in itself."""
        with self._walked(path, follow=follow) as (stack, names):
            yield stack[-1], names[-1] if names else "."

    @contextmanager
    def _pinned(self, path: str, *, follow: bool = False) -> Iterator[int]:
        """Hold exactly what is at `path`, without opening it (O_PATH: no FIFO blocks, no driver wakes up)."""
        with self._at(path, follow=follow) as (parent, name):
            fd = _pin(name, parent, path)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _walked(self, path: str, *, follow: bool, missing_ok: bool = False) -> Iterator[tuple[list[int], list[str]]]:
        """Yield the descriptors of all directories on the way (the root first, the parent of `path` last) and the names walked.

        There are as many descriptors as names: the last name has not been opened. With `missing_ok` names that do not exist are kept.
        """
        stack = [os.dup(self.fd)]
        names: list[str] = []
        todo = [name for name in reversed(path.split("/")) if name not in ("", ".")]
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name == "..":
                    if names:
                        names.pop()
                        if len(stack) > 1:
                            os.close(stack.pop())
                    continue
                if len(stack) <= len(names):  # the name before is a directory that has yet to be entered
                    try:
                        stack.append(_enter(names[-1], stack[-1], path))
                    except FileNotFoundError:
                        if not missing_ok:
                            raise
                        names.extend([name, *reversed(todo)])
                        break
                target = _link_target(name, stack[-1]) if todo or follow else None
                if target is None:
                    names.append(name)
                    continue
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    while len(stack) > 1:
                        os.close(stack.pop())
                    names.clear()
                todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
            yield stack, names
        finally:
            for fd in stack:
                os.close(fd)


def temporary(name: str) -> str:
    """Where a file is written before it takes its place; also what is left of it after a kill."""
    return f"{name}.cowroot-new"


def _enter(name: str, parent: int, path: str) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _pin(name: str, parent: int, path: str) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _link_target(name: str, parent: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # not a link, or nothing at all
            return None
        raise


def _fill(fd: int, source: int | bytes) -> None:
    if isinstance(source, bytes):
        blocks: Iterator[bytes] = iter([source])
    else:
        os.lseek(source, 0, os.SEEK_SET)
        blocks = iter(lambda: os.read(source, _BLOCK), b"")
    for block in blocks:
        view = memoryview(block)
        while view:
            view = view[os.write(fd, view) :]
