"""What is worked on: a directory, a disk image or the running system, locked and mounted for as long as it takes."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cowroot import mountinfo
from cowroot.boot.bls import PLACES
from cowroot.errors import ConflictError, CowrootError, PreflightError, TargetError
from cowroot.install import image, namespace
from cowroot.install.manifest import STATE_DIRECTORY
from cowroot.install.staging import Device
from cowroot.install.tree import Tree

# Where an installation may put something and that may be a file system of its own.
_OWN_FILE_SYSTEMS = (*PLACES, "/etc", "/usr", "/var", "/var/lib")
_UNIONS = ("fuse.cowroot", "overlay", "fuse.unionfs", "fuse.fuse-overlayfs", "aufs")
# What a boot leaves of the disks below the union: that of /, and those of other unions, "+" for "/" in their mount point
# (initramfs-hooks, functions/fstab.j2).
LOWER = "/run/cowroot/lower"
_OTHER_DISKS = "/run/cowroot/mounts"


class Choice(NamedTuple):
    """The target as a user names it: a directory, or an image and perhaps a partition of it (not both), or neither: the running system."""

    root: Path | None = None
    image: Path | None = None
    partition: int | None = None


@dataclass(frozen=True)
class OpenTarget:
    """A target at work.

    name: for messages. submounts: the mount points of other file systems that belong to it. device: that of its root, None if it is not
    known. trusted: whether its programs may do what this machine's may. scratch: a tmpfs for as long as the target is open.
    """

    name: str
    tree: Tree
    submounts: tuple[str, ...]
    device: Device | None
    trusted: bool
    scratch: Path


@contextmanager
def open_target(choice: Choice, *, writable: bool) -> Iterator[OpenTarget]:
    """Lock, mount and yield the target; afterwards, also after an error or a signal, nothing of that is left.

    Raises TargetError if it is none or cannot be written, ConflictError if somebody else is at work on it.
    """
    # What is locked must be opened in the caller's own mount namespace; paths mean the same in both.
    with ExitStack() as stack:
        if choice.image is not None:
            path = Path(os.path.abspath(choice.image))
            fd = stack.enter_context(image.opened(path, writable=writable))
            scratch = stack.enter_context(namespace.private_mounts())
            target = _open_image(path, fd, choice.partition, scratch, stack, writable=writable)
        else:
            scratch = stack.enter_context(namespace.private_mounts())
            root = Path(os.path.realpath(choice.root or "/"))
            target = _open_directory(root, scratch, stack, writable=writable)
        _lock(target, writable=writable)
        _check_state_directory(target)
        try:
            yield target
        except OSError as error:
            raise _said_plainly(target, error) from error


def _check_state_directory(target: OpenTarget) -> None:
    """Raise TargetError unless what is installed can be remembered: in a directory, not through a link to elsewhere."""
    tree, parent = target.tree, os.path.dirname(STATE_DIRECTORY)
    if tree.canonical(parent, follow=True) != parent or not tree.is_dir(parent):
        raise TargetError(f"{target.name} has no directory {parent}, where originals are kept", hint="is this a root file system?")
    if tree.exists(STATE_DIRECTORY, follow=False) and not stat.S_ISDIR(tree.lstat(STATE_DIRECTORY).st_mode):
        raise TargetError(f"{STATE_DIRECTORY} in {target.name} is not a directory", hint="remove it: cowroot keeps originals there")


def _said_plainly(target: OpenTarget, error: OSError) -> CowrootError:
    """Return what to tell about a system call that failed at work: a disk that breaks, fills up, or holds what nobody expects there."""
    if error.errno == errno.ENOSPC:
        return PreflightError(
            f"{target.name}: no space was left, there or in memory (changes are tried out in a tmpfs); nothing was changed",
            hint="free some and do it again",
        )
    path = error.filename if isinstance(error.filename, str) else ""
    where = f" at {path}" if path else ""
    return CowrootError(f"{target.name}: {error.strerror or error}{where}; nothing was changed", hint="is the file system whole? (fsck)")


def _open_image(path: Path, fd: int, number: int | None, scratch: Path, stack: ExitStack, *, writable: bool) -> OpenTarget:
    place = scratch / "root"
    place.mkdir()
    found = image.partitions(path, fd)
    partition = _named_partition(path, found, number) if number is not None else _root_partition(path, found, place)
    node = image.mount_partition(path, partition, place, writable=writable)
    stack.callback(namespace.unmount, place)
    tree = stack.enter_context(Tree(place))
    name = f"{path}, {partition}" if partition.number else str(path)
    if not _is_root(tree):
        raise TargetError(
            f"{name} holds no root file system: no /etc/os-release and /sbin/init", hint="leave --partition out to have it found"
        )
    submounts = []
    for point, boot in _boot_partitions(tree, found):
        # A link in its place could lead anywhere; a directory is where it says it is.
        if tree.canonical(point, follow=True) == point and tree.is_dir(point):
            image.mount_partition(path, boot, place / point[1:], writable=writable)
            stack.callback(namespace.unmount, place / point[1:])
            submounts.append(point)
    return OpenTarget(name, tree, tuple(submounts), Device(node, partition.uuid, partition.label, partition.partuuid), False, scratch)


def _named_partition(path: Path, found: list[image.Partition], number: int) -> image.Partition:
    for partition in found:
        if partition.number == number:
            if partition.fstype not in image.ROOT_FILE_SYSTEMS:
                raise TargetError(f"{partition} of {path} is no file system that can hold a root", hint=_list(found))
            return partition
    raise TargetError(f"{path} has no partition {number}", hint=_list(found))


def _root_partition(path: Path, found: list[image.Partition], place: Path) -> image.Partition:
    roots, failures = [], []
    for partition in found:
        if partition.fstype in image.ROOT_FILE_SYSTEMS:
            try:
                image.mount_partition(path, partition, place, writable=False)
            except TargetError as error:  # of no consequence where another one holds the root
                failures.append(error)
                continue
            try:
                with Tree(place) as tree:
                    if _is_root(tree):
                        roots.append(partition)
            finally:
                namespace.unmount(place)
    if not roots and failures:
        raise failures[0]
    if len(roots) == 1:
        return roots[0]
    if roots:
        raise TargetError(
            f"{path} has more than one root file system: {', '.join(map(str, roots))}", hint="choose one with --partition NUMBER"
        )
    kinds = {partition.fstype for partition in found}
    hint = _list(found)
    if kinds & {"crypto_LUKS", "LVM2_member"}:
        hint += "; open its encryption or volumes yourself, mount the root, and use --root"
    raise TargetError(f"{path} holds no root file system that is known (ext4, xfs or btrfs with /etc/os-release and /sbin/init)", hint=hint)


def _list(found: list[image.Partition]) -> str:
    return f"it has {', '.join(map(str, found))}"


def _is_root(tree: Tree) -> bool:
    has_release = tree.is_file("/etc/os-release") or tree.is_file("/usr/lib/os-release")
    return has_release and any(tree.is_file(path) for path in ("/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"))


def fstab(tree: Tree) -> list[list[str]]:
    """Return the fields of each line of the target's /etc/fstab."""
    try:
        text = tree.read_text("/etc/fstab")
    except OSError:
        return []
    lines = (line.split("#")[0].split() for line in text.splitlines())
    return [fields for fields in lines if len(fields) >= 3]


