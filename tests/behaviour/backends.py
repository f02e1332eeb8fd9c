"""The backends: what each needs to serve a set of layers, to be remounted, and to be taken down.

`plain` is the oracle. Every other backend must behave like it, apart from what `known_gaps` lists.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from cowroot.union.check import check
from tests.behaviour import calls, trees
from tests.behaviour.filesystem import FileSystem, MountedFileSystem

# What a backend may lack, by the name that tests and the sequence generator use for it.
FEATURES = frozenset({"exchange", "noreplace", "tmpfile", "fallocate", "locks", "users", "zero_range", "acl_removal"})
# What cannot be compared with an upper on that file system. On some, removing an ACL that is not there counts as a change, which a union
# would have to copy a file up for; and on tmpfs fallocate(ZERO_RANGE), which it lacks, has taken the set-user-ID bit by the time that FUSE
# asks us.
LACKS_ON = {"tmpfs": frozenset({"zero_range", "acl_removal"}), "btrfs": frozenset({"acl_removal"})}
OVERLAYFS_OPTIONS = "redirect_dir=on,index=on,xino=on,metacopy=on"


def run(*command: object) -> str:
    """Run a command and return what it printed, which is part of the error when it fails."""
    done = subprocess.run([os.fsencode(str(c)) if not isinstance(c, bytes) else c for c in command], capture_output=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{command}: exit {done.returncode}: {(done.stdout + done.stderr).decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256", "-m", "0"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
IMAGE_SIZE = 320 << 20  # bytes, sparse; xfs wants 300 MiB


class Case:
    """Directories for one union: `layers` (topmost first), `upper`, `work`, `mount` and `copy`, all below `base`.

    Arguments: `upper_on`: gives what is written, the copy's too, a file system of that kind to itself: what one can, another cannot;
    `frozen`: the kind of file system on which each lower lies, "" or none for that of `base`.
    """

    def __init__(self, base: bytes, layers: Sequence[trees.Tree], upper_on: str = "", frozen: Sequence[str] = ()) -> None:
        self.base = base
        self.layers = [os.path.join(base, b"lower%d" % number) for number in range(len(layers))]
        self.mount, self._written = os.path.join(base, b"mount"), os.path.join(base, b"written")
        for directory in [*self.layers, self.mount, self._written]:
            os.makedirs(directory)
        self._mounted: list[bytes] = []
        self._upper_on = upper_on
        self.former_works: list[bytes] = []  # of layers that were uppers
        self.former: dict[bytes, tuple[int, ...]] = {}  # their fingerprints
        if upper_on:
            self._mount(upper_on, self._written)
        self.upper, self.work, self.copy = (os.path.join(self._written, name) for name in (b"upper", b"work", b"copy"))
        for directory in (self.upper, self.work, self.copy):
            os.mkdir(directory)
        for directory, tree in zip(self.layers, layers):
            trees.build(directory, tree)
        for directory, kind in zip(self.layers, frozen):
            if kind:
                self._freeze(directory, kind)
        trees.trim_hidden_links(self.layers)
        trees.copy_attributes(self.layers[0], self.upper)  # the upper's root is the root that a union shows

    def _mount(self, kind: str, where: bytes) -> None:
        """Mount a new file system at `where`."""
        if kind == "tmpfs":
            run("mount", "-t", "tmpfs", "tmpfs", where)
        else:
            image = where + b".image"
            with open(image, "wb") as file:
                file.truncate(IMAGE_SIZE)
            run(*MKFS[kind], image)
            mount_image(image, where, "rw")
        self._mounted.append(where)

    def _freeze(self, layer: bytes, kind: str) -> None:
        """Replace a lower layer by the same tree on another file system, or by what a union of it alone shows."""
        source, image = layer + b".source", layer + b".image"
        os.rename(layer, source)
        os.mkdir(layer)
        if kind in ("squashfs", "erofs"):
            if kind == "squashfs":
                run("mksquashfs", source, image, "-quiet", "-no-progress", "-noI", "-noD", "-noX")
            else:
                run("mkfs.erofs", "--quiet", "-E", "force-inode-extended", image, source)
            mount_image(image, layer, "ro")
            self._mounted.append(layer)
        elif kind in ("overlayfs", "union"):
            upper = layer + b".upper"
            os.mkdir(upper)
            self._mount("tmpfs", upper)  # so that two file systems shine through
            os.mkdir(upper + b"/u")
            os.mkdir(upper + b"/w")
            trees.copy_attributes(source, upper + b"/u")
            where = b"lowerdir=%s,upperdir=%s/u,workdir=%s/w" % (source, upper, upper)
            if kind == "union":
                run(*COWROOT, "mount", "-o", where + b",engine=direct", layer)
            else:
                run("mount", "-t", "overlay", "overlay", "-o", where, layer)
            self._mounted.append(layer)
            trees.copy_up_some(layer)
        else:
            self._mount(kind, layer)
            run("cp", "-a", source + b"/.", layer)

    def freeze(self) -> None:
        """The upper becomes the topmost lower, below a new one, which is on a file system of its own if the first is."""
        self.former.update(fingerprint([self.upper, self.work]))
        self.layers.insert(0, self.upper)
        self.former_works.append(self.work)
        place = os.path.join(self._written, b"written%d" % len(self.former_works))
        os.mkdir(place)
        if self._upper_on:
            self._mount(self._upper_on, place)
        self.upper, self.work = os.path.join(place, b"upper"), os.path.join(place, b"work")
        for directory in (self.upper, self.work):
            os.mkdir(directory)
        trees.copy_attributes(self.layers[0], self.upper)

    def remove(self) -> None:
        for where in reversed(self._mounted):
            run("umount", where)
            wait_for_daemon(where + b".upper/w")
        shutil.rmtree(self.base)


def fingerprint(layers: Sequence[bytes], unions: bool = False) -> dict[bytes, tuple[int, ...]]:
    """What any change to a file of the layers would change.

    `unions`: some of them are unions themselves. Those show the effects of their own copying up, late, as size and change time of
    directories, and overlayfs other inode numbers once the kernel has dropped its caches.
    """
    found: dict[bytes, tuple[int, ...]] = {}
    for layer in layers:
        for directory, directories, files in os.walk(layer):
            for where in [directory, *(os.path.join(directory, name) for name in directories + files)]:
                s = os.lstat(where)
                found[where] = (s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns)
                if not unions:
                    found[where] += (s.st_ino, s.st_nlink, s.st_size, s.st_ctime_ns)
    return found


class Backend:
    """One way to show a case's layers as one writable tree. `fs` is valid while it is up."""

    name = ""
    lacks: frozenset[str] = frozenset()
    mounted = True

    def __init__(self, case: Case) -> None:
        self.case = case
        self.fs: FileSystem = self._up()

    def _up(self) -> FileSystem:
        raise NotImplementedError

    def down(self) -> None:
        raise NotImplementedError

    def remount(self) -> None:
        """Take the union down and bring it up again over the same layers. All descriptors must be closed."""
        self.down()
        self.fs = self._up()

    def freeze(self) -> None:
        """The same, with what was the upper as a lower and a new one above it."""
        self.down()
        self.case.freeze()
        self.fs = self._up()

    def faults(self) -> list[str]:
        """What `cowroot check` finds in the upper, once the union is down."""
        return []

    def revive(self) -> None:
        """Bring up a union whose daemon is gone."""
        run("umount", "-l", self.case.mount)
        self.fs = self._up()


