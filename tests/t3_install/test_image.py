"""`cowroot install --image`: disks that are fit for it, and every kind that is not."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cowroot.errors import ConflictError, PreflightError, TargetError
from cowroot.install.installation import Result, install
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from tests.t3_install.debian import RELEASE, make_debian
from tests.t3_install.disks import MIB, content, loop_devices, make_disk, make_ext4, mounted
from tests.t3_install.fake import Content, make_fake_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting an image needs root")


def put_in(image: Path, partition: int | None = None, *, dry_run: bool = False) -> Result:
    return install(Choice(image=image, partition=partition), None, lambda _: None, dry_run=dry_run)


def take_out(image: Path, partition: int | None = None) -> Result:
    return uninstall(Choice(image=image, partition=partition), lambda _: None)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    return make_debian(tmp_path / "tree")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_fake_tree(tmp_path / "data", {"/photos/1": "a", "/etc/hosts": "not a root"})


@pytest.fixture
def disk(tmp_path: Path, debian: Path) -> Path:
    return make_disk(tmp_path / "disk.img", debian)


def test_the_root_partition_is_found(disk: Path, tmp_path: Path) -> None:
    before = content(disk, tmp_path / "mnt")
    assert put_in(disk).done == "installed"
    with mounted(disk, tmp_path / "mnt"):
        assert "scripts/local-bottom/cowroot" in (tmp_path / f"mnt/boot/initrd.img-{RELEASE}").read_text()
    assert put_in(disk).done == "unchanged"
    assert take_out(disk).done == "uninstalled"
    assert content(disk, tmp_path / "mnt") == before
    assert loop_devices(disk) == []


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_the_root_partition_is_found_among_others(tmp_path: Path, debian: Path, data: Path, label: str) -> None:
    disk = make_disk(tmp_path / "disk.img", data, None, debian, label=label)
    result = put_in(disk)
    assert "partition 3" in result.target
    assert content(disk, tmp_path / "mnt")["."] is not None
    with mounted(disk, tmp_path / "mnt", offset=81 * MIB):
        assert (tmp_path / "mnt/usr/bin/cowroot").is_file()


def test_a_file_system_without_a_partition_table(tmp_path: Path, debian: Path) -> None:
    image = make_ext4(tmp_path / "root.img", debian, 40)
    before = content(image, tmp_path / "mnt", offset=0)
    assert put_in(image).done == "installed"
    assert take_out(image).done == "uninstalled"
    assert content(image, tmp_path / "mnt", offset=0) == before


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_other_file_systems(tmp_path: Path, debian: Path, kind: str) -> None:
    image = tmp_path / "root.img"
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    make = shutil.which(f"mkfs.{kind}")
    if make is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    subprocess.run([make, "-q", str(image)], check=True)
    with mounted(image, tmp_path / "mnt", offset=0, size=400 * MIB, options="rw"):
        subprocess.run(["cp", "-a", f"{debian}/.", str(tmp_path / "mnt")], check=True)
    before = content(image, tmp_path / "mnt", offset=0, size=400 * MIB)
    assert put_in(image).done == "installed"
    assert take_out(image).done == "uninstalled"
    assert content(image, tmp_path / "mnt", offset=0, size=400 * MIB) == before


def test_a_boot_partition_of_the_image_is_mounted_too(tmp_path: Path) -> None:
    tree = make_debian(tmp_path / "tree", {"/etc/fstab": "LABEL=root / ext4 defaults 0 1\n"})
    boot = tmp_path / "boot"
    shutil.move(tree / "boot", boot)
    (tree / "boot").mkdir()
    disk = make_disk(tmp_path / "disk.img", boot, tree)
    uuid = subprocess.run(
        ["blkid", "--probe", "--offset", str(MIB), "-s", "UUID", "-o", "value", str(disk)], capture_output=True, text=True, check=True
    ).stdout.strip()
    with mounted(disk, tmp_path / "mnt", offset=41 * MIB, options="rw"):
        (tmp_path / "mnt/etc/fstab").write_text(f"LABEL=root / ext4 defaults 0 1\nUUID={uuid} /boot ext4 defaults 0 2\n")
    root_before, boot_before = content(disk, tmp_path / "mnt", offset=41 * MIB), content(disk, tmp_path / "mnt")
    assert put_in(disk).done == "installed"
    with mounted(disk, tmp_path / "mnt"):
        assert "etc/cowroot.conf" in (tmp_path / f"mnt/initrd.img-{RELEASE}").read_text()
    with mounted(disk, tmp_path / "mnt", offset=41 * MIB):
        assert list((tmp_path / "mnt/boot").iterdir()) == []
    take_out(disk)
    assert content(disk, tmp_path / "mnt", offset=41 * MIB) == root_before
    assert content(disk, tmp_path / "mnt") == boot_before


def test_dry_run_leaves_the_file_alone(disk: Path) -> None:
    before = sha256(disk)
    assert put_in(disk, dry_run=True).done == "planned"
    assert sha256(disk) == before
    assert loop_devices(disk) == []


# Partitions


def test_two_roots_are_not_guessed_between(tmp_path: Path, debian: Path) -> None:
    disk = make_disk(tmp_path / "disk.img", debian, debian)
    before = sha256(disk)
    with pytest.raises(TargetError, match=r"more than one root file system: partition 1 .*, partition 2 ") as caught:
        put_in(disk)
    assert "--partition" in caught.value.hint
    assert sha256(disk) == before
    assert "partition 2" in put_in(disk, 2).target


@pytest.mark.parametrize(
    ("number", "message"),
    [(1, "holds no root file system"), (2, "can hold a root"), (3, "has no partition 3"), (99, "has no partition 99")],
)
def test_a_partition_that_does_not_do(tmp_path: Path, data: Path, number: int, message: str) -> None:
    disk = make_disk(tmp_path / "disk.img", data, None)
    before = sha256(disk)
    with pytest.raises(TargetError, match=message):
        put_in(disk, number)
    assert sha256(disk) == before


def test_no_partition_with_a_root(tmp_path: Path, data: Path) -> None:
    disk = make_disk(tmp_path / "disk.img", data, None)
    with pytest.raises(TargetError, match="holds no root file system that is known") as caught:
        put_in(disk)
    assert "partition 1 (ext4 'fake', 40 MiB), partition 2 (nothing known, 40 MiB)" in caught.value.hint
    assert loop_devices(disk) == []


def test_a_broken_file_system_beside_the_root_is_none_of_our_business(tmp_path: Path, debian: Path, data: Path) -> None:
    disk = make_disk(tmp_path / "disk.img", data, debian)
    with disk.open("r+b") as file:  # its superblock stays, its block groups go
        file.seek(MIB + 2048)
        file.write(b"\xff" * 65536)
    assert "partition 2" in put_in(disk).target
    with pytest.raises(TargetError, match=r"partition 1 .* cannot be mounted"):
        put_in(disk, 1)


def test_a_disk_is_an_image_too(disk: Path) -> None:
    command = ["losetup", "--find", "--show", str(disk)]
    device = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        assert put_in(Path(device)).done == "installed"
        assert take_out(Path(device)).done == "uninstalled"
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_partition_beyond_the_end_of_the_file(disk: Path) -> None:
    os.truncate(disk, 20 * MIB)
    with pytest.raises(TargetError, match=r"holds no root file system|cannot be mounted|no disk image"):
        put_in(disk)
    assert loop_devices(disk) == []


# Files that are no images


def test_not_an_image(tmp_path: Path) -> None:
    table = bytes(510) + b"\x55\xaa" + bytes(MIB)  # of partitions, with none in it
    for name, text in {"text": b"hello\n", "zeros": bytes(MIB), "noise": os.urandom(MIB), "table": table}.items():
        (tmp_path / name).write_bytes(text)
        with pytest.raises(TargetError, match="is no disk image"):
            put_in(tmp_path / name)


def test_missing_empty_or_not_even_a_file(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="there is no "):
        put_in(tmp_path / "missing.img")
    with pytest.raises(TargetError, match="there is no "):
        put_in(tmp_path / "missing" / "directory.img")
    (tmp_path / "empty.img").touch()
    with pytest.raises(TargetError, match="is empty"):
        put_in(tmp_path / "empty.img")
    with pytest.raises(TargetError, match="is a directory") as caught:
        put_in(tmp_path)
    assert "--root" in caught.value.hint
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(TargetError, match="neither a file nor a disk"):
            put_in(path)


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("qcow2", [], "a qcow2 image"),
        ("vmdk", [], "a VMDK image"),
        ("vdi", [], "a VirtualBox VDI image"),
        ("vhdx", [], "a VHDX image"),
        ("vpc", ["-o", "subformat=dynamic"], "a VHD image"),
    ],
)
def test_a_virtual_disk_of_another_format_says_how_to_convert_it(tmp_path: Path, kind: str, options: list[str], name: str) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img (qemu-utils) is not installed")
    image = tmp_path / f"my disk.{kind}"
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, *options, str(image), "8M"], check=True)
    before = sha256(image)
    with pytest.raises(TargetError, match=f"is {name}, not a raw one") as caught:
        put_in(image)
    assert sha256(image) == before
    command = caught.value.hint.split(": ", 1)[1].split(";")[0]
    assert command == f"qemu-img convert -f {kind} -O raw '{image}' '{tmp_path}/my disk.raw'"
    # And it does what it says.
    subprocess.run(command, shell=True, check=True)
    assert (tmp_path / "my disk.raw").stat().st_size >= 8 * MIB


def test_packed_images_and_those_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "disk.img.gz").write_bytes(gzip.compress(bytes(MIB)))
    with pytest.raises(TargetError, match="compressed with gzip") as caught:
        put_in(tmp_path / "disk.img.gz")
    assert "gunzip --keep" in caught.value.hint
    (tmp_path / "root.squashfs").write_bytes(b"hsqs" + bytes(MIB))
    with pytest.raises(TargetError, match="squashfs"):
        put_in(tmp_path / "root.squashfs")
    (tmp_path / "cd.iso").write_bytes(bytes(0x8001) + b"CD001" + bytes(MIB))
    with pytest.raises(TargetError, match="ISO 9660"):
        put_in(tmp_path / "cd.iso")


def test_a_read_only_file(disk: Path) -> None:
    disk.chmod(0o444)
    before = sha256(disk)
    with pytest.raises(TargetError, match="is read-only") as caught:
        put_in(disk)
    assert "chmod u+w" in caught.value.hint
    assert put_in(disk, dry_run=True).done == "planned"
    assert sha256(disk) == before


def test_a_file_on_a_read_only_file_system(disk: Path, tmp_path: Path) -> None:
    carrier = tmp_path / "carrier"
    carrier.mkdir()
    subprocess.run(["mount", "--bind", str(tmp_path), str(carrier)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(carrier)], check=True)
        with pytest.raises(TargetError, match="read-only"):
            put_in(carrier / disk.name)
        with pytest.raises(TargetError, match="mounted read-only") as caught:
            install(Choice(root=carrier / "tree"), None, lambda _: None)
        assert "remount,rw" in caught.value.hint
    finally:
        subprocess.run(["umount", str(carrier)], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    tree = make_debian(tmp_path / "tree", {"/srv/ballast": os.urandom(30 * MIB)})
    disk = make_disk(tmp_path / "disk.img", tree)
    before = content(disk, tmp_path / "mnt")
    with pytest.raises(PreflightError, match=r"is too full: \d+ MiB are needed at / and \d+ MiB are free") as caught:
        put_in(disk)
    assert "free" in caught.value.hint
    assert content(disk, tmp_path / "mnt") == before
    assert loop_devices(disk) == []


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(os.urandom(64 << 10))


def test_uninstall_from_a_disk_that_has_been_filled_changes_nothing(disk: Path, tmp_path: Path) -> None:
    put_in(disk)
    with mounted(disk, tmp_path / "mnt", options="rw") as root:
        _fill(root / "ballast")
    before = content(disk, tmp_path / "mnt")
    with pytest.raises(PreflightError, match="is too full"):
        take_out(disk)
    assert content(disk, tmp_path / "mnt") == before


def test_no_more_inodes(tmp_path: Path) -> None:
    many: dict[str, Content] = {f"/srv/{number}": "" for number in range(40)}
    tree = make_debian(tmp_path / "tree", many)
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(40 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-N", "150", "-d", str(tree), str(disk), "40M"], check=True)
    before = content(disk, tmp_path / "mnt", offset=0)
    with pytest.raises(PreflightError, match="inodes"):
        put_in(disk)
    assert content(disk, tmp_path / "mnt", offset=0) == before


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (("/usr/bin/python3",), "no Python 3.9 or newer"),
        (("/usr/lib/x86_64-linux-gnu/libfuse",), "libfuse 2 is missing"),
        (("/lib/modules",), f"the kernel {RELEASE} has no FUSE"),
        (("/boot/vmlinuz",), "no kernel is installed"),
        (("/usr/sbin/update-initramfs",), "nothing that makes initrds"),
    ],
)
def test_an_image_that_lacks_something_is_not_touched(tmp_path: Path, without: tuple[str, ...], message: str) -> None:
    disk = make_disk(tmp_path / "disk.img", make_debian(tmp_path / "tree", without=without))
    before = sha256(disk)
    with pytest.raises(PreflightError, match=message):
        put_in(disk)
    assert sha256(disk) == before


# In use


def test_attached_elsewhere(disk: Path, tmp_path: Path) -> None:
    with mounted(disk, tmp_path / "mnt"), pytest.raises(ConflictError, match="is attached to /dev/loop"):
        put_in(disk)


def test_locked_by_a_virtual_machine(disk: Path) -> None:
    # As QEMU does it: single bytes from 100 on, with locks of the open file (block/file-posix.c); even a reader holds some.
    with disk.open("rb") as file:
        fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_RDLCK, 0, 100, 1, 0))
        with pytest.raises(ConflictError, match="in use, by a virtual machine"):
            put_in(disk)


def test_two_installs_at_once(disk: Path, tmp_path: Path) -> None:
    with disk.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="another cowroot is at work"):
            put_in(disk)
        with pytest.raises(ConflictError, match="another cowroot is at work"):
            take_out(disk)
    command = [sys.executable, "-m", "cowroot", "install", "--image", str(disk), "-q"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate(timeout=120), process.returncode) for process in both]
    assert sorted(code for _, code in ends) in ([0, 5], [0, 0]), ends
    # The second may have come when the first had finished; then it had nothing to do.
    for (out, err), code in ends:
        assert "at work" in err if code == 5 else "installed" in out or "nothing to do" in out


def test_two_installs_into_one_directory(debian: Path) -> None:
    lock = os.open(debian, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConflictError, match="another cowroot is at work"):
            install(Choice(root=debian), None, lambda _: None)
    finally:
        os.close(lock)
