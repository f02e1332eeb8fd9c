"""A stand-in for a machine in its initramfs: a directory with an initrd's tools, a disk file with a small root file system, real mounts.

The boot script runs chrooted there, in mount and PID namespaces that end with it, and does everything that it does at a boot. What comes
out is the union, or the rung of the ladder, as the booted system would find it. Root only: it mounts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import fuse

import cowroot
from cowroot.boot.initramfs_tools import render_initramfs_tools
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.config import Config

KLIBC = Path("/usr/lib/klibc/bin")
FUNCTIONS = Path("/usr/share/initramfs-tools/scripts/functions")
PYTHON = Path("/usr/bin/python3")
# Parts of the standard library that no boot needs, and that would make the disk large.
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "lib2to3", "ensurepip", "dist-packages", "config-*")
FSTAB = "LABEL=root / ext4 errors=remount-ro 0 1\n/swapfile none swap sw 0 0\nproc /proc proc defaults 0 0\n"

# Sets the machine up, runs the script, and prints what a booted system would find, a section each.
_RUN = """
set -e
tree=$1 root=$2 cmdline=$3
mount -t tmpfs -o mode=0755 tmpfs "$tree.run"
cp -a "$tree/." "$tree.run/"
cd "$tree.run"
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mount -t tmpfs tmpfs run
mkdir run/initramfs
mount -o ro "$root" root
mount --bind "$cmdline" proc/cmdline
export PATH=/sbin:/usr/sbin:/bin:/usr/bin # as /init has it
chroot . /bin/sh -c 'cd /; rootmnt=/root quiet=n panic= exec /scripts/local-bottom/cowroot' || echo "exit code $?"
echo '#### boot.json'; cat run/cowroot/boot.json
echo '#### mounts'; cat /proc/self/mounts
echo '#### visible'; ls -d run/cowroot/* run/initramfs/* run/cowroot/upper/* run/cowroot/control/* run/cowroot/lower/etc 2>/dev/null || :
echo '#### fstab'; cat root/etc/fstab
echo '#### after'; sh -c "$4" 2>&1 || echo "exit code $?"
echo '#### end'
"""


@dataclass
class Booted:
    """What the script left. console: its own output; mounts: what is mounted, by place seen from the initramfs (type, options)."""

    console: str
    boot: dict[str, Any]
    mounts: dict[str, tuple[str, list[str]]]
    visible: list[str]
    fstab: str
    after: str


@dataclass
class Machine:
    """One machine: `tree` is its initramfs, `disk` the file that holds its root. Several boots of it are independent of each other."""

    tree: Path
    disk: Path
    loops: list[str] = field(default_factory=list)

    def boot(self, cmdline: str = "", after: str = ":", settings: str | None = None) -> Booted:
        """Run the boot script and then, in the initramfs, the shell commands `after`. `settings` replaces /etc/cowroot.conf."""
        (self.tree / "etc/cowroot.conf").write_text(Config.default().to_shell() if settings is None else settings)
        words = self.tree.with_suffix(".cmdline")
        words.write_text(f"root=LABEL=root {cmdline}\n")
        self.tree.with_suffix(".run").mkdir(exist_ok=True)
        device = self.attach(self.disk)
        try:
            done = subprocess.run(
                [
                    "unshare",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    _RUN,
                    "sh",
                    str(self.tree),
                    device,
                    str(words),
                    after,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=240,
            )
        finally:
            self.detach(device)
        return _understand(done.stdout.decode(errors="replace"), str(self.tree.with_suffix(".run")))

    def attach(self, file: Path) -> str:
        """Make a block device of a file; `detach` when done."""
        device = attach(file)
        self.loops.append(device)
        return device

    def detach(self, device: str) -> None:
        """Take a device away."""
        detach(device)
        self.loops.remove(device)


def attach(file: Path, offset: int = 0) -> str:
    """Make a block device of a file from `offset` bytes on, and return its path."""
    command = ["losetup", "--find", "--show", "--offset", str(offset), str(file)]
    # A number that is used for the first time has no node for a moment, and somebody else may be quicker to take a free one.
    for _ in range(20):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
        time.sleep(0.2)
    raise OSError(f"no loop device for {file}: {done.stderr}")


def detach(device: str) -> None:
    """Take a device away, and first the write protection off it, which would stay with its number."""
    subprocess.run(["blockdev", "--setrw", device], check=True)
    subprocess.run(["losetup", "--detach", device], check=True)


def _understand(text: str, place: str) -> Booted:
    parts = re.split(r"^#### (.*)\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2]))
    assert "end" in sections, f"the boot script's machine broke:\n{text}"
    mounts = {}
    for line in sections["mounts"].splitlines():
        _, where, kind, options = line.split()[:4]
        if where.startswith(place):
            mounts[where[len(place) :] or "/"] = (kind, options.split(","))
    return Booted(
        parts[0], json.loads(sections["boot.json"]), mounts, sections["visible"].split(), sections["fstab"], sections["after"].strip()
    )


def build_machine(place: Path, flavour: str) -> Machine:
    """Make a machine below `place` whose initrd has the tools of `flavour`, `klibc` or `busybox`."""
    return Machine(build_tree(place / flavour, flavour), _build_disk(place))


def build_tree(tree: Path, flavour: str) -> Path:
    """Make an initramfs at `tree`, with the rendered boot scripts, and return it."""
    for name in ("bin", "sbin", "etc", "scripts/local-bottom", "root", "run", "proc", "dev", "sys", "conf"):
        (tree / name).mkdir(parents=True)
    _KINDS[flavour](tree)
    for program in ("blkid", "blockdev", "e2fsck", "losetup", "mke2fs"):
        copy_program(tree, Path("/sbin") / program, tree / "sbin" / program)
    shutil.copy(FUNCTIONS, tree / "scripts/functions")
    for path, file in rendered().items():
        if "/scripts/" in path:
            goal = tree / path.removeprefix("/etc/initramfs-tools/")
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_bytes(file.content)
            goal.chmod(file.mode)
    return tree


def rendered() -> dict[str, RenderedFile]:
    """What is rendered for a root file system with this machine's Python and libfuse."""
    target = Target(python=str(PYTHON), libfuse=str(libfuse()))
    return {each.path: each for each in render_initramfs_tools(Config.default(), target) if isinstance(each, RenderedFile)}


def libfuse() -> Path:
    """Return this machine's libfuse 2."""
    return next(path for path in Path("/usr/lib").glob("*/libfuse.so.2"))


