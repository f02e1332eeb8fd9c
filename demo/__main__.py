"""Show that an appliance image boots copy-on-write: what a user does, from the image to the checksum.

Ends with exit code 0 if all of it was so, 1 if not (with what was not, and where the console's text is), 130 after Ctrl-C.
"""
from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from demo.login import Login
from demo.screen import Progress, Screen
from tests.t6_boot import image, qemu
from tests.t6_boot.carrier import make_debs_disk
from tests.t6_boot.disk import BuildError
from tests.t6_boot.image import CHECKOUT, Image
from tests.t6_boot.machine import BootError, Machine, clean_up_on_sigterm

_BOOT_LIMIT = 300.0
_ENDING_LIMIT = 120.0
_CONSOLES = CHECKOUT / ".cache/demo"

_NOTE = "/root/note.txt"


class DemoError(Exception):
    """Something was not as it should be; the message says what was seen and what should have been."""


@dataclass
class Proof:
    """What the summary reports: one line each, in the order of their coming."""

    lines: list[str]

    def add(self, line: str) -> None:
        """Remember that ``line`` was seen to be so."""
        self.lines.append(line)


@dataclass(frozen=True)
class Startup:
    """A boot's cost: from the kernel's start to the end of systemd's start-up, and in processor time, firmware and login included."""

    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s from the kernel's start to the end of systemd's, {self.cpu_seconds:.1f} s of processor time"


def main() -> int:
    """Run the demo; return the exit code."""
    clean_up_on_sigterm()
    screen = Screen()
    shutil.rmtree(_CONSOLES, ignore_errors=True)
    _CONSOLES.mkdir(parents=True)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="cowroot-demo-") as place:
            proof = _show(screen, Path(place))
    except (BootError, BuildError, DemoError) as error:
        screen.failure(str(error), _CONSOLES)
        return 1
    except KeyboardInterrupt:
        screen.failure("interrupted; no machine is left running", _CONSOLES)
        return 130
    screen.summary(proof.lines, time.monotonic() - began)
    return 0


def _show(screen: Screen, place: Path) -> Proof:
    proof = Proof([])
    screen.step("A Debian 13 appliance image, and a copy with cowroot in it (`cowroot install --image`)")
    plain, appliance = image.plain(), image.installed()
    debs = make_debs_disk(plain, place)
    screen.note(f"plain:   {plain.disk}")
    screen.note(f"cowroot: {appliance.disk}")
    before = appliance.sha256()
    screen.note(f"SHA-256 of the latter, before: {before}")
    accelerator = "KVM" if qemu.kvm_runs(plain) else "software emulation, no KVM that runs this kernel"
    screen.note(f"machine: QEMU {qemu.version()}, {accelerator}")

    screen.step("For comparison: the plain image, booted through GRUB on a disk that may be written")
    plain_took = _boot_plain(screen, plain, place)
    screen.note(f"up after {plain_took}")

    screen.step("The image with cowroot, booted through GRUB from a read-only disk")
    with _machine(screen, appliance, place, "union", [debs]) as machine:
        login = Login(machine, _BOOT_LIMIT)
        union_took = _startup(login, machine)
        screen.note(f"up after {union_took}")
        _look_around(screen, login, proof)
        _change_things(screen, login, proof)

        screen.step("Reboot: the upper was in memory, so all of that should be gone")
        _ask_to_end(login, machine, "reboot", "Restarting system", screen, proof)
        login = Login(machine, _BOOT_LIMIT)
        _see_that_it_is_gone(screen, login, proof)

        screen.step("Power off")
        _ask_to_end(login, machine, "poweroff", "Power down", screen, proof)
        machine.wait_for_end(_ENDING_LIMIT)

    screen.step("The disk afterwards")
    after = appliance.sha256()
    screen.note(f"SHA-256, before: {before}")
    screen.note(f"SHA-256, after:  {after}")
    if after != before:
        raise DemoError("the image has been written to: its checksum is another one")
    proof.add("the image file is the same to the byte (SHA-256) after two boots, writes, a package and a reboot")
    clock = f"{union_took.seconds / plain_took.seconds:.2f} by the clock ({union_took.seconds:.1f} s, {plain_took.seconds:.1f} s)"
    processor = f"{union_took.cpu_seconds / plain_took.cpu_seconds:.2f} by the processor, which other work here disturbs less"
    proof.add(f"the boot's time, union over plain: {clock}, {processor} ({union_took.cpu_seconds:.1f} s, {plain_took.cpu_seconds:.1f} s)")
    return proof


def _machine(screen: Screen, booted: Image, place: Path, name: str, disks: list[Path], *, read_only: bool = True) -> Machine:
    console = _CONSOLES / f"{name}.log"
    screen.note(f"console: {console}")
    return qemu.start(booted, place / name, disks=disks, read_only=read_only, reboots=True, console=console, listener=Progress(screen))