class Plain(Backend):
    """The plain writable copy."""

    name = "plain"

    def _up(self) -> FileSystem:
        trees.merge(self.case.layers, self.case.copy)
        return MountedFileSystem(self.case.copy, births=True)

    def remount(self) -> None:
        pass

    def freeze(self) -> None:
        pass

    def down(self) -> None:
        pass


class Twin(Backend):
    """A second plain copy: against it, a sequence must never find a departure, else the comparison is wrong."""

    name = "twin"

    def _up(self) -> FileSystem:
        trees.merge(self.case.layers, self.case.upper)
        return MountedFileSystem(self.case.upper)

    def remount(self) -> None:
        pass

    def freeze(self) -> None:
        pass

    def down(self) -> None:
        pass


class Overlayfs(Backend):
    """The kernel's own union, with every feature that brings it nearer to the copy."""

    name = "overlayfs"
    options = OVERLAYFS_OPTIONS

    def _up(self) -> FileSystem:
        mount_overlayfs(self.case, self.options)
        return MountedFileSystem(self.case.mount)

    def down(self) -> None:
        run("umount", self.case.mount)


def mount_overlayfs(case: Case, options: str) -> None:
    layers = b":".join(case.layers)
    where = b"lowerdir=%s,upperdir=%s,workdir=%s" % (layers, case.upper, case.work)
    run("mount", "-t", "overlay", "overlay", "-o", where + b"," + options.encode(), case.mount)


