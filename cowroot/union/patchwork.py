"""Files of which only a part was copied up: metadata-only copies, and large files copied block by block as they are written.

Such a file lies in the upper with its full size, its own attributes and the mark `overlay.metacopy`, and the holes in it are filled from
the lower: a block of the upper that holds data has been written, a hole has not. Nothing else says which is which, so a crash cannot
make the two disagree. `cowroot.limit` is how far the lower's data counts, where the file was once shorter than that. If the lower was an
upper, its file may be in parts itself: then its holes are filled from what is below, and so on.

To the kernel's overlayfs, a file of which no data was written is its own metacopy. One with written blocks looks the same: mounted with
metacopy=off it is refused, with metacopy=on it shows the lower's data. `complete` makes it an ordinary file.
"""

from __future__ import annotations

import errno
import os

from cowroot.union.copying import CHUNK
from cowroot.union.layers import Layer
from cowroot.union.node import Node, Patch
from cowroot.union.tree import Tree
from cowroot.union.waiting import WITHOUT_END, Wait

BLOCK = 4096  # bytes; `can_patch` makes sure that the upper tells holes from data at this grain
CAPABILITY = "security.capability"
WORTHWHILE = 128 << 10  # bytes; a smaller file is copied whole: that takes no longer, and keeps the upper plain


def can_patch(work: Layer, path: bytes) -> bool:
    """True if the file system of the work directory tells a written block from a hole, and takes one block for one.

    tmpfs with huge pages, for one, does not: a byte makes two megabytes of data. Arguments: `path`: a name to try it with.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=work.fd)
    try:
        os.ftruncate(fd, 8 << 20)
        os.pwrite(fd, b"x", (4 << 20) + BLOCK)
        start = os.lseek(fd, 0, os.SEEK_DATA)
        return start == (4 << 20) + BLOCK and os.lseek(fd, start, os.SEEK_HOLE) == start + BLOCK
    except OSError:
        return False
    finally:
        os.close(fd)
        os.unlink(path, dir_fd=work.fd)


def _next(fd: int, offset: int, whence: int, end: int) -> int:
    """Where data, or a hole, comes next at or after `offset`; `end` if nowhere before."""
    try:
        return min(os.lseek(fd, offset, whence), end)
    except OSError as e:
        if e.errno == errno.ENXIO:
            return end
        raise


def source(patch: Patch) -> int:
    """The descriptor of the lower's data, opened when it is first needed."""
    if patch.fd < 0:
        layer, path = patch.place
        patch.fd = layer.open_untouched(path)
    return patch.fd


def duplicate(patch: Patch) -> Patch:
    """The same with a descriptor of its own, open already, for who reads while other calls are made. It has to be closed."""
    copy = patch.anew()
    for each, other in zip(copy.all(), patch.all()):
        each.fd = os.dup(source(other))
    return copy


