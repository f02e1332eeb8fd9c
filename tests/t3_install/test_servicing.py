"""The real root, opened and protected again: on a disk of its own, mounted and write-protected as a boot leaves it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.errors import TargetError
from cowroot.install.installation import install
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from cowroot.mountinfo import mounted_at
from cowroot.servicing.thaw import set_plan, thawed_boots
from tests.t3_install.debian import make_debian, program
from tests.t3_install.disks import make_ext4
from tests.t3_install.fake import snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")

_DRIVER = """
import os, sys
from cowroot.errors import CowrootError
from cowroot.mountinfo import mounted_at
from cowroot.servicing.chroot import run
from cowroot.servicing.real_root import protected
boot = mounted_at(sys.argv[1] + ".boot")
try:
    sys.exit(run(sys.argv[2:], {"/boot": boot} if boot else {}, [protected(boot)] if boot else [], sys.argv[1], sys.argv[1] + ".lock"))
except CowrootError as error:
    print(error.message, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Disk:
    """A root file system on a loop device, mounted read-only at `place`."""

    def __init__(self, device: str, place: Path) -> None:
        self.device, self.place = device, place

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _DRIVER, str(self.place), *words]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def chroot(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def protected(self) -> bool:
        mount = mounted_at(str(self.place))
        assert mount is not None
        switch = Path(f"/sys/class/block/{os.path.basename(self.device)}/ro").read_text().strip()
        return mount.options.startswith("ro") and mount.super_options.startswith("ro") and switch == "1"

    def wait_until_protected(self) -> None:
        deadline = time.monotonic() + 20
        while not self.protected():
            assert time.monotonic() < deadline, "it stays writable"
            time.sleep(0.05)


def _attach(image: Path, place: Path, *options: str) -> Iterator[Disk]:
    attach = ["losetup", "--find", "--show", *options, str(image)]
    device = subprocess.run(attach, capture_output=True, text=True, check=True).stdout.strip()
    try:
        place.mkdir()
        subprocess.run(["mount", "-o", "ro", device, str(place)], check=True)
        subprocess.run(["blockdev", "--setro", device], check=True)
        yield Disk(device, place)
    finally:
        subprocess.run(["umount", str(place)], check=False)
        subprocess.run(["blockdev", "--setrw", device], check=True)  # it would stay so for the next one that has this device
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tree = make_debian(tmp_path / "tree", {"/etc/motd": "old\n", "/etc/resolv.conf": "of the disk\n", **program("/bin/mv")})
    return make_ext4(tmp_path / "disk.img", tree, 40)


@pytest.fixture
def disk(image: Path, tmp_path: Path) -> Iterator[Disk]:
    yield from _attach(image, tmp_path / "lower")


def test_what_the_command_writes_stays_and_its_exit_code_is_told(disk: Disk) -> None:
    done = disk.chroot("/bin/sh", "-c", "echo new >/etc/motd; read -r line </etc/resolv.conf; echo \"$line\"; exit 7")
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
    with open("/etc/resolv.conf", encoding="utf-8") as file:
        assert done.stdout == file.readline()
    assert disk.protected()
    assert (disk.place / "etc/motd").read_text() == "new\n"
    assert (disk.place / "etc/resolv.conf").read_text() == "of the disk\n"
    assert subprocess.run(["e2fsck", "-f", "-n", disk.device], capture_output=True, check=False).returncode == 0


def test_a_boot_partition_is_writable_with_it(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    image = make_ext4(tmp_path / "boot.img", tmp_path / "kernels", 8)
    for boot in _attach(image, tmp_path / "lower.boot"):
        subprocess.run(["blockdev", "--setrw", boot.device], check=True)  # as the boot leaves it: only mounted read-only
        assert disk.chroot("/bin/sh", "-c", "echo kernel >/boot/vmlinuz").stderr == ""
        assert (boot.place / "vmlinuz").read_text() == "kernel\n"
        mount = mounted_at(str(boot.place))
        assert mount is not None
        assert not mount.opened
        assert Path(f"/sys/class/block/{os.path.basename(boot.device)}/ro").read_text() == "0\n"
    assert disk.protected()


def test_the_real_root_is_not_in_the_tmp_of_the_command(disk: Disk) -> None:
    """Whoever clears /tmp there must not clear the disk."""
    done = disk.chroot("/bin/sh", "-c", 'for place in "$TMPDIR"/cowroot-*/*; do echo "$place"; done; [ -d "$TMPDIR" ] && echo shared')
    assert done.stdout == f"{os.environ['TMPDIR']}/cowroot-*/*\nshared\n"


def test_nobody_else_can_write_meanwhile(disk: Disk) -> None:
    with disk.start("/bin/sh", "-c", "echo there; read -r line") as process:
        assert process.stdout and process.stdout.readline() == "there\n"
        with pytest.raises(OSError, match="Read-only"):
            (disk.place / "etc/other").touch()
        assert not disk.protected()
        second = disk.chroot("/bin/sh", "-c", ":")
        assert second.returncode == 5
        assert "somebody else has the real root open" in second.stderr
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert disk.protected()


@pytest.mark.parametrize("victim", ["command", "front", "guardian"])
def test_whoever_is_killed_the_disk_is_protected_again(disk: Disk, victim: str) -> None:
    with disk.start("/bin/sh", "-c", "exec 3>/etc/held; echo new >/etc/motd; echo there; read -r line") as process:
        assert process.stdout and process.stdout.readline() == "there\n"
        guardian, first = _children(process.pid)
        (shell,) = _children(first)
        os.kill({"command": shell, "front": process.pid, "guardian": guardian}[victim], signal.SIGKILL)
        if victim == "guardian":
            assert not disk.protected()
            process.communicate("\n", timeout=60)
        code = process.wait(60)
        assert code == {"command": 128 + signal.SIGKILL, "front": -signal.SIGKILL, "guardian": 0}[victim]
        disk.wait_until_protected()
        assert not os.path.exists(f"/proc/{shell}")
    assert (disk.place / "etc/motd").read_text() == "new\n"


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_signal_is_passed_on(disk: Disk) -> None:
    with disk.start("/bin/sh", "-c", "trap 'echo ended; exit 3' TERM; echo there; read -r line; read -r line") as process:
        assert process.stdout and process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ended\n"
        assert process.wait(60) == 3
    assert disk.protected()


def test_what_the_command_leaves_behind_ends_with_it(disk: Disk) -> None:
    done = disk.chroot("/bin/sh", "-c", "(while :; do echo more >>/etc/held; done) >/dev/null 2>&1 & echo started")
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert disk.protected()


def test_a_command_that_is_not_there(disk: Disk) -> None:
    done = disk.chroot("/bin/no-such")
    assert (done.returncode, done.stderr) == (127, "cowroot: /bin/no-such: No such file or directory\n")
    assert disk.chroot("/etc/motd").returncode == 126
    assert disk.protected()


def test_removed_files_in_use_keep_the_kernel_from_it_and_that_is_said(disk: Disk) -> None:
    with open(disk.place / "etc/motd", encoding="utf-8"):
        done = disk.chroot("/bin/sh", "-c", "echo new >/etc/motd.new; /bin/mv /etc/motd.new /etc/motd")
        assert done.returncode == 0
        assert "stays writable inside the kernel until the next boot" in done.stderr
        with pytest.raises(OSError, match="Read-only"):
            (disk.place / "etc/other").touch()
    assert disk.chroot("/bin/sh", "-c", ":").stderr == ""
    assert disk.protected()
    assert (disk.place / "etc/motd").read_text() == "new\n"


def test_a_disk_that_is_read_only(image: Path, tmp_path: Path) -> None:
    for disk in _attach(image, tmp_path / "lower", "--read-only"):
        done = disk.chroot("/bin/sh", "-c", ":")
        assert done.returncode == 3
        assert f"{disk.device} is a read-only disk" in done.stderr
        assert disk.protected()


def test_a_file_system_that_is_mounted_writable_elsewhere_stays_so(disk: Disk, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with open(disk.device, "rb") as device:
        fcntl.ioctl(device, 0x125D, b"\0\0\0\0")
    subprocess.run(["mount", "--bind", str(disk.place), str(other)], check=True)
    try:
        subprocess.run(["mount", "-i", "-o", "remount,rw", str(other)], check=True)
        assert disk.chroot("/bin/sh", "-c", "echo new >/etc/motd").returncode == 0
        (other / "etc/other").write_text("written\n")
    finally:
        subprocess.run(["umount", str(other)], check=True)


def test_thawed_boots_are_counted_on_the_disk_of_an_installed_system(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root")
    with pytest.raises(TargetError, match="cowroot is not installed here"):
        set_plan(root, 1)
    before = snapshot(root)
    assert install(Choice(root=root), None, lambda _: None).done == "installed"
    assert thawed_boots(root) == 0
    set_plan(root, 3)
    assert (root / "etc/cowroot/thaw").read_text() == "3\n"
    assert thawed_boots(root) == 3
    set_plan(root, 0)
    set_plan(root, 0)
    assert not (root / "etc/cowroot/thaw").exists()
    set_plan(root, 1)
    assert uninstall(Choice(root=root), lambda _: None).done == "uninstalled"
    assert snapshot(root) == before


@pytest.mark.parametrize("content", ["", "0\n", "-1\n", "many\n", "100\n", "\u0661\n"])
def test_what_is_no_number_of_boots(tmp_path: Path, content: str) -> None:
    (tmp_path / "etc/cowroot").mkdir(parents=True)
    (tmp_path / "etc/cowroot/thaw").write_text(content)
    assert thawed_boots(tmp_path) == 0
