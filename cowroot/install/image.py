"""Raw disk images: what a file is, its partitions, and which of them holds a root file system.

Nothing here relies on the kernel for partitions: loop devices often show none (it may know no MSDOS tables, or the loop module was
loaded without max_part). They are read by sfdisk, and each file system is mounted from its offset.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowroot.errors import ConflictError, CowrootError, TargetError
from cowroot.install import namespace

# offset, signature, name, format for `qemu-img convert -f`
_VIRTUAL_DISKS = (
    (0, b"QFI\xfb", "a qcow2 image", "qcow2"),
    (0, b"KDMV", "a VMDK image", "vmdk"),
    (0, b"COWD", "a VMDK image", "vmdk"),
    (0, b"# Disk DescriptorFile", "the descriptor of a VMDK image", "vmdk"),
    (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox VDI image", "vdi"),
    (0, b"vhdxfile", "a VHDX image", "vhdx"),
    (0, b"conectix", "a VHD image", "vpc"),
    (0, b"QED\0", "a QED image", "qed"),
)
# offset, signature, name, how to get at what is in it
_PACKED = (
    (0, b"\x1f\x8b", "gzip", "gunzip --keep"),
    (0, b"\xfd7zXZ\0", "xz", "unxz --keep"),
    (0, b"\x28\xb5\x2f\xfd", "zstd", "unzstd --keep"),
    (0, b"BZh", "bzip2", "bunzip2 --keep"),
)
_READ_ONLY_FORMATS = ((0, b"hsqs", "a squashfs file system"), (0x8001, b"CD001", "an ISO 9660 (CD) image"))
# Ways to mount without replaying a journal, that is, without writing.
_NO_REPLAY = {"ext3": ",noload", "ext4": ",noload", "xfs": ",norecovery", "btrfs": ",rescue=nologreplay"}
ROOT_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
# Tenths of a second that the kernel gets to detach a loop device that is no longer used.
_PATIENCE = 30
_F_OFD_SETLK = 37  # linux/fcntl.h; a lock of the open file, not of the process


@dataclass(frozen=True)
class Partition:
    """A partition; number 0 is a file system that fills the file. start and size in bytes."""

    number: int
    start: int
    size: int
    fstype: str
    label: str
    uuid: str
    partuuid: str

    def __str__(self) -> str:
        where = f"partition {self.number}" if self.number else "the whole file"
        what = self.fstype or "nothing known"
        return f"{where} ({what}{f' {self.label!r}' if self.label else ''}, {self.size >> 20} MiB)"


@contextmanager
def opened(path: Path, *, writable: bool) -> Iterator[int]:
    """Check that `path` is a raw disk image that nobody else uses, lock it, and yield a descriptor.

    Raises TargetError (missing, no image, another format, read-only) and ConflictError (in use).
    """
    name = shlex.quote(str(path))
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise TargetError(f"{path} is a directory, not a disk image", hint=f"for a root file system use --root {name}")
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
            raise TargetError(f"{path} is neither a file nor a disk", hint="give a raw disk image")
        if writable and stat.S_ISREG(status.st_mode) and not status.st_mode & 0o222:
            raise TargetError(f"{path} is read-only", hint=f"allow writing to it: chmod u+w {name}")
        # O_EXCL on a block device: EBUSY while anything of it is mounted or claimed.
        exclusive = os.O_EXCL if stat.S_ISBLK(status.st_mode) else 0
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | exclusive)
    except OSError as error:
        raise _cannot_open(path, error) from None
    try:
        _refuse_other_formats(path, fd)
        _lock(path, fd, writable=writable)
        if writable:
            _refuse_attached(path)
        yield fd
    finally:
        os.close(fd)


def _cannot_open(path: Path, error: OSError) -> CowrootError:
    name = shlex.quote(str(path))
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return TargetError(f"there is no {path}", hint="give the path of a raw disk image")
    if error.errno == 16:  # EBUSY
        return ConflictError(f"{path} is in use", hint=f"unmount what is mounted of it (lsblk {name})")
    if error.errno == 30:  # EROFS
        return TargetError(f"{path} is on a read-only file system", hint="copy it to where it can be written")
    if error.errno == 1:  # EPERM, though permissions allow it: the immutable or append-only attribute
        return TargetError(f"{path} is marked immutable", hint=f"allow writing to it: chattr -ia {name}")
    return TargetError(f"{path} cannot be opened: {error.strerror}", hint="check who may read and write it")


def _refuse_other_formats(path: Path, fd: int) -> None:
    name = shlex.quote(str(path))

    def has(offset: int, signature: bytes) -> bool:
        return os.pread(fd, len(signature), offset) == signature

    if os.lseek(fd, 0, os.SEEK_END) == 0:
        raise TargetError(f"{path} is empty", hint="give a raw disk image")
    for offset, signature, what, kind in _VIRTUAL_DISKS:
        if has(offset, signature):
            raw = shlex.quote(str(path.with_suffix(".raw")))
            raise TargetError(
                f"{path} is {what}, not a raw one", hint=f"convert it: qemu-img convert -f {kind} -O raw {name} {raw}; then use {raw}"
            )
    for offset, signature, what, command in _PACKED:
        if has(offset, signature):
            raise TargetError(f"{path} is compressed with {what}", hint=f"unpack it first: {command} {name}")
    for offset, signature, what in _READ_ONLY_FORMATS:
        if has(offset, signature):
            raise TargetError(
                f"{path} is {what}, which can only be made anew", hint="install into the tree that it is made from, with --root"
            )


def _lock(path: Path, fd: int, *, writable: bool) -> None:
    """Keep out other installations (flock) and virtual machines: QEMU and UML lock what they use as fcntl(2) does."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError(f"another cowroot is at work on {path}", hint="wait until it has finished") from None
    # struct flock of fcntl(2): type, whence, start, length (0: to the end), pid
    wanted = struct.pack("hhqqi", fcntl.F_WRLCK if writable else fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, _F_OFD_SETLK, wanted)
    except (BlockingIOError, PermissionError):
        raise ConflictError(f"{path} is in use, by a virtual machine perhaps", hint=f"see who has it open: fuser -v {path}") from None


