"""The upgrade of a kernel in a real image, by the image's own tools: it must not end with an initrd that lacks the union."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.t3_install.disks import mounted
from tests.t6_boot import disk
from tests.t6_boot.image import Image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting an image needs root")

_IN_IMAGE = """
mount -t proc proc "$1/proc" && mount -t devtmpfs devtmpfs "$1/dev" && mount -t tmpfs tmpfs "$1/run" || exit 99
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
exec chroot "$1" sh -c "$2"
"""


def test_a_kernel_whose_initrd_lacks_the_union_is_not_installed(appliance: Image, work: Path) -> None:
    copy = work / "disk.img"
    subprocess.run(["cp", "--sparse=always", str(appliance.disk), str(copy)], check=True)
    size = copy.stat().st_size - disk.OFFSET
    with mounted(copy, work / "mnt", offset=disk.OFFSET, size=size, options="rw") as root:
        (initrd,) = (root / "boot").glob("initrd.img-*")
        menu = root / "boot/grub/grub.cfg"
        content, made = initrd.read_bytes(), menu.stat().st_mtime_ns
        (root / "etc/initramfs-tools/hooks/cowroot").chmod(0o644)  # run-parts would leave it out, and so does mkinitramfs
        (root / "etc/initramfs-tools/scripts/local-bottom/cowroot").unlink()

        release = initrd.name.partition("-")[2]
        lacks = f"initrd.img-{release} lacks etc/cowroot.conf scripts/local-bottom/cowroot"
        done = _run_in(root, "update-initramfs -u")
        assert (done.returncode != 0, lacks in done.stdout) == (True, True), done.stdout
        assert "so the one from before stays" in done.stdout
        assert initrd.read_bytes() == content
        assert _run_in(root, f"/etc/kernel/postinst.d/zz-cowroot {release} /boot/vmlinuz-{release}").returncode == 0

        done = _run_in(root, f"dpkg-reconfigure linux-image-{release}")
        assert (done.returncode != 0, lacks in done.stdout) == (True, True), done.stdout
        done = _run_in(root, f"/etc/kernel/postinst.d/zz-cowroot {release} /boot/vmlinuz-{release}")
        assert (done.returncode, lacks in done.stdout) == (1, True), done.stdout
        initrd.unlink()
        done = _run_in(root, f"/etc/kernel/postinst.d/zz-cowroot {release} /boot/vmlinuz-{release}")
        assert (done.returncode, f"the kernel {release} has no /boot/initrd.img-{release}" in done.stdout) == (1, True), done.stdout
        assert menu.stat().st_mtime_ns == made, "GRUB has been told of a kernel that was not installed"


def _run_in(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return subprocess.run(
        [*namespaces, "sh", "-c", _IN_IMAGE, "sh", str(root), command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
    )
