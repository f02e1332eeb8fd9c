"""The kernel keeps attributes for a year: after each operation they have to be what a kernel without memories would see."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, wait_until

Seen = dict[str, tuple[object, ...]]
USED = pytest.StashKey[dict[Path, int]]()
PROTOCOLS = ("7.45", "7.39", "7.31")


@pytest.fixture(scope="module", params=PROTOCOLS)
def whole(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A union of the direct engine, with what each protocol has; for each test a tree with something of everything."""
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("mounting needs root and /dev/fuse")
    with tempfile.TemporaryDirectory(prefix="cowroot-") as directory:
        os.chmod(directory, 0o755)
        stage = Stage(Path(directory))
        for number in range(len(ACTIONS) + 5):
            build(stage.lower / str(number))
        try:
            yield stage.mount("engine=direct", f"protocol={request.param}")
        finally:
            stage.clean_up()


def build(tree: Path) -> None:
    deep = tree / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_text("below\n" * 2000)
    os.link(deep / "file", tree / "second")
    (deep / "empty").mkdir()
    (deep / "link").symlink_to("file")
    (tree / "other").mkdir()
    (tree / "other" / "victim").write_text("victim\n")
    os.chmod(deep / "file", 0o6775)


@pytest.fixture
def point(whole: Path, request: pytest.FixtureRequest) -> Path:
    """A tree that nobody has touched yet."""
    used = request.config.stash.setdefault(USED, {})
    used[whole] = used.get(whole, -1) + 1
    return whole / str(used[whole])


def see(point: Path) -> Seen:
    """All that stat(2) tells of everything, but access times: looking moves those."""
    found: Seen = {}
    for directory, names, files in os.walk(point):
        for name in (".", *names, *files):
            path = os.path.join(directory, name)
            st = os.lstat(path)
            found[os.path.relpath(path, point)] = (
                st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_blocks, st.st_mtime_ns, st.st_ctime_ns,
            )  # fmt: skip
    return found


def forget_everything() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("2")


def write_by_mapping(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0:3] = b"map"


