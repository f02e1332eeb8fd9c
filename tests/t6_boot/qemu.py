"""QEMU: a PC with a BIOS and the image's own kernel, for what User Mode Linux has not: GRUB, newer kernels, a disk that refuses writes.

KVM where it can run the image's kernel, else emulation (TCG).
"""
from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.t6_boot import guest, recipe
from tests.t6_boot.disk import BuildError
from tests.t6_boot.image import Image
from tests.t6_boot.machine import BootError, Machine
from tests.t6_boot.uml import one_cpu

_MEMORY = "1024"
_KVM_LIMIT = 15.0
# A kernel without a root panics as soon as it has found its devices, which takes KVM a second: proof enough that KVM runs this kernel.
_STARTED = "Unable to mount root fs"
# Emulation, one CPU: with a FUSE root a second one costs more than it gives. The processor is the plainest there is (a richer one is
# slower), less cmpxchg16b: with it, QEMU 7.2 loses the processor's flags at some timer interrupts, and one in ten boots or more ended
# in a kernel panic at a place of chance (Linux 6.12's slab allocator is that instruction's great user). Without: none in sixty.
# And less svm, or Debian loads KVM in the guest.
EMULATED = ("-machine", "pc,accel=tcg", "-cpu", "qemu64,-cx16,-svm", "-smp", "1")
_KVM = ("-machine", "pc,accel=kvm", "-cpu", "host", "-smp", "2")


def start(
    image: Image,
    work: Path,
    *,
    disks: Sequence[Path] = (),
    read_only: bool = True,
    reboots: bool = False,
    console: Path | None = None,
    listener: Callable[[str], None] | None = None,
) -> Machine:
    """Boot ``image`` as a PC does: BIOS, GRUB, and what GRUB's menu says. Temporary files go to ``work``.

    With ``read_only`` the disk refuses writes, else they go to a temporary file; ``disks`` are further disks (/dev/vdb, …; read-only).
    A guest that reboots ends the machine unless it ``reboots``. The console goes to ``console`` (default: work/console.log) and to
    ``listener``.
    """
    options = [] if reboots else ["-no-reboot"]
    return Machine(_command(image, disks, read_only, options), _prepared(work, console), {"TMPDIR": str(work)}, listener)


def start_kernel(
    image: Image,
    check: str,
    work: Path,
    *,
    parameters: Sequence[str] = (),
    disks: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    monitor: Path | None = None,
    read_only: bool = True,
) -> Machine:
    """Boot ``image`` with its own kernel but without GRUB and have the guest run ``check``.

    ``writable`` are further disks that keep what is written; at the socket ``monitor`` QEMU takes orders (QMP); the rest as in ``start``.
    """
    files = guest.boot_files(image, guest.boot_cache(image))
    line = ["console=ttyS0,115200", f"root=LABEL={recipe.ROOT_LABEL}", "ro", f"boot-test={check}", *parameters]
    options = ["-no-reboot", "-kernel", str(files.kernel), "-initrd", str(files.initrd), "-append", " ".join(line)]
    options += [part for made in writable for part in ("-drive", _drive(made, "cache=unsafe"))]
    options += ["-qmp", f"unix:{monitor},server=on,wait=off"] if monitor else []
    return Machine(_command(image, disks, read_only, options), _prepared(work, None), {"TMPDIR": str(work)})


def _prepared(work: Path, console: Path | None) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    return console or work / "console.log"


def _command(image: Image, disks: Sequence[Path], read_only: bool, options: list[str]) -> list[str]:
    kvm = kvm_runs(image)
    drives = [_drive(image.disk, "readonly=on" if read_only else "snapshot=on"), *(_drive(disk, "readonly=on") for disk in disks)]
    return [
        *([] if kvm else one_cpu()), _program(), *(_KVM if kvm else EMULATED), "-m", _MEMORY, "-nodefaults", "-display", "none",
        "-serial", "stdio", *(part for drive in drives for part in ("-drive", drive)), *options,
    ]


def _drive(disk: Path, option: str) -> str:
    # Nobody writes to it. Without locks, since QEMU takes the shared one of User Mode Linux, which may have the same image, for a writer's.
    return f"file={str(disk).replace(',', ',,')},format=raw,if=virtio,file.locking=off,{option}"


def kvm_runs(image: Image) -> bool:
    """Tell whether KVM is there and can run this image's kernel: nested virtualisation often has a /dev/kvm that cannot."""
    return _kvm_runs(guest.boot_files(image, guest.boot_cache(image)).kernel)


@functools.cache
def _kvm_runs(kernel: Path) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    console = kernel.with_name("kvm.log")
    command = [
        _program(), *_KVM, "-m", _MEMORY, "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel),
        "-append", "console=ttyS0 panic=-1",
    ]
    with Machine(command, console) as machine:
        try:
            return machine.wait_for(f"{_STARTED}|KVM internal error", _KVM_LIMIT).group() == _STARTED
        except BootError:
            return False


def _program() -> str:
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise BuildError("qemu-system-x86_64 is not installed: `make setup` installs Debian's package qemu-system-x86")
    return program


def version() -> str:
    """Return QEMU's version, as a report shows it."""
    said = subprocess.run([_program(), "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    match = re.search(r"version (\S+)", said)
    return match.group(1) if match else "of unknown version"