def _klibc(tree: Path) -> None:
    for program in KLIBC.iterdir():
        shutil.copy(program, tree / "bin" / program.name)
    interpreter = next(Path("/usr/lib").glob("klibc-*.so"))
    (tree / "lib").mkdir()
    shutil.copy(interpreter, tree / "lib" / interpreter.name)
    (tree / "sbin/modprobe").symlink_to("../bin/true")


def _busybox(tree: Path) -> None:
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    subprocess.run(["chroot", str(tree), "/bin/busybox", "--install", "-s", "/bin"], check=True)


_KINDS = {"klibc": _klibc, "busybox": _busybox}


def copy_program(tree: Path, program: Path, goal: Path) -> None:
    """Copy a program of this machine into a tree, with the libraries that ldd names."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    goal.unlink(missing_ok=True)
    shutil.copy(program, goal)
    copy_libraries(tree, program)


def copy_libraries(tree: Path, program: Path) -> None:
    """Copy what ldd names for a program or library."""
    output = subprocess.run(["ldd", str(program)], stdout=subprocess.PIPE, check=True, text=True).stdout
    for library in re.findall(r"(/\S+)", output):
        copy = tree / library.lstrip("/")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)


def _build_disk(place: Path) -> Path:
    disk = place / "disk.img"
    if disk.exists():
        return disk
    tree = place / "root"
    for name in ("etc", "dev", "proc", "run", "sys", "tmp", "usr/bin"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/fstab").write_text(FSTAB)
    version = subprocess.run(
        [str(PYTHON), "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"], stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()
    copy_program(tree, PYTHON.resolve(), tree / "usr/bin/python3")
    shutil.copytree(f"/usr/lib/{version}", tree / "usr/lib" / version, ignore=_NOT_COPIED, symlinks=True)
    for extension in (tree / "usr/lib" / version / "lib-dynload").glob("*.so"):
        copy_libraries(tree, extension)
    copy_program(tree, Path("/bin/date"), tree / "bin/date")
    copy_program(tree, libfuse().resolve(), tree / str(libfuse()).lstrip("/"))
    home = tree / "usr/lib/cowroot"
    shutil.copytree(os.path.dirname(cowroot.__file__), home / "cowroot", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(fuse.__file__, home / "fuse.py")
    shutil.copytree(os.path.dirname(click.__file__), home / "click", ignore=shutil.ignore_patterns("__pycache__"))
    make_file_system(disk, 96, "root", tree)
    shutil.rmtree(tree)
    return disk


def make_file_system(disk: Path, mib: int, label: str, tree: Path | None = None) -> None:
    """Make a file of `mib` MiB that holds an ext4 file system, filled with `tree`."""
    source = ["-d", str(tree)] if tree else []
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, *source, str(disk), f"{mib}M"], check=True)
