"""A full upper: whoever writes is told, and nobody else notices; removing works, and so does what root does."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.union.check import check
from tests.behaviour.backends import mount_image
from tests.t4_mounted.mounted import Stage, cowroot, run, wait_until

MEBIBYTE = 1 << 20
SIZE = 36 * MEBIBYTE  # of which a twentieth, more than a mebibyte, can be kept
USER = 65534
KINDS = ("tmpfs", "ext4", "inodes")  # the last is a tmpfs, too, on which inodes run out first


class Small:
    """A stage of which upper and work directory have a small file system to themselves."""

    def __init__(self, stage: Stage, kind: str, engine: str) -> None:
        self.stage, self.kind, self.engine = stage, kind, engine
        disk = stage.base / "disk"
        disk.mkdir()
        if kind == "ext4":
            image = stage.base / "image"
            with image.open("wb") as file:
                file.truncate(SIZE)
            run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-N", "2048", image)
            mount_image(os.fsencode(image), os.fsencode(disk), "rw")
        else:
            run("mount", "-t", "tmpfs", "-o", f"size={SIZE},nr_inodes={300 if kind == 'inodes' else 100_000}", "tmpfs", disk)
        self.disk = disk
        stage.upper, stage.work = disk / "upper", disk / "work"
        for directory in (stage.upper, stage.work):
            directory.mkdir()
        os.chmod(stage.upper, 0o777)

    def mount(self) -> Path:
        cowroot("mount", "-o", self.stage.options(f"engine={self.engine},reserve=1M"), self.stage.point)
        self.stage.pid = self.stage.status()["pid"]
        wait_until(self.is_whole, "the reserve is taken")
        return self.stage.point

    def is_whole(self) -> bool:
        reserve = self.stage.status()["reserve"]
        return bool(reserve["size"] == reserve["held"] > MEBIBYTE)

    def fill(self) -> None:
        """As a user, until nothing goes any more."""
        place = self.stage.point / "by-user"
        with as_user():
            place.mkdir()
            assert refused(write_many if self.kind == "inodes" else write_much, place) == errno.ENOSPC
            assert refused(write_many, place) == errno.ENOSPC

    def finish(self) -> None:
        self.stage.unmount()
        found = [f"{each.path}: {each.what}" for each in check(str(self.stage.upper), str(self.stage.work), (str(self.stage.lower),))]
        assert found == []
        assert not (self.stage.work / "cowroot/reserve").exists()


def write_much(directory: Path) -> None:
    with (directory / "data").open("wb", buffering=0) as file:
        for _ in range(SIZE):
            file.write(bytes(MEBIBYTE))


def write_many(directory: Path) -> None:
    for number in range(2000):
        (directory / str(number)).write_bytes(bytes(8192))


@contextlib.contextmanager
def as_user() -> Iterator[None]:
    """Do something as somebody who is not root."""
    os.setegid(USER)
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture(params=[f"{engine}-{kind}" for engine in ("direct", "fusepy") for kind in KINDS])
def small(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Small]:
    engine, _, kind = request.param.partition("-")
    made = Small(stage, kind, engine)
    for number in range(40):
        (stage.lower / f"file-{number}").write_bytes(b"below\n" * 100)
    (stage.lower / "directory/sub").mkdir(parents=True)
    (stage.lower / "directory/file").write_bytes(b"x" * 50_000)
    (stage.lower / "large").write_bytes(os.urandom(4 * MEBIBYTE))
    os.chmod(stage.lower / "large", 0o666)
    yield made
    stage.clean_up()
    run("umount", "-l", made.disk)


def refused(operation: object, *arguments: object) -> int:
    with pytest.raises(OSError) as caught:
        operation(*arguments)  # type: ignore[operator]
    return caught.value.errno or 0


def test_a_user_cannot_take_the_last(small: Small) -> None:
    point = small.mount()
    (point / "roots").write_bytes(b"root was here\n")
    small.fill()
    large = (small.stage.lower / "large").read_bytes()
    with as_user():
        if small.kind != "inodes":
            with (point / "large").open("r+b", buffering=0) as file:
                file.seek(100)
                assert refused(lambda: [file.write(bytes(MEBIBYTE)) for _ in range(8)]) == errno.ENOSPC
        space = os.statvfs(point)
        assert space.f_bavail * space.f_frsize < MEBIBYTE or small.kind == "inodes"
    assert (point / "large").read_bytes()[-MEBIBYTE:] == large[-MEBIBYTE:]
    # root goes on
    for number in range(10):
        (point / f"log-{number}").write_bytes(b"what happened\n" * 1000)
        with (point / "roots").open("ab") as file:
            file.write(b"and again\n" * 100)
    with as_user():  # nobody else has what root was lent
        assert refused((point / "by-user/more").write_bytes, bytes(MEBIBYTE)) == errno.ENOSPC
    # whoever removes something has room again, and the reserve is whole
    with as_user():
        run("rm", "-r", point / "by-user")
        (point / "fits").write_bytes(bytes(MEBIBYTE))
    wait_until(small.is_whole, "the reserve is taken back")
    small.finish()


def take_all(small: Small) -> None:
    """Have root take what there is for it."""
    with contextlib.suppress(OSError):
        for number in range(2000):
            (small.stage.point / f"roots-{number}").write_bytes(bytes(0 if small.kind == "inodes" else MEBIBYTE))


def test_removing_from_below(small: Small) -> None:
    point = small.mount()
    small.fill()
    take_all(small)
    for number in range(10):
        (point / f"file-{number}").unlink()
    (point / "directory/file").unlink()
    (point / "directory/sub").rmdir()
    (point / "directory").rmdir()
    names = sorted(os.listdir(point))
    assert "directory" not in names and "file-9" not in names and "file-10" in names
    small.finish()


def test_what_fails_has_not_happened(small: Small) -> None:
    point = small.mount()
    small.fill()
    take_all(small)
    for operation, *arguments in (
        (os.rename, point / "directory", point / "moved"),
        (os.mkdir, point / ("n" * 200)),
        (os.symlink, "x" * 3000, point / ("s" * 200)),
        (os.link, point / "file-20", point / "linked"),
        (os.setxattr, point / "file-21", "user.test", b"x" * 3000),
        ((point / "file-22").chmod, 0o600),
        ((point / "large").chmod, 0o600),
    ):
        before = shown(point)
        try:
            operation(*arguments)
        except OSError as e:
            assert (e.errno, shown(point)) == (errno.ENOSPC, before)
    assert os.listdir(small.stage.work / "cowroot/tmp") == []
    assert (point / "file-39").read_bytes() == b"below\n" * 100
    small.finish()


def shown(point: Path) -> dict[str, tuple[int, int]]:
    return {path.name: ((st := path.lstat()).st_mode, st.st_size) for path in (*point.iterdir(), *(point / "directory").glob("*"))}


@pytest.mark.parametrize("small", ["direct-tmpfs", "fusepy-ext4"], indirect=True)
def test_a_mapping_without_room(small: Small) -> None:
    """As of a sparse file on a full disk: SIGBUS at the store, or an error when it is written back. Nobody waits for ever."""
    point = small.mount()
    with (point / "mapped").open("wb") as file:
        file.truncate(MEBIBYTE)
    small.fill()
    take_all(small)
    child = os.fork()
    if not child:
        code = 1
        try:
            with (point / "mapped").open("r+b") as mapped, mmap.mmap(mapped.fileno(), MEBIBYTE) as mapping:
                for page in range(0, MEBIBYTE, 4096):
                    mapping[page] = 1
                try:
                    mapping.flush()
                    code = 0
                except OSError as e:
                    code = 0 if e.errno == errno.ENOSPC else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS)
    assert (point / "file-39").read_bytes() == b"below\n" * 100
    small.finish()