class Ours(Backend):
    """A backend that leaves an upper of cowroot's behind."""

    def faults(self) -> list[str]:
        found = check(self.case.upper, self.case.work, tuple(self.case.layers))
        return [f"cowroot check: {problem.path}: {problem.what}" for problem in found]


class Core(Ours):
    """The union core without a mount, driven as the kernel would drive it."""

    name = "core"
    mounted = False
    lacks = frozenset({"locks", "users"})

    def _up(self) -> FileSystem:
        from tests.behaviour.core_driver import CoreFileSystem

        return CoreFileSystem.of(self.case)

    def remount(self) -> None:
        mask = self.fs.umask(0)  # belongs to the process, not to the mount
        super().remount()
        self.fs.umask(mask)

    def freeze(self) -> None:
        mask = self.fs.umask(0)
        super().freeze()
        self.fs.umask(mask)

    def down(self) -> None:
        from tests.behaviour.core_driver import CoreFileSystem

        assert isinstance(self.fs, CoreFileSystem)
        self.fs.shut_down()


class CoreOci(Core):
    """The same over layers with whiteouts of OCI's form."""

    name = "core-oci"
    whiteouts = "oci"
    rewrite = staticmethod(trees.to_oci)

    def _up(self) -> FileSystem:
        from tests.behaviour.core_driver import CoreFileSystem

        rewritten = [layer + b"." + self.name.encode() for layer in self.case.layers]
        for layer, target in zip(self.case.layers, rewritten):
            if not os.path.exists(target):
                run("cp", "-a", layer, target)
                self.rewrite(target)
        return CoreFileSystem.of(self.case, rewritten, self.whiteouts)


class CoreMarkedFiles(CoreOci):
    """The same over layers whose whiteouts are empty files with an attribute."""

    name = "core-marked"
    whiteouts = "overlay"
    rewrite = staticmethod(trees.to_marked_files)


class Mounted(Ours):
    """`cowroot mount` with one of its engines."""

    engine = ""

    def options(self) -> bytes:
        where = b":".join(self.case.layers), self.case.upper, self.case.work
        return b"lowerdir=%s,upperdir=%s,workdir=%s,engine=" % where + self.engine.encode()

    def _up(self) -> FileSystem:
        run(*COWROOT, "mount", "-o", self.options(), self.case.mount)
        if not os.path.ismount(self.case.mount):
            raise RuntimeError("cowroot mount returned 0, but nothing is mounted")
        return MountedFileSystem(self.case.mount)

    def down(self) -> None:
        if os.path.ismount(self.case.mount):  # it is not where bringing it up again has failed
            run("umount", self.case.mount)
        wait_for_daemon(self.case.work)


COWROOT = (sys.executable, "-c", "import sys; from cowroot.cli.main import main; sys.exit(main())")


