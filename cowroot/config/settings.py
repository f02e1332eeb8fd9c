"""The one table of settings. The YAML parser, the kernel parameters, the shell form, the reference page and the man page all come from it.

A setting that is not in `SETTINGS` does not exist; one that is, exists everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cowroot.config.kinds import (
    BlackBox,
    Choice,
    Device,
    Directory,
    FileSystem,
    Inodes,
    Kind,
    Lowers,
    Percent,
    Rungs,
    Seconds,
    Size,
    Switch,
    TmpfsSize,
)
from cowroot.config.mount_rules import MountRules


@dataclass(frozen=True)
class Setting:
    """One setting.

    `key` is its place in the YAML file (dots are levels), `parameter` its name on the kernel command line ("" where it has none, since
    it matters only when cowroot is installed), `doc` one or more sentences for people.
    """

    key: str
    kind: Kind
    default: Any
    parameter: str
    doc: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the setting takes, where they can be listed."""
        return self.kind.choices

    @property
    def variable(self) -> str:
        """Its name in the shell form that goes into the initrd, such as COWROOT_UPPER_SIZE."""
        return "COWROOT_" + self.key.upper().replace(".", "_")


@dataclass(frozen=True)
class Section:
    """A level of the YAML file, with a sentence for people."""

    key: str
    doc: str


