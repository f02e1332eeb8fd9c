"""What is in a target, as far as its boot is concerned, found out by reading only: nothing of the target is executed here."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, replace

from cowroot.boot.bls import COMMAND_LINE, PLACES
from cowroot.boot.target import Target
from cowroot.boot.upstart import MOUNTALL, OVERRIDE
from cowroot.install.elf import machine_in
from cowroot.install.menu import GRUB_CFG, Entry, bls_entries, entries_directory, extlinux_menu
from cowroot.install.package import packaged
from cowroot.install.runtime import RUNTIME, host
from cowroot.install.target import fstab
from cowroot.install.tree import Tree

OLDEST_PYTHON = (3, 9)
_LIBFUSE = "libfuse.so.2"
_KERNEL = re.compile(r"(?:vmlinuz|vmlinux|kernel|Image)-(.+)")
# Modules may be compressed: kmod reads all of these.
_MODULE = re.compile(r"(?:[^:]*/)?fuse\.ko(?:\.gz|\.xz|\.zst)?(?::.*)?$")
# Other ways to make an initrd, by the program that gives them away. Debian's initramfs-tools comes first: dracut may be beside it.
_INITRAMFS_TOOLS = (
    ("initramfs-tools", "/usr/sbin/update-initramfs"),
    ("dracut", "/usr/bin/dracut"),
    ("mkinitcpio", "/usr/bin/mkinitcpio"),
    ("booster", "/usr/bin/booster"),
)
_GRUB_PACKAGES = ("grub-efi-amd64", "grub-efi-arm64", "grub-efi-ia32", "grub-pc", "grub-ieee1275", "grub-coreboot")
# What makes entries after the Boot Loader Specification, and takes the parameters from /etc/kernel/cmdline, or from the running system.
_ENTRY_MAKERS = ("/usr/lib/kernel/install.d/20-grub.install", "/usr/lib/kernel/install.d/90-loaderentry.install")
U_BOOT_UPDATE = "/usr/sbin/u-boot-update"


@dataclass(frozen=True)
class Kernel:
    """An installed kernel.

    release: as `uname -r` has it. fuse: `module`, `builtin` or nothing. initrd: where it is, or is to be made. made: whether it is there.
    name: what its image is called after `vmlinuz-`: the release, but with Arch Linux the package. fallback: where Arch has a second initrd.
    """

    release: str
    fuse: str
    initrd: str
    made: bool
    name: str
    fallback: str = ""

    @property
    def initrds(self) -> tuple[str, ...]:
        return (self.initrd, self.fallback) if self.fallback else (self.initrd,)


@dataclass(frozen=True)
class Inspection:
    """All facts. target: those that rendering needs.

    python: version of /usr/bin/python3, None if there is none. ctypes: whether it can call libraries. libfuse: path, empty if missing.
    make_grub_cfg: the command that writes grub.cfg, empty if there is no grub.cfg that it could write. own_usr: /usr is a file system of
    its own. machine: for which processor its programs are (e_machine of elf(5)), 0 if that could not be told. copied: kernel-install has
    copied kernels and initrds to where systemd-boot finds them. unified: kernels that are one file with their initrd (paths). packaged: the
    paths that cowroot's own Debian package has brought, none if it is not installed.
    """

    target: Target
    kernels: tuple[Kernel, ...]
    python: tuple[int, int] | None
    ctypes: bool
    libfuse: str
    make_grub_cfg: tuple[str, ...]
    grubenv: bytes
    own_usr: bool = False
    machine: int = 0
    insserv: bool = False
    copied: bool = False
    unified: tuple[str, ...] = ()
    packaged: frozenset[str] = frozenset()


def inspect(tree: Tree) -> Inspection:
    """Look into a root file system. What is missing is an empty value, not an error."""
    release = _os_release(tree)
    initramfs = next((name for name, program in _INITRAMFS_TOOLS if tree.is_file(program)), "")
    kernels = _kernels(tree, fedora=initramfs == "mkinitcpio" or (initramfs == "dracut" and not tree.is_dir("/var/lib/dpkg")))
    python, ctypes = _python(tree)
    libfuse = _libfuse(tree)
    table = fstab(tree)
    root = next((fields for fields in table if fields[1] == "/"), ["", "", ""])
    own_usr = any(fields[1] == "/usr" for fields in table)
    mkconfig = _text(tree, "/usr/sbin/grub-mkconfig")
    entries, menu = bls_entries(tree), extlinux_menu(tree)
    target = Target(
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        init=_init(tree),
        initramfs=initramfs,
        kernels=tuple(kernel.release for kernel in kernels),
        root_device=root[0],
        root_fstype=root[2],
        python="/usr/bin/python3",
        libfuse=libfuse,
        merged_usr=all(tree.canonical(path, follow=True) == f"/usr{path}" for path in ("/bin", "/sbin", "/lib")),
        upstart=_package_version(tree, "upstart"),
        mountall_conf=_text(tree, MOUNTALL),
        mountall_override=_text(tree, OVERRIDE),
        grub=_grub(tree) if mkconfig else "",
        grub_default_d="default/grub.d" in mkconfig,
        bls=entries_directory(tree),
        kernel_cmdline=_kernel_cmdline(tree, entries, f"root={root[0]} ro" if root[0] else ""),
        extlinux=menu,
        u_boot_menu=tree.is_file(U_BOOT_UPDATE) and menu.endswith("/extlinux/extlinux.conf"),
    )
    if target.init == "upstart" and (python is None or python < OLDEST_PYTHON or not ctypes or not libfuse):
        here = host()
        target = replace(target, runtime=RUNTIME, python=here.python, libfuse=here.libfuse_in_runtime)
    # As kernel-install lays them out: TOKEN/RELEASE/linux.
    copied = any(entry.kernel.endswith(f"/{kernel.release}/linux") for entry in entries for kernel in kernels)
    unified = tuple(f"{top}/EFI/Linux/{name}" for top in PLACES for name in tree.listdir(f"{top}/EFI/Linux") if name.endswith(".efi"))
    return Inspection(
        target=target,
        kernels=kernels,
        python=python,
        ctypes=ctypes,
        libfuse=libfuse,
        make_grub_cfg=_make_grub_cfg(tree) if mkconfig else (),
        grubenv=_grubenv(tree),
        own_usr=own_usr,
        machine=_machine(tree),
        insserv=any(tree.is_file(path) for path in ("/usr/sbin/insserv", "/sbin/insserv")),
        copied=copied,
        unified=unified,
        packaged=packaged(tree),
    )


def _text(tree: Tree, path: str) -> str:
    return tree.read_text(path) if tree.is_file(path) else ""


def _os_release(tree: Tree) -> dict[str, str]:
    text = _text(tree, "/etc/os-release") or _text(tree, "/usr/lib/os-release")
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}


def _init(tree: Tree) -> str:
    program = tree.canonical("/sbin/init", follow=True) if tree.exists("/sbin/init") else ""
    if program.endswith("/systemd"):
        return "systemd"
    if tree.is_file("/sbin/initctl") and tree.is_dir("/etc/init"):
        return "upstart"
    return "sysvinit" if tree.is_file("/etc/inittab") else ""


def _package_version(tree: Tree, package: str) -> str:
    match = re.search(rf"^Package: {package}\n(?:\S.*\n|\s.*\n)*?Version: (\S+)", _text(tree, "/var/lib/dpkg/status"), re.MULTILINE)
    return match[1] if match else ""


def _machine(tree: Tree) -> int:
    return machine_in(tree.read("/sbin/init")[:64]) if tree.is_file("/sbin/init") else 0


def _kernels(tree: Tree, *, fedora: bool) -> tuple[Kernel, ...]:
    """Kernels are what lies in /boot and has modules: directories in /lib/modules alone are often left over from removed packages."""
    names = {match.group(1) for name in tree.listdir("/boot") if (match := _KERNEL.fullmatch(name))}
    found = []
    for name in sorted(names):
        # Copies that package managers keep beside the original.
        if name.endswith((".old", ".bak", ".dpkg-bak", ".dpkg-new", ".dpkg-tmp")):
            continue
        release = _release(tree, name)
        paths = (f"/boot/initrd.img-{name}", f"/boot/initramfs-{name}.img")  # Debian's; Fedora's and Arch's
        initrd = next((path for path in paths if tree.is_file(path)), "")
        fallback = f"/boot/initramfs-{name}-fallback.img"
        second = fallback if tree.is_file(fallback) else ""
        found.append(Kernel(release, _fuse(tree, release), initrd or paths[fedora], bool(initrd), name, second))
    return tuple(found)


def _release(tree: Tree, name: str) -> str:
    """The release of a kernel whose image is called so. Arch names images after packages, and notes those beside the modules."""
    if tree.is_dir(f"/lib/modules/{name}"):
        return name
    noted = (each for each in tree.listdir("/lib/modules") if _text(tree, f"/lib/modules/{each}/pkgbase").strip() == name)
    return next(noted, name)


def _fuse(tree: Tree, release: str) -> str:
    modules = f"/lib/modules/{release}"
    if any(_MODULE.match(line) for line in _text(tree, f"{modules}/modules.builtin").splitlines()):
        return "builtin"
    listed = any(_MODULE.match(line) for line in _text(tree, f"{modules}/modules.dep").splitlines())
    if listed or any(_MODULE.match(name) for name in tree.listdir(f"{modules}/kernel/fs/fuse")):
        return "module"
    return "builtin" if "\nCONFIG_FUSE_FS=y" in "\n" + _kernel_config(tree, release) else ""


def _kernel_config(tree: Tree, release: str) -> str:
    for path in (f"/boot/config-{release}", f"/lib/modules/{release}/config"):
        if tree.is_file(path):
            content = tree.read(path)
            return gzip.decompress(content).decode(errors="replace") if content[:2] == b"\x1f\x8b" else content.decode(errors="replace")
    return ""


def _python(tree: Tree) -> tuple[tuple[int, int] | None, bool]:
    if not tree.is_file("/usr/bin/python3"):
        return None, False
    # Distributions install pythonX.Y and make python3 a link to it.
    match = re.search(r"/python3\.(\d+)$", tree.canonical("/usr/bin/python3", follow=True))
    if not match:
        return None, False
    library = f"/usr/lib/python3.{match.group(1)}"
    extension = any(name.startswith("_ctypes.") for name in tree.listdir(f"{library}/lib-dynload"))
    return (3, int(match.group(1))), extension and tree.is_file(f"{library}/ctypes/__init__.py")


def _libfuse(tree: Tree) -> str:
    for base in ("/usr/lib", "/lib"):
        triplets = [f"{base}/{name}" for name in tree.listdir(base) if "-linux-" in name]
        for directory in (*triplets, f"{base}64", base):
            if tree.is_file(f"{directory}/{_LIBFUSE}"):
                return f"{directory}/{_LIBFUSE}"
    return ""


def _grub(tree: Tree) -> str:
    for package in _GRUB_PACKAGES:
        if tree.is_file(f"/var/lib/dpkg/info/{package}.list"):
            return package
    return "grub-pc" if tree.is_dir("/boot/grub/i386-pc") else "grub"


def _make_grub_cfg(tree: Tree) -> tuple[str, ...]:
    if not tree.is_file(GRUB_CFG):
        return ()
    return ("update-grub",) if tree.is_file("/usr/sbin/update-grub") else ("grub-mkconfig", "-o", GRUB_CFG)


def _grubenv(tree: Tree) -> bytes:
    return tree.read("/boot/grub/grubenv") if tree.is_file("/boot/grub/grubenv") else b""


def _kernel_cmdline(tree: Tree, entries: list[Entry], usual: str) -> str:
    """What /etc/kernel/cmdline holds; where there is none, what it has to hold so that new entries become like the present ones.

    `usual`: what that is where there are no entries yet.
    """
    if tree.is_file(COMMAND_LINE):
        return tree.read_text(COMMAND_LINE).strip()
    if not any(tree.is_file(path) for path in _ENTRY_MAKERS) or tree.is_file("/usr/lib/kernel/cmdline"):
        return ""
    line = next((entry.line for entry in entries if not entry.real_root), usual)
    # A variable of GRUB's: there they are in its environment block (kernelopts), and new entries name that, too.
    return "" if "$" in line else " ".join(re.sub(r"(?<!\S)(rd\.)?cowroot=\S*", "", line).split())