def wait_for_daemon(work: bytes, seconds: float = 20) -> None:
    """Wait until no process serves the work directory any more: umount returns before the daemon has ended."""
    try:
        fd = os.open(os.path.join(work, b"cowroot"), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # nobody ever did
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the daemon for {work!r} did not end within {seconds} s of umount") from None
                time.sleep(0.005)
    finally:
        os.close(fd)


class Fusepy(Mounted):
    """The engine over libfuse 2."""

    name = engine = "fusepy"


class Direct(Mounted):
    """The engine that speaks the kernel's protocol."""

    name = engine = "direct"


class Dying(Mounted):
    """The same, whose server is killed once in so many of the system calls that change something (see fragile.py)."""

    name, engine = "dying", "direct"
    one_in = 100

    def _up(self) -> FileSystem:
        reading, writing = os.pipe()
        script = os.path.join(os.path.dirname(__file__), "fragile.py")
        self._daemon = subprocess.Popen(
            [
                sys.executable, script, str(self.one_in), "--report", str(writing),
                self.options(), os.path.realpath(self.case.mount),
            ],
            pass_fds=[writing], start_new_session=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(writing)
        with os.fdopen(reading, "rb") as report:
            said = report.read()
        if not said.startswith(b"mounted"):
            raise RuntimeError(said.decode(errors="replace"))
        return MountedFileSystem(self.case.mount)

    def down(self) -> None:
        super().down()
        self._daemon.wait(20)


class DyingCached(Dying):
    """The same without passthrough."""

    name, engine = "dying-7.39", "direct,protocol=7.39"


class DirectCached(Mounted):
    """The same without passthrough, as before Linux 6.9."""

    name, engine = "direct-7.39", "direct,protocol=7.39"


class DirectOldest(Mounted):
    """The same with no more than Linux 5.4 knows."""

    name, engine = "direct-7.31", "direct,protocol=7.31"


BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend
    for backend in (Plain, Twin, Overlayfs, Core, CoreOci, CoreMarkedFiles, Fusepy, Direct, DirectCached, DirectOldest, Dying, DyingCached)
}


def available(kind: str) -> bool:
    """True if this kernel has such file systems."""
    name = {"overlayfs": "overlay", "union": "fuse"}.get(kind, kind)
    subprocess.run(["modprobe", "-q", name], check=False)
    return name in Path("/proc/filesystems").read_text().split()


def mount_image(image: bytes, where: bytes, options: str, seconds: float = 60) -> None:
    """Mount a file system in a file. Waits for a loop device: some kernels have eight, and whoever else tests here uses them too."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            device = run("losetup", "--find", "--show", image).strip()
            break
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    try:
        if "ro" not in options.split(","):
            run("blockdev", "--setrw", device)  # a loop device remembers that somebody before has set it read-only
        run("mount", "-o", options, device, where)
    finally:
        run("losetup", "--detach", device)  # takes effect with the last umount


class Watchdog:
    """Aborts a FUSE connection when a test takes too long: a call that hangs in the kernel can be ended in no other way.

    It is a process of its own, for a page fault on a mapping can hang the whole interpreter.
    """

    def __init__(self, mount: bytes, seconds: int) -> None:
        abort = f"/sys/fs/fuse/connections/{os.minor(os.stat(mount).st_dev)}/abort"
        script = f"sleep {seconds}; echo 1 > {abort}"
        self._process: Optional[subprocess.Popen[bytes]] = None
        if os.path.exists(abort):
            self._process = subprocess.Popen(["sh", "-c", script], start_new_session=True, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process:
            os.killpg(self._process.pid, 9)
            self._process.wait()


class Disk:
    """A fresh ext4 file system in a file, mounted for as long as the tests run: the same ground for copy and layers."""

    def __init__(self, directory: bytes, size: int = 1 << 30) -> None:
        self._image, self.root = os.path.join(directory, b"disk"), os.path.join(directory, b"ground")
        os.makedirs(self.root)
        os.chmod(directory, 0o755)  # other users go through it
        with open(self._image, "wb") as file:
            file.truncate(size)
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256", "-m", "0", self._image)
        calls.private_mounts()
        mount_image(self._image, self.root, "rw,user_xattr,acl")

    def remove(self) -> None:
        with open("/proc/self/mounts", "rb") as mounts:  # the disk's own, and what failed tests have left below
            below = [line.split(b" ")[1] for line in mounts if line.split(b" ")[1].startswith(self.root)]
        for mount in reversed(below):
            run("umount", "-l", mount)
        os.unlink(self._image)
        os.rmdir(self.root)
