"""User Mode Linux: the everyday boots. No emulation, no privilege, the disk image as it is; but no boot loader either.

Debian's package user-mode-linux has as modules what boots take, which the image's initrd (made for another kernel) lacks: they go into the
archive that is appended to it.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.t6_boot import cpio, guest, recipe
from tests.t6_boot.disk import BuildError
from tests.t6_boot.image import Image
from tests.t6_boot.machine import Machine

_MODULES = (
    "fs/fuse/fuse.ko",
    "fs/overlayfs/overlay.ko",
    "fs/squashfs/squashfs.ko",
    "drivers/block/loop.ko",
    # An encrypted disk.
    "drivers/md/dm-mod.ko",
    "drivers/md/dm-crypt.ko",
    "security/keys/encrypted-keys/encrypted-keys.ko",
    "crypto/af_alg.ko",
    "crypto/algif_skcipher.ko",
    "crypto/xts.ko",
    "crypto/ecb.ko",
    "crypto/cbc.ko",
)
_MEMORY = "640M"


def start(
    image: Image,
    check: str,
    work: Path,
    *,
    parameters: Sequence[str] = (),
    disks: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    read_only: bool = True,
    changes: Path | None = None,
) -> Machine:
    """Boot ``image`` and have the guest run ``check``; console and temporary files go to ``work``.

    ``parameters`` are added to the kernel command line, ``disks`` are further read-only disks, ``writable`` others. With ``read_only``
    the image is a read-only disk, else what is written to it goes to a temporary file, or to the file ``changes``, for several boots of
    the same disk: the image itself is never written to.
    """
    work.mkdir(parents=True, exist_ok=True)
    files = guest.boot_files(image, guest.boot_cache(image), _modules())
    root = f"ubd0r={image.disk}" if read_only else f"ubd0={changes or work / 'disk.cow'},{image.disk}"
    options = [("r", disk) for disk in disks] + [("", disk) for disk in writable]
    more = [f"ubd{number}{option}={disk}" for number, (option, disk) in enumerate(options, 1)]
    command = [
        *one_cpu(), _program(), f"mem={_MEMORY}", root, *more,
        f"initrd={files.initrd}", f"root=LABEL={recipe.ROOT_LABEL}", "ro", "con0=fd:0,fd:1", "con=null",
        f"uml_dir={work}", "umid=uml", f"boot-test={check}", *parameters,
    ]
    return Machine(command, work / "console.log", {"TMPDIR": _memory_directory()})


def fat_modules() -> list[Path]:
    """Return the modules that a kernel needs for an installation onto an EFI system partition, in the order of their loading."""
    found = {path.stem: path for path in Path("/usr/lib/uml/modules").rglob("*.ko")}
    return [found[name] for name in ("nls_cp437", "nls_ascii", "nls_iso8859-1", "fat", "vfat", "overlay", "loop")]


def run_on_these_files(init: Path, work: Path, limit: float, *parameters: str) -> str:
    """Boot this machine's own files, read-only, with the script ``init`` as the first process; return what the console said.

    Raises BootError if it has not ended after ``limit`` seconds.
    """
    command = [
        *one_cpu(), _program(), f"mem={_MEMORY}", "root=/dev/root", "rootfstype=hostfs", "ro", f"init={init}", "con0=null,fd:1", "con=null",
        f"uml_dir={work}", "umid=uml", *parameters,
    ]
    with Machine(command, work / "console.log", {"TMPDIR": _memory_directory()}) as machine:
        machine.wait_for_end(limit)
        return "\n".join(machine.console.lines())


def one_cpu() -> list[str]:
    """Return the prefix of a command that keeps it on one CPU: a guest's processes are the host's, and switch faster there.

    Tests that run side by side (pytest-xdist names its processes gw0, gw1, ...) have a CPU each, where there are as many.
    """
    cpus = sorted(os.sched_getaffinity(0), reverse=True)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return ["taskset", "--cpu-list", str(cpus[int(worker) % len(cpus)])]


def _program() -> str:
    program = shutil.which("linux.uml")
    if program is None:
        raise BuildError("linux.uml is not installed: `make setup` installs Debian's package user-mode-linux")
    return program


def _memory_directory() -> str:
    """Return where the file that is the guest's memory goes: real memory, not a disk, where there is room."""
    shared = "/dev/shm"
    if os.path.isdir(shared) and shutil.disk_usage(shared).free > 2 << 30:
        return shared
    return tempfile.gettempdir()


def _modules() -> bytes:
    release = subprocess.run([_program(), "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    source = next((path for path in Path("/usr/lib/uml/modules").glob("*") if path.name == release), None)
    if source is None:
        raise BuildError(f"linux.uml {release} has no modules below /usr/lib/uml/modules")
    with tempfile.TemporaryDirectory() as place:
        top = Path(place) / "lib/modules" / release
        for name in _MODULES:
            (top / "kernel" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / "kernel" / name, top / "kernel" / name)
        subprocess.run(["depmod", "-b", place, release], stderr=subprocess.DEVNULL, check=True)
        files: dict[str, bytes | Path] = {
            f"usr/lib/modules/{release}/{path.relative_to(top)}": path for path in top.rglob("*") if path.is_file()
        }
        return cpio.archive(files)