def _refuse_attached(path: Path) -> None:
    # A loop device of a killed installation goes away by itself, but not at that very instant.
    for _ in range(_PATIENCE):
        attached = _output(["losetup", "--noheadings", "--output", "NAME", "--associated", str(path)]).split()
        if not attached:
            return
        time.sleep(0.1)
    raise ConflictError(
        f"{path} is attached to {', '.join(attached)}, so that it may be mounted elsewhere",
        hint=f"unmount it and detach it: losetup --detach {attached[0]}; or use --root with the place where it is mounted",
    )


def partitions(path: Path, fd: int) -> list[Partition]:
    """Return the partitions of an image, or the one file system that fills it. Raises TargetError if there is neither."""
    size = os.lseek(fd, 0, os.SEEK_END)
    whole = _probe(path, 0, size)
    if whole.get("TYPE") and not whole.get("PTTYPE"):
        return [_partition(0, 0, size, whole, "")]
    try:
        table: dict[str, Any] = json.loads(_output(["sfdisk", "--json", str(path)]))["partitiontable"]
    except (ValueError, KeyError):
        table = {}
    if not table.get("partitions"):
        raise TargetError(
            f"{path} is no disk image: it has neither a partition table nor a file system", hint="give a raw image of a whole disk"
        )
    sector = table.get("sectorsize", 512)
    found = []
    for entry in table["partitions"]:
        number = int(entry["node"][len(str(path)) :].lstrip("p"))
        partuuid = entry["uuid"].lower() if "uuid" in entry else f"{int(table.get('id', '0'), 16):08x}-{number:02x}"
        start, length = entry["start"] * sector, entry["size"] * sector
        found.append(_partition(number, start, length, _probe(path, start, length), partuuid))
    return found


def _partition(number: int, start: int, size: int, facts: dict[str, str], partuuid: str) -> Partition:
    return Partition(number, start, size, facts.get("TYPE", ""), facts.get("LABEL", ""), facts.get("UUID", ""), partuuid)


def probe_device(node: str) -> dict[str, str]:
    """Return blkid's facts about a block device, by its own names for them (UUID, LABEL, PART_ENTRY_UUID, …)."""
    return _facts(_output(["blkid", "--probe", "--output", "export", node]))


def _probe(path: Path, start: int, size: int) -> dict[str, str]:
    """Return what blkid makes of a stretch of the file; nothing if it makes nothing of it."""
    output = _output(["blkid", "--probe", "--offset", str(start), "--size", str(size), "--output", "export", str(path)])
    return _facts(output)


def _facts(output: str) -> dict[str, str]:
    # blkid escapes blanks and the like in values by a backslash.
    pairs = (line.split("=", 1) for line in output.splitlines() if "=" in line)
    return {name: value.replace("\\", "") for name, value in pairs}


def mount_partition(path: Path, partition: Partition, place: Path, *, writable: bool) -> str:
    """Mount a partition at `place` and return the loop device that it comes from, which goes away with the mount.

    Without `writable` not a byte of the file changes. Raises TargetError if it cannot be mounted, ConflictError if somebody else has.
    """
    for _ in range(_PATIENCE):
        _mount(path, partition, place, writable=writable)
        if not writable or not os.statvfs(place).f_flag & os.ST_RDONLY:
            return _output(["findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", str(place)]).strip()
        # mount(8) takes a loop device that has this stretch of the file already, and is content with it being read-only: one that was
        # looked at just before, and that the kernel has not yet detached.
        namespace.unmount(place)
        time.sleep(0.1)
    raise ConflictError(f"{path} is attached read-only elsewhere", hint=f"see to what: losetup --associated {shlex.quote(str(path))}")


def _mount(path: Path, partition: Partition, place: Path, *, writable: bool) -> None:
    options = f"loop,offset={partition.start},sizelimit={partition.size},nosuid,nodev"
    options += ",rw" if writable else f",ro{_NO_REPLAY.get(partition.fstype, '')}"
    command = ["mount", "-n", "-t", partition.fstype, "-o", options, str(path), str(place)]
    for _ in range(_PATIENCE):
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if "failed to setup loop device" not in result.stderr:
            break
        time.sleep(0.1)  # somebody else has just taken the one that was free
    if result.returncode != 0:
        reason = " ".join(result.stderr.split()) or f"mount ended with exit code {result.returncode}"
        hint = f"does this kernel know {partition.fstype}, and is the file system whole?"
        if "loop device" in reason:
            hint = "is there a free loop device? (losetup --list)"
        raise TargetError(f"{partition} of {path} cannot be mounted: {reason}", hint=hint)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace", check=False
        ).stdout
    except FileNotFoundError:
        packages = {"sfdisk": "fdisk", "losetup": "mount"}
        package = packages.get(command[0], "util-linux")
        raise CowrootError(f"{command[0]} is missing on this machine", hint=f"apt-get install {package}") from None
