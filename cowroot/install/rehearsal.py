"""`cowroot install --rehearse`: the image is booted before it is changed.

A copy beside the image is installed into and booted in QEMU, from a snapshot, so that the boot leaves no trace in it. Only if
`cowroot status` says in there that all is as configured, the copy takes the image's place, in one step. Else it is thrown away, and the
image has never been touched.

The kernel is started without the boot loader, with the image's own initrd. In front of that goes an archive with what asks the booted
system how it is, since the kernel unpacks one archive after the other (driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cowroot.boot.templates import ORIGIN, render_template
from cowroot.config import Config
from cowroot.errors import CowrootError, PreflightError, TargetError
from cowroot.install import image, namespace
from cowroot.install.elf import MACHINES
from cowroot.install.inspection import inspect
from cowroot.install.installation import Result, install
from cowroot.install.menu import menu_entries
from cowroot.install.plan import CONFIG_PATH
from cowroot.install.staging import Say
from cowroot.install.target import Choice, OpenTarget, open_target
from cowroot.install.tree import Tree

_QEMU = "qemu-system-x86_64"
_MACHINE = ("-m", "1024", "-nodefaults", "-display", "none", "-no-reboot", "-nic", "none")
_KVM = ("-machine", "pc,accel=kvm", "-cpu", "host", "-smp", "2")
# Less cmpxchg16b, with which QEMU 7.2 corrupts Linux 6.12, and less svm, which has a guest load KVM.
_EMULATED = ("-machine", "pc,accel=tcg", "-cpu", "qemu64,-cx16,-svm")
# Seconds for a boot, and for a kernel without a root to panic, which shows that KVM can run it: nested ones often cannot.
_PATIENCE, _KVM_PATIENCE = 900.0, 15.0
_PANIC = b"Unable to mount root fs"
_BEGIN, _END = "COWROOT-REHEARSAL-STATUS", "COWROOT-REHEARSAL-CODE"
_TAIL = 15  # lines of the console that an error shows


def rehearse(choice: Choice, config_file: Path | None, say: Say, *, force: bool = False) -> Result:
    """As `install`, for an image that is changed only if it boots as configured.

    Raises what `install` raises, and PreflightError if the boot failed, CowrootError if QEMU is missing. The image is then as it was.
    """
    assert choice.image
    path = Path(os.path.realpath(choice.image))
    program = shutil.which(_QEMU)
    if program is None:
        raise CowrootError(f"{_QEMU} is missing on this machine, to boot the image with", hint="apt-get install qemu-system-x86")
    if path.exists() and not stat.S_ISREG(os.stat(path).st_mode):
        raise TargetError(f"{path} is not a file: only one can be replaced when its copy has booted", hint="rehearse with an image file")
    with image.opened(path, writable=True), _copy_of(path, say) as copy:
        result = install(choice._replace(image=copy), config_file, say, force=force)
        result = replace(result, target=str(path), text=result.text.replace(str(copy), str(path)))
        if result.done == "unchanged":
            return result
        with tempfile.TemporaryDirectory(prefix="cowroot-") as place:
            with open_target(choice._replace(image=copy), writable=False) as target:
                line = _boot_files(target, Path(place))
            _boot(program, copy, Path(place), line, say)
        os.replace(copy, path)
        say(f"{path}: it booted as configured, and takes the place of the one before")
    return result


@contextmanager
def _copy_of(path: Path, say: Say) -> Iterator[Path]:
    copy = path.with_name(f"{path.name}.rehearsal")
    say(f"{path}: copying it to {copy.name}")
    command = ["cp", "--reflink=auto", "--sparse=auto", "--preserve=mode,ownership,xattr", "--", str(path), str(copy)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise PreflightError(f"{path} cannot be copied: {' '.join(done.stderr.split())}", hint="make room beside it")
        yield copy
    finally:
        with suppress(FileNotFoundError):
            copy.unlink()


def _boot_files(target: OpenTarget, place: Path) -> str:
    """Put kernel and initrd of the newest kernel into `place`; return the kernel's command line."""
    tree, found = target.tree, inspect(target.tree)
    if found.target.init != "systemd":
        raise PreflightError(f"{target.name} cannot be rehearsed: only systemd is asked how a boot went", hint="install without --rehearse")
    if MACHINES.get(found.machine, "x86_64") != "x86_64":
        raise PreflightError(f"{target.name} cannot be rehearsed: it is not for x86-64 processors", hint="install without --rehearse")
    newest = found.kernels[-1]
    kernel, initrds = f"/boot/vmlinuz-{newest.name}", newest.initrds[:1]
    line = f"root=UUID={target.device.uuid if target.device else ''} ro"
    for entry in menu_entries(tree)[:1]:  # what is booted by default
        if entry.kernel and entry.initrds:
            kernel, initrds, line = entry.kernel, entry.initrds, entry.line
    _take(tree, kernel, place / "kernel")
    with open(place / "initrd", "wb") as file:
        file.write(_question())
        for initrd in initrds:
            with open(tree.open_file(initrd, follow=True), "rb") as original:
                shutil.copyfileobj(original, file)
    return f"{line} {_upper(tree)}console=ttyS0,115200 panic=-1"