def _boot_plain(screen: Screen, plain: Image, place: Path) -> Startup:
    with _machine(screen, plain, place, "plain", [], read_only=False) as machine:
        login = Login(machine, _BOOT_LIMIT)
        took = _startup(login, machine)
        login.send("systemctl poweroff")
        machine.wait_for_end(_ENDING_LIMIT)
    return took


def _startup(login: Login, machine: Machine) -> Startup:
    """Wait for the end of the guest's start-up and return how long it took, by systemd's own count and by the machine's use of the CPU."""
    _expect(login, "systemctl is-system-running --wait", "running")
    cpu_seconds = machine.cpu_seconds
    output, _ = login.run("systemctl show --property FinishTimestampMonotonic --value")
    return Startup(int(output) / 1e6, cpu_seconds)


def _expect(login: Login, command: str, wanted: str, code: int = 0) -> str:
    """Run a command whose output and exit code are known; raise DemoError if they are others."""
    output, got = login.run(command)
    if output != wanted or got != code:
        raise DemoError(f"`{command}` said {output!r} (exit code {got}), not {wanted!r} ({code})")
    return output


def _shown(screen: Screen, login: Login, command: str) -> str:
    output, code = login.run(command)
    screen.command(command, output)
    if code:
        raise DemoError(f"`{command}` failed with exit code {code}")
    return output


def _look_around(screen: Screen, login: Login, proof: Proof) -> None:
    screen.step("Logged in: what / is")
    _shown(screen, login, "findmnt /")
    _shown(screen, login, "df -h /")
    _shown(screen, login, "cowroot status")
    fields = json.loads(login.run("findmnt --json --output FSTYPE,OPTIONS /")[0])["filesystems"][0]
    if fields["fstype"] != "fuse.cowroot":
        raise DemoError(f"/ is {fields['fstype']}, not fuse.cowroot")
    _expect(login, "systemctl is-system-running", "running")
    _expect(login, "systemctl --failed --no-legend --plain", "")
    proof.add("/ is fuse.cowroot, booted by BIOS and GRUB; the system is `running`, no unit failed; `cowroot status`: as configured")
    disk = login.run("findmnt --noheadings --output SOURCE /")[0]
    read_only = login.run(f"cat /sys/class/block/{Path(disk).name.rstrip('0123456789')}/ro")[0]
    if read_only != "1":
        raise DemoError(f"{disk} is on a disk that the guest could write")
    proof.add(f"the disk below it ({disk}) refuses writes")


def _change_things(screen: Screen, login: Login, proof: Proof) -> None:
    screen.step("Changes: a file, a removal, a package")
    _shown(screen, login, f"date | tee {_NOTE}")
    _shown(screen, login, "rm --verbose /etc/debian_version")
    _shown(screen, login, "mount --read-only LABEL=boot-debs /mnt && apt-get install --yes /mnt/hello_*.deb | cat && umount /mnt")
    _shown(screen, login, "hello")
    _shown(screen, login, "cowroot status | grep 'copied up'")
    _shown(screen, login, f"ls -l {_NOTE} /run/cowroot/upper/upper{_NOTE}")
    proof.add("a file was written, one removed, a package installed by apt-get: all of it landed in the upper")


def _see_that_it_is_gone(screen: Screen, login: Login, proof: Proof) -> None:
    _expect(login, "systemctl is-system-running --wait", "running")
    output, _ = login.run(f"ls {_NOTE} /etc/debian_version; type hello")
    screen.command(f"ls {_NOTE} /etc/debian_version; type hello", output)
    if login.run(f"test ! -e {_NOTE} && test -e /etc/debian_version && ! type hello")[1]:
        raise DemoError("after the reboot something of it was still there")
    _shown(screen, login, "findmnt --noheadings --output FSTYPE /")
    proof.add("after the reboot they were gone, and what was removed was back")


def _ask_to_end(login: Login, machine: Machine, verb: str, sign: str, screen: Screen, proof: Proof) -> None:
    login.send(f"systemctl {verb}")
    began = time.monotonic()
    machine.wait_for(f"reboot: {sign}", _ENDING_LIMIT, f"end after `systemctl {verb}`")
    seconds = time.monotonic() - began
    screen.note(f"`systemctl {verb}` to the kernel's last word: {seconds:.1f} s")
    late = [line for line in machine.before.splitlines() if "timed out" in line.lower() or "stop job" in line]
    if late:
        raise DemoError(f"`systemctl {verb}` had to wait: {late[0]}")
    proof.add(f"`systemctl {verb}` ended cleanly, with no time-out, after {seconds:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
