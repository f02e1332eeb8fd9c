"""A root file system of a few files that looks like an Ubuntu with Upstart, and no Python that could serve a union."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.t2_render.test_upstart import MOUNTALL_CONF, VERSIONS
from tests.t3_install.debian import make_debian
from tests.t3_install.fake import Content, Script

RELEASE = "3.13.0-24-generic"
# What Debian's has and it has not.
_GONE = (
    "/boot", "/etc/initramfs-tools", "/etc/systemd", "/lib/modules", "/usr/bin/lsinitramfs", "/usr/bin/python3", "/usr/lib/python3",
    "/usr/lib/systemd", "/usr/lib/x86_64-linux-gnu/libfuse", "/usr/sbin/init", "/usr/sbin/update-initramfs",
)  # fmt: skip


_STATUS = "Package: upstart-bin\nVersion: 9\n\nPackage: upstart\nDepends: y,\n z\nVersion: {}\n\nPackage: z\nVersion: 8\n"


def make_ubuntu(root: Path, release: str = "14.04", changed: dict[str, Content] | None = None, *, kernel: str = RELEASE) -> Path:
    """Make it at `root`. `changed` are entries over the rest."""
    entries: dict[str, Content] = {
        "/etc/os-release": f'ID=ubuntu\nVERSION_ID="{release}"\n',
        "/etc/init/mountall.conf": MOUNTALL_CONF,
        "/usr/sbin/init": Script("#!/bin/sh\n"),
        "/usr/sbin/initctl": Script("#!/bin/sh\n"),
        "/var/lib/dpkg/status": _STATUS.format(VERSIONS[release]),
        "/boot/grub/grub.cfg": "\tlinux\t/boot/vmlinuz\n",
        f"/boot/vmlinuz-{kernel}": b"MZ",
        f"/boot/initrd.img-{kernel}": "init\n",
        f"/lib/modules/{kernel}/modules.builtin": "kernel/fs/fuse/fuse.ko\n",
        **_chroot(),
        **(changed or {}),
    }
    return make_debian(root, entries, without=_GONE)


def _chroot() -> dict[str, Content]:
    """This machine's chroot(8), with its libraries: the installation tries the interpreter that it brings along."""
    listed = subprocess.run(["ldd", "/usr/sbin/chroot"], capture_output=True, text=True, check=True).stdout
    files = ["/usr/sbin/chroot", *re.findall(r"(/\S+) \(0x", listed)]
    return {path: Path(path).read_bytes() for path in files}
