"""What goes into an appliance image: the packages, and the handful of files that an installer would have written.

A recipe is data. Everything in it takes part in the name of the cached image (see ``image``), so that a changed recipe is a new image.
"""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace

ROOT_LABEL = "appliance-root"
DEBS_LABEL = "boot-debs"
"""Of the disk with the packages that a guest installs without a network."""
PASSWORD = "appliance"
"""Of root and of the plain user, on the serial console of an image that never leaves this machine."""
PLAIN_USER = "operator1"

_PACKAGES = (
    "systemd-sysv",
    "systemd",
    "libpam-systemd",
    "dbus",
    "udev",
    "kmod",
    "login",
    "passwd",
    "adduser",
    "sudo",
    "logrotate",
    "e2fsprogs",
    "initramfs-tools",
    "zstd",
    "grub-pc",
    "linux-image-cloud-amd64",
    "python3",
)

_FSTAB = f"""\
# <file system>  <mount point>  <type>  <options>  <dump>  <pass>
LABEL={ROOT_LABEL}  /  ext4  errors=remount-ro  0  1
"""

# A console that a program can read: no escape sequences of a menu, every kernel and systemd message.
_GRUB_DEFAULTS = """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=ttyS0,115200"
GRUB_TERMINAL="serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
"""


@dataclass(frozen=True)
class Recipe:
    """One appliance image.

    ``mib`` is the size of the disk; ``debs`` are packages that are not installed but downloaded beside the image, for boots that
    install something without a network; ``files`` are written into the tree, path relative to its root.
    """

    suite: str
    packages: tuple[str, ...]
    variant: str = ""
    debs: tuple[str, ...] = ("hello", "cron", "cron-daemon-common")
    mib: int = 768
    files: dict[str, str] = field(default_factory=dict)

    def key(self, *extra: bytes) -> str:
        """Return a short name for exactly this recipe (and ``extra``, what else the result depends on)."""
        facts = {name: value for name, value in asdict(self).items() if name != "variant"}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for part in extra:
            digest.update(part)
        return digest.hexdigest()[:12]


def _recipe(suite: str, *packages: str) -> Recipe:
    return Recipe(
        suite=suite,
        packages=(*_PACKAGES, *packages),
        files={
            "etc/fstab": _FSTAB,
            "etc/default/grub": _GRUB_DEFAULTS,
            "etc/hostname": "appliance\n",
            "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 appliance\n",
            # An installed system has one; an empty file would make every boot of a read-only disk a first boot, with all its presets.
            "etc/machine-id": hashlib.sha256(suite.encode()).hexdigest()[:32] + "\n",
            # An emulator on a busy machine can take longer than systemd's minute and a half to find a serial line.
            "etc/systemd/system.conf.d/patience.conf": "[Manager]\nDefaultTimeoutStartSec=300s\nDefaultDeviceTimeoutSec=300s\n",
            "etc/default/locale": "LANG=C.UTF-8\n",
        },
    )


# What Debian's installer puts onto a disk has busybox and logsave, and so a roomier initrd, with fsck in it. The older one goes
# without: its initrd has nothing but klibc's few commands. (Debian 13 renamed libfuse2 for its 64-bit time_t.)
TRIXIE = _recipe("trixie", "libfuse2t64", "busybox", "logsave")
BOOKWORM = _recipe("bookworm", "libfuse2")
# As TRIXIE, but its initrds are made by dracut, and systemd is the init system in them, too.
TRIXIE_DRACUT = replace(
    TRIXIE, variant="-dracut", packages=tuple("dracut" if name == "initramfs-tools" else name for name in TRIXIE.packages)
)
# Debian 12 without systemd. The console's check runs when runlevel 2 is reached (see ``guest``).
_INITTAB = """\
id:2:initdefault:
si::sysinit:/etc/init.d/rcS
l0:0:wait:/etc/init.d/rc 0
l2:2:wait:/etc/init.d/rc 2
l6:6:wait:/etc/init.d/rc 6
bt:2:once:/bin/sh -c '[ ! -e /run/cowroot-checks/run ] || exec /bin/bash /run/cowroot-checks/run >/dev/console 2>&1'
"""
_WITHOUT_SYSTEMD = tuple(name for name in BOOKWORM.packages if "systemd" not in name and name != "dbus")
BOOKWORM_SYSVINIT = replace(
    BOOKWORM, variant="-sysvinit", packages=(*_WITHOUT_SYSTEMD, "sysvinit-core"), files={**BOOKWORM.files, "etc/inittab": _INITTAB}
)
# With Debian's own ways to open an encrypted device in the initrd, by a key file, and to find a logical volume (see ``volumes``).
LUKS_UUID = "5c0e3b5a-6a0f-4b5e-9f1e-000000000001"
LUKS_KEY = "/etc/keys/upper.key"
VOLUME_UUID = "5c0e3b5a-6a0f-4b5e-9f1e-000000000002"
PASSPHRASE = "correct horse"
TRIXIE_LUKS = replace(
    TRIXIE,
    variant="-luks",
    packages=(*TRIXIE.packages, "cryptsetup-initramfs", "lvm2"),
    files={
        **TRIXIE.files,
        "etc/crypttab": f"kept UUID={LUKS_UUID} {LUKS_KEY} luks,initramfs,x-initrd.attach\n",
        LUKS_KEY[1:]: "the key of a test\n",
        "etc/cryptsetup-initramfs/conf-hook": 'KEYFILE_PATTERN="/etc/keys/*.key"\n',
    },
)
# With LVM in it, and what an encrypted volume is made with.
TRIXIE_DRACUT_LVM = replace(TRIXIE_DRACUT, variant="-dracut-lvm", packages=(*TRIXIE_DRACUT.packages, "lvm2", "cryptsetup-bin"))
_ALL = (TRIXIE, BOOKWORM, TRIXIE_DRACUT, BOOKWORM_SYSVINIT, TRIXIE_LUKS, TRIXIE_DRACUT_LVM)
RECIPES = {f"{recipe.suite}{recipe.variant}": recipe for recipe in _ALL}
