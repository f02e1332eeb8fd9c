"""What the initrd needs to open the upper's device where that is put together of another: a logical volume, or an encrypted device.

That can be told of devices that are named by a path. A UUID or a label does not say where it will be found.
"""

from __future__ import annotations

from cowroot.boot.target import Target
from cowroot.config import Config
from cowroot.install.preflight import Problem
from cowroot.install.tree import Tree

# Directories below /dev that are no volume group's.
_OTHER_DIRECTORIES = ("block", "cciss", "disk", "ida", "mapper", "md", "rd", "zvol")
_LVM = ("/sbin/lvm", "/usr/sbin/lvm")
_CRYPTSETUP = {
    "initramfs-tools": (("/usr/share/initramfs-tools/hooks/cryptroot",), "cryptsetup-initramfs"),
    "dracut": (("/usr/lib/systemd/systemd-cryptsetup", "/lib/systemd/systemd-cryptsetup"), "systemd-cryptsetup"),
    "mkinitcpio": (("/usr/bin/cryptsetup",), "cryptsetup"),
}


def problems(tree: Tree, config: Config, target: Target) -> list[Problem]:
    """Return what is missing in the image for its initrds to open the device."""
    device = config.upper.device.partition(":/")[0]
    directory, _, name = device.removeprefix("/dev/").partition("/")
    if not device.startswith("/dev/") or not name:
        return []
    volumes = any(tree.is_file(path) for path in _LVM)
    if directory == "mapper":
        return _mapped(tree, target, name, volumes)
    if directory in _OTHER_DIRECTORIES or "/" in name or volumes:
        return []
    return [Problem(f"{device}, which is to hold the upper, is a logical volume, and there is no LVM to make it appear", ("lvm2",))]


def _mapped(tree: Tree, target: Target, name: str, volumes: bool) -> list[Problem]:
    programs, package = _CRYPTSETUP.get(target.initramfs, ((), "cryptsetup"))
    cryptsetup = any(tree.is_file(path) for path in programs)
    line = next((fields for fields in _crypttab(tree) if fields[0] == name), None)
    if line is None:
        if volumes or cryptsetup:
            return []
        what = f"nothing in it makes /dev/mapper/{name} appear, which is to hold the upper: neither LVM nor cryptsetup in the initrd"
        return [Problem(what, advice=f"install lvm2 if it is a logical volume, {package} if it is encrypted")]
    if not cryptsetup:
        return [Problem(f"nothing in the initrd opens /dev/mapper/{name}, which is to hold the upper", (package,))]
    if target.initramfs == "initramfs-tools" and "initramfs" not in (line[3].split(",") if len(line) > 3 else []):
        what = f"the line of {name} in /etc/crypttab lacks the option `initramfs`: nothing opens it before / is a union"
        return [Problem(what, advice="add it to the fourth field of that line")]
    return []


def _crypttab(tree: Tree) -> list[list[str]]:
    """The fields of each line of /etc/crypttab: name, device, key, options (crypttab(5))."""
    text = tree.read_text("/etc/crypttab") if tree.is_file("/etc/crypttab") else ""
    return [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
