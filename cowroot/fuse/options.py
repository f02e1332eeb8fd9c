"""What stands behind `-o`: the union's own options, the mount's flags, and what mount(8) adds for others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional

from cowroot.errors import ConfigError

if TYPE_CHECKING:
    from cowroot.union import LayerSpec

ENGINES = ("auto", "fusepy", "direct", "overlayfs")
WHITEOUTS = ("overlay", "oci")
# The options by what follows them: nothing, =on or =off, a value; and those values that are directories.
SWITCHES = ("userxattr", "allow_other", "boot", "remount", "create")
ON_OFF = ("metacopy", "low_latency", "lock_memory")
WITH_VALUE = ("lowerdir", "upperdir", "workdir", "engine", "fsname", "control", "protocol", "whiteouts", "reserve")
DIRECTORIES = ("lowerdir", "upperdir", "workdir", "control")

# mount(2) flags (include/uapi/linux/mount.h) by option: which bits it sets and which it clears.
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT, MS_DIRSYNC = 1, 2, 4, 8, 16, 32, 128
MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_RELATIME = 256, 1024, 2048, 4096, 1 << 21
MS_STRICTATIME, MS_LAZYTIME = 1 << 24, 1 << 25
_ATIME_BITS = MS_NOATIME | MS_RELATIME | MS_STRICTATIME
FLAGS: dict[str, tuple[int, int]] = {
    "ro": (MS_RDONLY, 0), "rw": (0, MS_RDONLY), "suid": (0, MS_NOSUID), "nosuid": (MS_NOSUID, 0), "dev": (0, MS_NODEV),
    "nodev": (MS_NODEV, 0), "exec": (0, MS_NOEXEC), "noexec": (MS_NOEXEC, 0), "sync": (MS_SYNCHRONOUS, 0), "async": (0, MS_SYNCHRONOUS),
    "dirsync": (MS_DIRSYNC, 0), "atime": (0, MS_NOATIME), "noatime": (MS_NOATIME, _ATIME_BITS), "diratime": (0, MS_NODIRATIME),
    "nodiratime": (MS_NODIRATIME, 0), "relatime": (MS_RELATIME, _ATIME_BITS), "norelatime": (0, MS_RELATIME),
    "strictatime": (MS_STRICTATIME, _ATIME_BITS), "nostrictatime": (0, MS_STRICTATIME), "lazytime": (MS_LAZYTIME, 0),
    "nolazytime": (0, MS_LAZYTIME), "symfollow": (0, MS_NOSYMFOLLOW), "nosymfollow": (MS_NOSYMFOLLOW, 0),
}  # fmt: skip
# Those that libfuse 2 knows and can mount with; the others are set once the mount is there.
LIBFUSE_FLAGS = ("ro", "nosuid", "nodev", "noexec", "sync", "dirsync", "noatime")

# What fstab and mount(8) put among the options for themselves, and what the kernel shows of a FUSE mount when mount(8) remounts it.
_NOISE = frozenset((
    "defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "owner", "group", "nouser", "nousers", "noowner", "nogroup", "mand",
    "nomand", "silent", "loud", "default_permissions", "subtype=cowroot", "nonempty", "big_writes",
))  # fmt: skip
_NOISE_WITH_VALUE = frozenset(("user", "comment", "helper", "uhelper", "user_id", "group_id", "rootmode", "fd", "max_read", "blksize"))


def _is_noise(word: str) -> bool:
    return word in _NOISE or word.startswith(("x-", "X-")) or ("=" in word and word.partition("=")[0] in _NOISE_WITH_VALUE)


class MountOptions:
    """The options of one mount, understood. `text` has those words of them that mean something here."""

    def __init__(self, allow_other: bool = False, flags: int = 0) -> None:
        self.text = ""
        self.lower: list[str] = []
        self.upper: Optional[str] = None
        self.work: Optional[str] = None
        self.userxattr = False
        self.metacopy = True
        self.reserve = "0"
        self.low_latency = True
        self.lock_memory = False
        self.engine = "auto"
        self.fsname = ""
        self.control: Optional[str] = None
        self.allow_other = allow_other
        self.boot = False
        self.create = False
        self.whiteouts: list[str] = []  # of which form each lower's are; one word for all
        self.protocol = 99  # engine direct: use nothing that FUSE has learnt after this minor version
        self.remount = False
        self.flags = flags
        # which of the bits of `flags` were asked for either way: a remount leaves the others as they are
        self.mentioned = 0

    @classmethod
    def parse(cls, text: str, sloppy: bool = False) -> MountOptions:
        """Understand an option string. Raises ConfigError for what is unknown (unless `sloppy`), lacks its value, or contradicts itself."""
        root = os.geteuid() == 0
        options = cls(allow_other=root, flags=0 if root else MS_NOSUID | MS_NODEV)
        for word in split(text, ","):
            options._take(word, sloppy)
        if (options.upper is None) != (options.work is None):
            given, missing = ("upperdir", "workdir") if options.work is None else ("workdir", "upperdir")
            hint = f"add {missing}=DIR on the same file system; without both, the union is read-only"
            raise ConfigError(f"{given} without {missing}", hint=hint)
        if not options.remount and not options.lower:
            raise ConfigError("no lowerdir among the options", hint="add -o lowerdir=DIR, or lowerdir=TOP:BELOW for several")
        if len(options.whiteouts) not in (0, 1, len(options.lower)):
            raise ConfigError(
                f"whiteouts speaks of {len(options.whiteouts)} layers, lowerdir of {len(options.lower)}",
                hint="write one word for all layers, or one for each: whiteouts=oci:overlay",
            )
        if options.upper is None and not options.remount:
            options.flags |= MS_RDONLY
        return options

    def _take(self, word: str, sloppy: bool) -> None:
        key, _, value = word.partition("=")
        if word in FLAGS:
            on, off = FLAGS[word]
            self.flags = self.flags & ~off | on
            self.mentioned |= on | off
        elif word in SWITCHES:
            setattr(self, word, True)
        elif key in ON_OFF and value in ("on", "off"):
            setattr(self, key, value == "on")
        elif key in WITH_VALUE:
            if not value:
                raise ConfigError(f"option {key} has no value", hint=f"write {key}=…")
            self._set(key, value)
        elif not word or sloppy or _is_noise(word):
            return
        else:
            raise ConfigError(f"unknown mount option {word!r}", hint="see `cowroot mount --help`; a comma in a path is written \\,")
        self.text += ("," if self.text else "") + word

    def _set(self, key: str, value: str) -> None:
        if key == "lowerdir":
            self.lower = [unescape(part) for part in split(value, ":")]
            if not all(self.lower):
                raise ConfigError(f"lowerdir={value}: an empty path between colons", hint="write \\: for a colon that belongs to a path")
        elif key == "engine":
            if value not in ENGINES:
                raise ConfigError(f"unknown engine {value!r}", hint=f"the engines are {', '.join(ENGINES)}")
            self.engine = value
        elif key == "protocol":
            major, _, minor = value.partition(".")
            if major != "7" or not (minor.isdecimal() and minor.isascii()):
                raise ConfigError(f"protocol={value} is not a version of the FUSE protocol", hint="write protocol=7.31 or a later one")
            self.protocol = int(minor)
        elif key == "reserve":
            number = value[:-1] if value[-1] in "KMGkmg%" else value
            if not (number.isdecimal() and number.isascii() and len(number) < 13):
                raise ConfigError(f"reserve={value} is not a size", hint="write bytes, with K, M or G, or a percentage: reserve=16M")
            self.reserve = value
        elif key == "whiteouts":
            self.whiteouts = value.split(":")
            for word in self.whiteouts:
                if word not in WHITEOUTS:
                    raise ConfigError(f"unknown form of whiteouts {word!r}", hint=f"the forms are {', '.join(WHITEOUTS)}")
        else:
            setattr(self, {"upperdir": "upper", "workdir": "work"}.get(key, key), unescape(value))

    def layers(self) -> LayerSpec:
        """The layers to mount: by absolute paths, so that whoever is told of them can follow them from anywhere."""
        from cowroot.union import LayerSpec  # the process that starts the daemon goes without the union: a boot waits for it

        upper, work = (None if path is None else os.path.abspath(path) for path in (self.upper, self.work))
        lower = [os.path.abspath(path) for path in self.lower]
        return LayerSpec(lower, upper, work, self.userxattr, self.metacopy, whiteouts=self.whiteouts, reserve=self.reserve)

    def libfuse_options(self) -> list[str]:
        """What libfuse is mounted with, in its own escaping."""
        names = [name for name in LIBFUSE_FLAGS if self.flags & FLAGS[name][0]]
        names += [on for on, off in (("suid", "nosuid"), ("dev", "nodev")) if off not in names]
        names += ["allow_other"] if self.allow_other else []
        # mount(8) mounts over what is there; libfuse 2 would refuse a directory that is not empty
        names += ["default_permissions", "subtype=cowroot", "nonempty"]
        name = (self.fsname or "cowroot").replace("\\", "\\\\").replace(",", "\\,")
        return [*names, f"fsname={name}"]

    def flags_after_mount(self) -> int:
        """The flags that libfuse cannot mount with; 0 if there are none."""
        return self.flags & (MS_NOSYMFOLLOW | MS_NODIRATIME | MS_STRICTATIME)


def split(text: str, separator: str) -> list[str]:
    r"""Split at separators that no backslash stands before, as overlayfs does. The backslashes stay: see `unescape`."""
    parts, escaped = [""], False
    for character in text:
        if character == separator and not escaped:
            parts.append("")
        else:
            parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts


def unescape(text: str) -> str:
    r"""Take away the backslashes of `\,`, `\:` and `\\`."""
    plain, escaped = "", False
    for character in text:
        escaped = character == "\\" and not escaped
        if not escaped:
            plain += character
    return plain + ("\\" if escaped else "")