def read(patch: Patch, fd: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes at `offset`, from the upper where it has them."""
    end = min(offset + size, os.fstat(fd).st_size)
    parts = []
    while offset < end:
        data = _next(fd, offset, os.SEEK_DATA, end)
        if data > offset:
            parts.append(_from_lower(patch, offset, data))
            offset = data
        else:
            stop = _next(fd, offset, os.SEEK_HOLE, end)
            part = os.pread(fd, stop - offset, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
    return b"".join(parts)


def _from_lower(patch: Patch, start: int, end: int) -> bytes:
    """The bytes from `start` to `end` where the upper has a hole: the lower's, and zeros behind their limit."""
    counts = min(end, patch.limit) - start
    data = b""
    while len(data) < counts:
        if patch.further is None:
            part = os.pread(source(patch), counts - len(data), start + len(data))
        else:
            part = read(patch.further, source(patch), counts - len(data), start + len(data))
        if not part:
            break
        data += part
    return data.ljust(end - start, b"\0")


def one_source(patch: Patch, fd: int, start: int, end: int) -> int | None:
    """The descriptor, of the upper's file `fd` and those below, that has all bytes from `start` to `end`; None if none has."""
    below: Patch | None = patch
    while below is not None:
        data = _next(fd, start, os.SEEK_DATA, end)
        if data < end:
            return fd if data == start and _next(fd, start, os.SEEK_HOLE, end) == end else None
        if end > below.limit:
            return None
        fd, below = source(below), below.further
    return fd


def prepare_write(tree: Tree, node: Node, fd: int, start: int, end: int) -> None:
    """Before the bytes from `start` to `end` are written: fill up the blocks of which only a part will be. Raises Wait.

    The last block, as far as the file now has it, is one of those if the file gets longer: btrfs writes zeros to the rest of it. For a
    truncation `start` and `end` are the new size.
    """
    patch = node.patch
    assert patch is not None
    if patch.filling:
        raise Wait(node)
    edges = {start - start % BLOCK} if start % BLOCK else set()
    if end % BLOCK:
        edges.add(end - end % BLOCK)
    size = os.fstat(fd).st_size
    if end > size and size % BLOCK:
        edges.add(size - size % BLOCK)
    missing = [block for block in edges if block < patch.limit and _next(fd, block, os.SEEK_DATA, block + BLOCK) == block + BLOCK]
    if tree.patience < WITHOUT_END and not all(_in_memory(patch, block) for block in missing):
        raise _Fetch(node, missing)
    for block in missing:
        os.pwrite(fd, _from_lower(patch, block, min(block + BLOCK, size)), block)


def _in_memory(patch: Patch, block: int) -> bool:
    fd = source(patch)
    while patch.further is not None and _next(fd, block, os.SEEK_DATA, block + BLOCK) == block + BLOCK:
        patch = patch.further
        if block >= patch.limit:
            return True
        fd = source(patch)
    try:
        return bool(os.preadv(fd, [bytearray(BLOCK)], block, os.RWF_NOWAIT))
    except OSError:
        return False  # not, or nobody can tell


class _Fetch(Wait):
    """Blocks of the lower's data are brought from the disk into memory."""

    long = settles = False

    def __init__(self, node: Node, blocks: list[int]) -> None:
        super().__init__(node)
        self._blocks = blocks
        assert node.patch is not None
        self._patch = node.patch

    def prepare(self) -> None:
        self._patch = duplicate(self._patch)

    def run(self) -> None:
        for block in self._blocks:
            try:
                _from_lower(self._patch, block, block + BLOCK)
            except OSError:
                return  # the call will come upon it

    def finish(self, done: bool) -> None:
        self._patch.close()


def shrink(tree: Tree, node: Node, size: int) -> None:
    """The file was truncated to `size` bytes: what the lower has behind that is gone for good."""
    assert node.patch is not None
    if size < node.patch.limit:
        node.patch.limit = size
        if tree.removed.place(node) is None:  # else nobody will read the mark
            tree.marks.set(*tree.place(node), tree.marks.limit, b"%d" % size)


def complete(tree: Tree, node: Node, fd: int) -> None:
    """Copy what is still missing into the upper's file, open for writing as `fd`, and make it an ordinary file. Raises Wait."""
    patch = node.patch
    assert patch is not None
    if tree.patience < patch.limit:
        raise _Completion(tree, node, fd)
    with _Unchanged(fd):
        fill_up(patch, fd)
        os.fdatasync(fd)
    _make_ordinary(tree, node, fd)


class _Completion(Wait):
    """What is missing is copied, while nobody writes to the file or changes its size: `Patch.filling` keeps them away."""

    def __init__(self, tree: Tree, node: Node, fd: int) -> None:
        super().__init__(node)
        assert node.patch is not None
        self._tree, self._upper = tree, fd
        self._patch = node.patch

    def prepare(self) -> None:
        assert self.node.patch is not None
        self._patch = duplicate(self.node.patch)
        self._upper = os.dup(self._upper)
        self.node.patch.filling = True

    def run(self) -> None:
        with _Unchanged(self._upper):
            fill_up(self._patch, self._upper)
            os.fdatasync(self._upper)

    def finish(self, done: bool) -> None:
        self._patch.close()
        try:
            if self.node.patch is not None:
                self.node.patch.filling = False
                if done:
                    _make_ordinary(self._tree, self.node, self._upper)
        finally:
            os.close(self._upper)


def _make_ordinary(tree: Tree, node: Node, fd: int) -> None:
    """All of the file's data is in the upper, open as `fd`."""
    assert node.patch is not None
    for name in (tree.marks.metacopy, tree.marks.redirect, tree.marks.limit):
        try:
            os.removexattr(fd, name)
        except OSError as e:
            if e.errno != errno.ENODATA:
                raise
    node.patch.close()
    node.patch = None


class _Unchanged:
    """Bringing data that was there already is no change of the file: keep its times, and what writing takes from it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        self._st = os.fstat(self._fd)
        try:
            self._capability: bytes | None = os.getxattr(self._fd, CAPABILITY)
        except OSError:
            self._capability = None

    def __exit__(self, *_exception: object) -> None:
        if self._capability is not None:
            os.setxattr(self._fd, CAPABILITY, self._capability)
        os.utime(self._fd, ns=(self._st.st_atime_ns, self._st.st_mtime_ns))


def fill_up(patch: Patch, fd: int) -> None:
    """Copy into the upper's file what is missing in it; holes of the lower stay holes."""
    offset, end = 0, min(patch.limit, os.fstat(fd).st_size)
    while offset < end:
        offset = _next(fd, offset, os.SEEK_HOLE, end)
        stop = _next(fd, offset, os.SEEK_DATA, end)
        while offset < stop:
            offset = _next_below(patch, offset, os.SEEK_DATA, stop)
            piece = min(_next_below(patch, offset, os.SEEK_HOLE, stop) - offset, CHUNK)
            if piece > 0:
                os.pwrite(fd, _from_lower(patch, offset, offset + piece), offset)
                offset += piece


def _next_below(patch: Patch, offset: int, whence: int, end: int) -> int:
    """As `_next`, for the data that fills the holes."""
    if patch.further is None:
        return _next(source(patch), offset, whence, end)
    try:
        return min(seek(patch.further, source(patch), offset, whence), end)
    except OSError as e:
        if e.errno == errno.ENXIO:
            return end
        raise


def seek(patch: Patch, fd: int, offset: int, whence: int) -> int:
    """SEEK_DATA or SEEK_HOLE in the file as it appears. Raises OSError(ENXIO) as lseek(2)."""
    size = os.fstat(fd).st_size
    if offset >= size or offset < 0:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    limit = min(patch.limit, size)
    if whence == os.SEEK_DATA:
        found = _next(fd, offset, os.SEEK_DATA, size)
        below = _next_below(patch, offset, os.SEEK_DATA, limit) if offset < limit else limit
        if below < limit:
            found = min(found, below)
        if found == size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return found
    while offset < size:
        if _next(fd, offset, os.SEEK_DATA, size) == offset:
            offset = _next(fd, offset, os.SEEK_HOLE, size)
        elif offset < limit and _next_below(patch, offset, os.SEEK_DATA, limit) == offset:
            offset = _next_below(patch, offset, os.SEEK_HOLE, limit)
        else:
            return offset
    return size
