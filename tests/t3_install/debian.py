"""A root file system of a few files that looks like Debian 13, with tools that really run in it: shell scripts, a shell, its libraries."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

from tests.t3_install.fake import Content, Link, Script, make_fake_tree

RELEASE = "6.12.1-amd64"

_UPDATE_INITRAMFS = """\
#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in -k) release=$2; shift ;; esac
	shift
done
echo "update-initramfs: Generating /boot/initrd.img-$release"
[ ! -e /etc/fail ] || { echo "E: the hook failed" >&2; exit 7; }
[ ! -e /etc/no-initrd ] || exit 0
{
	echo init
	for script in /etc/initramfs-tools/scripts/cowroot /etc/initramfs-tools/scripts/*/cowroot; do
		[ ! -e "$script" ] || [ -e /etc/no-scripts ] || echo "${script#/etc/initramfs-tools/}"
	done
	[ ! -e /etc/initramfs-tools/hooks/cowroot ] || echo etc/cowroot.conf
	[ ! -e /etc/cowroot/cowroot.yaml ] || while read -r line; do echo "# $line"; done </etc/cowroot/cowroot.yaml
} >"/boot/initrd.img-$release"
"""

_LSINITRAMFS = """\
#!/bin/sh
while read -r line; do echo "$line"; done <"$1"
"""

_UPDATE_GRUB = """\
#!/bin/sh
{
	for kernel in /boot/vmlinuz-*; do
		[ -e /etc/no-entries ] || printf "menuentry 'Debian' {\\n\\tlinux\\t%s root=LABEL=fake ro\\n\\tinitrd\\t%s\\n}\\n" \\
			"$kernel" "/boot/initrd.img-${kernel#*vmlinuz-}"
	done
	for script in /etc/grub.d/*; do
		echo "### BEGIN $script ###"
	done
} >/boot/grub/grub.cfg
"""

# `-m compileall`, `-c` and /usr/bin/cowroot all come here.
_PYTHON = """\
#!/bin/sh
[ ! -e /etc/no-ctypes ] || { echo "ImportError: no ctypes" >&2; exit 1; }
echo "cowroot 0.1.0"
"""


@functools.cache
def program(path: str = "/bin/sh") -> dict[str, bytes]:
    """A program of this machine's, by default the shell, and the libraries that it needs, by path."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    return {each: Path(each).read_bytes() for each in [path, *re.findall(r"(/\S+) \(0x", listed)]}


def entries(*, release: str = RELEASE) -> dict[str, Content]:
    """What is in it, for a test to change before `make_debian`."""
    return {
        "/etc/os-release": 'ID=debian\nVERSION_ID="13"\n',
        "/etc/fstab": "LABEL=fake / ext4 errors=remount-ro 0 1\n",
        "/etc/initramfs-tools/hooks": None,
        "/etc/initramfs-tools/scripts/local-bottom": None,
        "/etc/initramfs-tools/scripts/local-premount": None,
        "/etc/grub.d/00_header": Script("#!/bin/sh\n"),
        "/etc/default/grub": "GRUB_TIMEOUT=5\n",
        "/etc/systemd/system/multi-user.target.wants": None,
        "/usr/sbin/init": Link("/lib/systemd/systemd"),
        "/usr/lib/systemd/systemd": Script("#!/bin/sh\n"),
        "/bin": Link("usr/bin"),
        "/sbin": Link("usr/sbin"),
        "/lib": Link("usr/lib"),
        "/lib64": Link("usr/lib64"),
        "/usr/bin/python3": Link("python3.13"),
        "/usr/bin/python3.13": Script(_PYTHON),
        "/usr/lib/python3.13/ctypes/__init__.py": "",
        "/usr/lib/python3.13/lib-dynload/_ctypes.cpython-313-x86_64-linux-gnu.so": b"\x7fELF",
        "/usr/lib/x86_64-linux-gnu/libfuse.so.2": Link("libfuse.so.2.9.9"),
        "/usr/lib/x86_64-linux-gnu/libfuse.so.2.9.9": b"\x7fELF",
        "/usr/sbin/update-initramfs": Script(_UPDATE_INITRAMFS),
        "/usr/bin/lsinitramfs": Script(_LSINITRAMFS),
        "/usr/sbin/grub-mkconfig": Script("#!/bin/sh\n# reads /etc/default/grub.d\n"),
        "/usr/sbin/update-grub": Script(_UPDATE_GRUB),
        "/usr/share": None,
        "/boot/grub/grub.cfg": "\tlinux\t/boot/vmlinuz\n",
        "/boot/grub/grubenv": "# GRUB Environment Block\n".ljust(1024, "#"),
        **kernel(release),
        "/dev": None,
        "/proc": None,
        "/run": None,
        "/sys": None,
        "/tmp": None,
        "/var/tmp": None,
        "/var/lib/dpkg/status": "",
    }


def kernel(release: str) -> dict[str, Content]:
    """A kernel with FUSE as a module and an initrd without anything of cowroot's."""
    return {
        f"/boot/vmlinuz-{release}": b"MZ" + release.encode(),
        f"/boot/initrd.img-{release}": "init\n",
        f"/lib/modules/{release}/modules.dep": "kernel/fs/fuse/fuse.ko.xz:\nkernel/fs/ext4/ext4.ko.xz:\n",
    }


def make_debian(root: Path, changed: dict[str, Content] | None = None, without: tuple[str, ...] = ()) -> Path:
    """Make it at `root`, without those of its entries whose path begins so, and with these over the rest."""
    wanted = {path: content for path, content in entries().items() if not path.startswith(without or ("//",))}
    wanted.update(changed or {})
    directories = dict.fromkeys(("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64"))
    links = {path: content for path, content in wanted.items() if isinstance(content, Link)}
    return make_fake_tree(root, {**directories, **links, **wanted, **program()})