def _take(tree: Tree, path: str, place: Path) -> None:
    with open(tree.open_file(path, follow=True), "rb") as source, open(place, "wb") as file:
        shutil.copyfileobj(source, file)


def _upper(tree: Tree) -> str:
    """A disk for the upper is none of the image's: for the rehearsal, memory takes its place."""
    config = Config.parse(tree.read_text(CONFIG_PATH), CONFIG_PATH)
    return "" if config.upper.device == "tmpfs" else "cowroot.upper=tmpfs cowroot.read_only=off "


def _question() -> bytes:
    """An archive for in front of an initrd."""

    def text(template: str) -> bytes:
        return render_template("initramfs-hooks", f"rehearsal/{template}.j2", origin=ORIGIN, begin=_BEGIN, end=_END).encode()

    return _archive(
        {
            "conf/conf.d/cowroot-rehearsal": text("order"),
            "scripts/init-bottom/cowroot-rehearsal": text("carry"),
            "etc/systemd/system/initrd-cleanup.service.d/cowroot-rehearsal.conf": text("drop-in"),
            "cowroot-rehearsal/unit": text("unit"),
            "cowroot-rehearsal/ask": text("ask"),
        }
    )


def _archive(files: dict[str, bytes]) -> bytes:
    """The files, all executable, and their directories in the form "newc"."""
    directories = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    members = [(name, stat.S_IFDIR | 0o755, b"") for name in directories]
    members += [(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    parts = []
    for number, (name, mode, content) in enumerate([*members, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        parts += [_padded(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded), _padded(content)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _boot(program: str, disk: Path, place: Path, line: str, say: Say) -> None:
    kvm = _kvm_runs(program, place)
    say(f"{disk.name}: booting it, {'with KVM' if kvm else 'under emulation, which takes minutes'}")
    # What Linux calls the disk depends on what it is attached to.
    kind = "ide" if "root=/dev/sd" in line else "virtio"
    drive = f"file={str(disk).replace(',', ',,')},format=raw,if={kind},snapshot=on"
    options = ["-initrd", str(place / "initrd"), "-append", line, "-drive", drive]
    console = _run(program, [*(_KVM if kvm else _EMULATED), *options], place, _PATIENCE)
    match = re.search(rf"{_BEGIN}\r*\n(.*?){_END} (\d+)", console, re.DOTALL)
    if match is None:
        raise PreflightError(f"the rehearsal's system did not come up; the image is as it was\n{_tail(console)}")
    if match[2] != "0":
        raise PreflightError(f"the rehearsal's system came up otherwise than configured; the image is as it was: {_problems(match[1])}")


def _kvm_runs(program: str, place: Path) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    return _PANIC.decode() in _run(program, [*_KVM, "-append", "console=ttyS0 panic=-1"], place, _KVM_PATIENCE)


def _run(program: str, options: Sequence[str], place: Path, patience: float) -> str:
    """Run QEMU until it ends, or `patience` seconds have passed, and return what the guest's console said."""
    log = place / "console"
    command = [program, *_MACHINE, "-kernel", str(place / "kernel"), "-serial", f"file:{log}", *options]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=namespace.die_with_parent
    ) as process:
        try:
            _, said = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            said = f"QEMU had not ended after {patience:.0f} s".encode()
        finally:
            process.kill()
    text = log.read_text(errors="replace") if log.exists() else ""
    return f"{text}\n{said.decode(errors='replace')}"


def _tail(console: str) -> str:
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console).splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-_TAIL:])


def _problems(text: str) -> str:
    try:
        return "; ".join(json.loads(text)["problems"]) or "`cowroot status` does not say why"
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split()) or "`cowroot status` said nothing"