SECTIONS: tuple[Section, ...] = (
    Section("upper", "The writable layer: where everything that is written below / goes."),
    Section("full", "From when on a filling upper is told of, by `cowroot watch` and `cowroot status`."),
    Section(
        "grub",
        "What `cowroot install` does to boot menus. A disk that is never written can never clear GRUB's record of a failed boot.",
    ),
    Section("upstart", "How Upstart (Ubuntu 9.10 to 14.10) is made to bring up the union before mountall mounts anything."),
)

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "enabled",
        Switch(),
        True,
        "cowroot",
        "Whether / is a union. Off: the real root is booted as it would be without cowroot, and writes reach the disk.",
    ),
    Setting(
        "engine",
        Choice("auto", "fusepy", "direct", "overlayfs"),
        "auto",
        "cowroot.engine",
        "What serves the union. direct speaks the kernel's FUSE protocol itself, from Linux 5.4 on; fusepy runs wherever FUSE and libfuse "
        "2 do; overlayfs is the kernel's own union, without FUSE. auto is direct where the kernel can, else fusepy.",
    ),
    Setting(
        "low_latency",
        Switch(),
        True,
        "cowroot.low_latency",
        "Whether idle processors are kept awake while requests to the union follow each other closely. Waking them, above all virtual "
        "ones, takes several times as long as most answers. Off saves power. With one processor it makes no difference.",
    ),
    Setting(
        "lock_memory",
        Switch(),
        False,
        "cowroot.lock_memory",
        "Whether the daemon's memory is locked, so that none of it is ever swapped out or has to be read from the disk again: an answer "
        "then waits for no disk but for the file that it is about. It takes some 40 MiB that nobody else can have.",
    ),
    Setting(
        "black_box",
        BlackBox(),
        "none",
        "cowroot.black_box",
        "A file system (UUID=…, LABEL=…, PARTUUID=… or /dev/…) on which boots with an upper in memory keep how far they came, for `cowroot "
        "status --last-boot`. It is mounted for that as long as the system runs. With an upper on a device, that serves.",
    ),
    Setting(
        "upper.device",
        Device(),
        "tmpfs",
        "cowroot.upper",
        "tmpfs: changes live in memory and are gone at the next boot. A file system (UUID=…, LABEL=…, PARTUUID=… or /dev/…) keeps them, or "
        "a file with a file system in it (LABEL=…:/path), on a device that is mounted for it.",
    ),
    Setting(
        "upper.size",
        Size("memory", "50%", "512M", "2G"),
        TmpfsSize(50, "%"),
        "cowroot.size",
        "How large a tmpfs upper may grow: a percentage of the memory, or bytes with K, M or G. It does not limit an upper on a "
        "device. A file that upper.create makes is so large.",
    ),
    Setting(
        "upper.inodes",
        Inodes(),
        "auto",
        "cowroot.inodes",
        "How many files a tmpfs upper may hold. auto: one for every two pages of memory, as the kernel has it.",
    ),
    Setting(
        "upper.reserve",
        Size("upper", "2%", "16M"),
        TmpfsSize(16, "M"),
        "cowroot.reserve",
        "How much of the upper is kept for root, so that a machine whose upper was filled can still be logged into, and logs: a percentage "
        "of the upper, or bytes with K, M or G; never more than a twentieth of it. On a tmpfs it takes so much memory.",
    ),
    Setting(
        "upper.fstype",
        FileSystem(),
        "auto",
        "cowroot.fstype",
        "The type of the file system on the upper's device; auto finds it out.",
    ),
    Setting(
        "upper.directory",
        Directory(),
        "cowroot",
        "cowroot.directory",
        "The directory on the upper's device that holds the layer, so that the device can hold other things beside it. It is made when "
        "it is not there.",
    ),
    Setting(
        "upper.wait",
        Seconds(),
        30,
        "cowroot.wait",
        "How many seconds the boot waits for the upper's device to appear.",
    ),
    Setting(
        "upper.create",
        Switch(),
        False,
        "cowroot.create",
        "Whether the upper is made where there is none: an ext4 file system on the device, if nothing at all is found on that; or the "
        "file, of upper.size, with ext4 in it.",
    ),
    Setting(
        "upper.random_key",
        Switch(),
        False,
        "cowroot.random_key",
        "Whether the upper's device is encrypted with a key that is made at each boot and kept nowhere, and so is empty at each boot. A "
        "device that holds anything else is left alone.",
    ),
    Setting(
        "upper.read_only",
        Switch(),
        False,
        "cowroot.read_only",
        "Whether the upper on a device is only read, as the topmost lower: all that was changed so far is there at each boot, and what is "
        "changed from now on lives in memory, as with tmpfs.",
    ),
    Setting(
        "upper.reset",
        Switch(),
        False,
        "cowroot.reset",
        "Whether an upper on a device is emptied at each boot. `cowroot reset` has it emptied once.",
    ),
    Setting(
        "on_failure",
        Rungs("tmpfs", "read-only", "shell"),
        ("tmpfs", "read-only", "shell"),
        "cowroot.on_failure",
        "What the boot may fall back to when the union cannot come up as configured, tried in this order: a union with an upper in memory; "
        "the real root, mounted read-only; a shell in the initramfs. Never a writable real root.",
    ),
    Setting(
        "lowers",
        Lowers(),
        (),
        "cowroot.lowers",
        "Further read-only layers between the disk and the upper, the topmost first: images (squashfs, erofs, …) and directories, on the "
        "disk itself or on another device, and whole devices.",
    ),
    Setting(
        "mounts",
        MountRules(),
        (),
        "cowroot.mounts",
        "What becomes of the file systems besides /, line by line of fstab; the first rule that fits decides. pass: mounted as fstab says; "
        "read-only; union: writable, with an upper of its own beside that of /; absent: not mounted. Without a rule a line passes, but for "
        "/boot, /boot/efi and /efi, which are read-only: of an upgrade in the union, half would reach the disk.",
    ),
    Setting(
        "full.warning",
        Percent(),
        80,
        "",
        "How many percent of the upper's space, or of its inodes, are used when there is a warning.",
    ),
    Setting(
        "full.critical",
        Percent(),
        95,
        "",
        "How many percent are used when it is critical. From then on `cowroot status` says that something is not as it should be.",
    ),
    Setting(
        "grub.recordfail",
        Switch(),
        True,
        "",
        "Whether GRUB is kept from waiting at its menu because of a failed boot that it remembers, and from writing to the disk; and "
        "systemd-boot from counting boots, and from writing a random seed.",
    ),
    Setting(
        "grub.timeout",
        Seconds(),
        0,
        "",
        "How many seconds GRUB's menu waits after a boot that it takes for failed. Used only when grub.recordfail is true.",
    ),
    Setting(
        "grub.off_entry",
        Switch(),
        True,
        "",
        "Whether the menu of GRUB, systemd-boot or extlinux offers an entry that boots the real root once, as cowroot=off does.",
    ),
    Setting(
        "upstart.form",
        Choice("pre-start", "job"),
        "pre-start",
        "",
        "What happens where no rung of on_failure is left, or the script that brings up the union cannot even run. pre-start makes the "
        "script a part of the job mountall: then nothing is mounted, and the boot stands still. job makes it a job of its own: then the "
        "boot goes on with the real root as fstab has it, which may be writable.",
    ),
)


def settings_below(section: str) -> tuple[Setting, ...]:
    """The settings of the section with the key `section`; "" for those at the top level."""
    return tuple(setting for setting in SETTINGS if setting.key.rpartition(".")[0] == section)
