"""`cowroot install` on a root file system laid out as Arch Linux has it, with stand-ins for its tools."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cowroot.install.doctor import PROBLEM, examine
from cowroot.install.installation import install
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from tests.t3_install.debian import RELEASE, make_debian
from tests.t3_install.fake import Script, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installing mounts an overlay, which needs root")

_GRUB_MKCONFIG = """\
#!/bin/sh
[ "$1" = -o ] || exit 2
{
	echo "	linux	/boot/vmlinuz-linux root=LABEL=fake rw"
	echo "### BEGIN /etc/grub.d/99_cowroot ###"
} >"$2"
"""

_MKINITCPIO = """\
#!/bin/sh
echo "mkinitcpio $*"
while [ $# -gt 0 ]; do
	case $1 in -g) initrd=$2; shift ;; esac
	shift
done
{
	echo init
	for file in /etc/initcpio/hooks/cowroot /usr/lib/cowroot/initcpio/functions; do
		[ ! -e "$file" ] || [ ! -e /etc/mkinitcpio.conf.d/cowroot.conf ] || case $file in
		*functions) echo usr/lib/cowroot-boot/functions ;;
		*) echo hooks/cowroot; echo etc/cowroot.conf ;;
		esac
	done
} >"$initrd"
"""


def test_the_layout_of_arch(tmp_path: Path) -> None:
    """Kernels that are called after packages, each with two initrds by mkinitcpio, and no directory for GRUB's settings."""
    gone = ("/usr/sbin/update-", "/usr/bin/lsi", "/etc/initramfs-tools", "/boot/", "/var/lib/dpkg", "/usr/lib/x86_64", "/lib/modules")
    modules = f"/lib/modules/{RELEASE}"
    root = make_debian(
        tmp_path / "arch",
        {
            "/etc/os-release": "ID=arch\n",
            "/usr/bin/mkinitcpio": Script(_MKINITCPIO),
            "/usr/bin/lsinitcpio": Script('#!/bin/sh\nwhile read -r line; do echo "$line"; done <"$1"\n'),
            "/usr/lib/libfuse.so.2": b"\x7fELF",
            "/var/lib/pacman": None,
            "/boot/vmlinuz-linux": b"MZ",
            "/boot/initramfs-linux.img": "init\n",
            "/boot/initramfs-linux-fallback.img": "init\n",
            f"{modules}/pkgbase": "linux\n",
            f"{modules}/modules.dep": "kernel/fs/fuse/fuse.ko.zst:\n",
            "/boot/grub/grub.cfg": "\tlinux\t/boot/vmlinuz-linux root=LABEL=fake rw\n",
            "/usr/sbin/grub-mkconfig": Script(_GRUB_MKCONFIG),
        },
        without=gone,
    )
    before = snapshot(root)
    said: list[str] = []
    assert install(Choice(root=root), None, said.append).done == "installed"
    for initrd in ("initramfs-linux", "initramfs-linux-fallback"):
        assert "hooks/cowroot\n" in (root / f"boot/{initrd}.img").read_text()
        assert f"mkinitcpio: mkinitcpio -k {RELEASE} -S autodetect -g /boot/{initrd}.img" in said
    assert (root / "etc/mkinitcpio.conf.d/cowroot.conf").exists()
    assert not (root / "etc/default/grub.d").exists()
    assert install(Choice(root=root), None, said.append).done == "unchanged"
    (root / "boot/initramfs-linux-fallback.img").write_text("init\n")
    found = examine(Choice(root=root))
    assert [each.what.partition(" lacks ")[0] for each in found if each.severity == PROBLEM] == ["/boot/initramfs-linux-fallback.img"]
    assert install(Choice(root=root), None, said.append).done == "installed"
    uninstall(Choice(root=root), said.append)
    assert snapshot(root) == before