def _boot_partitions(tree: Tree, found: list[image.Partition]) -> list[tuple[str, image.Partition]]:
    """Return the partitions of this image that fstab has at /boot, or where the EFI system partition is, and where; outer ones first."""
    names = {}
    for partition in found:
        for name in (f"UUID={partition.uuid}", f"LABEL={partition.label}", f"PARTUUID={partition.partuuid}"):
            names[name] = partition
    places = {point: spec.replace('"', "") for spec, point, *_ in fstab(tree)}
    return [(point, names[places[point]]) for point in sorted(PLACES) if places.get(point) in names]


def _open_directory(root: Path, scratch: Path, stack: ExitStack, *, writable: bool) -> OpenTarget:
    live = root == Path("/")
    name = "the running system" if live else str(root)
    try:
        tree = stack.enter_context(Tree(root))
    except NotADirectoryError:
        raise TargetError(f"{root} is not a directory", hint=f"for a disk image use --image {shlex.quote(str(root))}") from None
    except OSError as error:
        raise TargetError(f"{root} cannot be opened: {error.strerror}", hint="give the directory of a root file system") from None
    if not _is_root(tree):
        raise TargetError(f"{name} holds no root file system: no /etc/os-release and /sbin/init", hint="give the directory that will be /")
    # The last one mounted at a place is the one that is seen. (An EFI system partition is often mounted when it is first looked at.)
    for point in PLACES:
        tree.listdir(f"{point}/EFI")
    mounts = {mount.point: mount for mount in mountinfo.mounts()}
    own = mounts.get(str(root))
    if live and own and own.kind in _UNIONS:
        if LOWER in mounts and not writable:
            return _open_below(scratch, stack)
        below = "`cowroot chroot cowroot …` does it on the disk below, for the next boot; or " if LOWER in mounts else ""
        raise TargetError(
            f"/ is a union ({own.kind}) now, and what is written into it does not reach the disk",
            hint=f"{below}boot once with cowroot=off (the boot menu has an entry for it), then do this again",
        )
    if writable and os.statvfs(root).f_flag & os.ST_RDONLY:
        raise TargetError(f"{name} is mounted read-only", hint=f"mount -o remount,rw {shlex.quote(str(root))}")
    prefix = "" if live else str(root)
    submounts = tuple(point for point in _OWN_FILE_SYSTEMS if f"{prefix}{point}" in mounts)
    device = _device(own.source) if own and own.source.startswith("/dev/") else None
    return OpenTarget(name, tree, submounts, device, live, scratch)


def _open_below(scratch: Path, stack: ExitStack) -> OpenTarget:
    """The disk below the running union, with what belongs to it, to be looked at: this is what the next boot finds."""
    place = scratch / "root"
    place.mkdir()
    namespace.bind(LOWER, place)
    stack.callback(namespace.unmount, place)
    tree = stack.enter_context(Tree(place))
    submounts = []
    for point in sorted(PLACES):
        boot = disk_at(point)
        if boot and tree.is_dir(point) and tree.canonical(point, follow=True) == point:
            namespace.bind(boot.point, place / point[1:])
            submounts.append(point)
    return OpenTarget("the disk below the running union", tree, tuple(submounts), None, True, scratch)


def disk_at(point: str) -> mountinfo.Mount | None:
    """What is mounted there from a disk; of a union, the disk below it."""
    mount = mountinfo.mounted_at(point)
    if mount is not None and mount.kind == _UNIONS[0]:
        mount = mountinfo.mounted_at(f"{_OTHER_DISKS}/{point.strip('/').replace('/', '+')}")
    return mount if mount is not None and mount.source.startswith("/dev/") else None


def _device(node: str) -> Device | None:
    if not os.path.exists(node):
        return None
    facts = image.probe_device(node)
    return Device(os.path.realpath(node), facts.get("UUID", ""), facts.get("LABEL", ""), facts.get("PART_ENTRY_UUID", ""))


def _lock(target: OpenTarget, *, writable: bool) -> None:
    try:
        fcntl.flock(target.tree.fd, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError(f"another cowroot is at work on {target.name}", hint="wait until it has finished") from None