def as_nobody(action: Callable[[], object]) -> None:
    """Run in a process without privileges."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            action()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def allocate(path: Path) -> None:
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)


def copy_range(point: Path) -> None:
    with open(point / "other" / "victim", "rb") as source, open(point / "a/b/c/file", "r+b") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 7, 0, 50_000)


def unlink_both(point: Path) -> None:
    os.unlink(point / "second")
    os.unlink(point / "a/b/c/file")


def exchange(point: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(-100, os.fsencode(point / "a/b"), -100, os.fsencode(point / "other"), 2)
    assert done == 0, os.strerror(ctypes.get_errno())


# user::rwx user:1000:rw- group::r-x mask::rwx other::--- (linux/posix_acl_xattr.h)
ACL = bytes.fromhex("02000000 01000700ffffffff 02000600e8030000 04000500ffffffff 10000700ffffffff 20000000ffffffff")

ACTIONS: dict[str, Callable[[Path], object]] = {
    "append": lambda point: append(point / "a/b/c/file"),
    "append by the other name": lambda point: append(point / "second"),
    "write as nobody": lambda point: as_nobody(lambda: append(point / "a/b/c/file")),
    "truncate as nobody": lambda point: as_nobody(lambda: os.truncate(point / "a/b/c/file", 3)),
    "O_TRUNC as nobody": lambda point: as_nobody(lambda: os.close(os.open(point / "a/b/c/file", os.O_WRONLY | os.O_TRUNC))),
    "allocate as nobody": lambda point: as_nobody(lambda: allocate(point / "a/b/c/file")),
    "copy_file_range as nobody": lambda point: as_nobody(lambda: copy_range(point)),
    "write by a mapping": lambda point: write_by_mapping(point / "a/b/c/file"),
    "chmod": lambda point: os.chmod(point / "a/b/c/file", 0o600),
    "chmod of a directory": lambda point: os.chmod(point / "a/b/c", 0o700),
    "chown": lambda point: os.chown(point / "a/b/c/file", 1000, 1000),
    "chown of nothing": lambda point: os.chown(point / "a/b/c/file", -1, -1),
    "utimens": lambda point: os.utime(point / "a/b/c/file", ns=(5, 7)),
    "setxattr": lambda point: os.setxattr(point / "a/b/c/file", "user.some", b"value"),
    "an ACL": lambda point: os.setxattr(point / "a/b/c/file", "system.posix_acl_access", ACL),
    "link": lambda point: os.link(point / "a/b/c/file", point / "other" / "third"),
    "unlink of one name": lambda point: os.unlink(point / "second"),
    "unlink of the last name": lambda point: unlink_both(point),
    "replace": lambda point: os.rename(point / "second", point / "other" / "victim"),
    "rename": lambda point: os.rename(point / "a/b/c/file", point / "a/b/renamed"),
    "rename of a directory": lambda point: os.rename(point / "a/b/c", point / "other" / "c"),
    "exchange": exchange,
    "rmdir": lambda point: os.rmdir(point / "a/b/c/empty"),
    "mkdir": lambda point: os.mkdir(point / "a/b/c/new"),
    "create": lambda point: (point / "a/b/c/new").write_text("new"),
    "symlink": lambda point: os.symlink("target", point / "a/b/c/new"),
    "mknod": lambda point: os.mkfifo(point / "a/b/c/new"),
}

ACL = bytes.fromhex("0200000001000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000000ffffffff")


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_the_kernel_keeps_is_stale(point: Path, action: str) -> None:
    os.chmod(point, 0o777)
    for path in ("a/b/c/file", "other", "a", "a/b", "a/b/c"):
        os.stat(point / path)
    os.chmod(point / "a/b/c/file", 0o6777)
    see(point)
    ACTIONS[action](point)
    os.statvfs(point)  # what the daemon would tell the kernel a few milliseconds later, it tells before it answers this
    kept = see(point)
    forget_everything()
    assert see(point) == kept


def test_a_mapping_that_outlives_its_descriptor(point: Path) -> None:
    """Stores move the times, although nobody asks the daemon about them."""
    path = point / "new"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    mapping = mmap.mmap(fd, 8192)
    os.close(fd)
    before = os.stat(path).st_mtime_ns
    time.sleep(0.02)
    mapping[0:1] = b"x"
    mapping.flush()
    assert os.stat(path).st_mtime_ns > before
    assert path.read_bytes()[:1] == b"x"
    mapping.close()
    final = os.stat(path)
    forget_everything()
    assert os.stat(path).st_mtime_ns == final.st_mtime_ns


def test_a_mapping_made_before_copy_up_sees_what_is_written_after(point: Path) -> None:
    with open(point / "a/b/c/file", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        with open(point / "second", "r+b") as writer:
            writer.write(b"ABOVE")
        assert mapping[:6] == b"ABOVE\n"
        assert file.read(6) == b"ABOVE\n"
        assert (point / "a/b/c/file").read_bytes()[:6] == b"ABOVE\n"


def test_directories_above_what_is_copied_up(point: Path) -> None:
    """Their object is another one then, with a size and a change time of its own."""
    before = see(point)
    os.chmod(point / "a/b/c/file", 0o600)
    os.statvfs(point)
    kept = see(point)
    forget_everything()
    assert see(point) == kept
    assert kept["a"][:8] == before["a"][:8], "but copying up is no change to them"


def test_what_is_told_later_is_told(point: Path) -> None:
    """With nobody asking for anything that the kernel does not know."""
    see(point)
    before = os.stat(point / "other").st_ctime_ns
    os.chmod(point / "other/victim", 0o600)
    wait_until(lambda: os.stat(point / "other").st_ctime_ns != before, "the directory has the change time of its copy")
