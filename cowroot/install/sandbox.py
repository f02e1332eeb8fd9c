"""Become a tool of the target, in a world that is the target and nothing else.

Run as `unshare --mount --pid … python3 -I sandbox.py SPECIFICATION TOOL ARGUMENT…`, as process 1 of its own namespaces. The target is not
trusted: the old root is not only left but unmounted before anything of the target runs, devices are those that hurt nobody (and the one
that the target itself lies on), and the capabilities that reach beyond file ownership are gone for good.

This file is a program of its own: it imports nothing of cowroot, and everything it needs before the interpreter's files are out of reach.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys
import warnings  # noqa: F401  (os.execvpe imports it, too late)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]

# What the target's own device is called there. Not /dev/loopN: GRUB's 10_linux takes that for a file on another file system, and makes no
# menu entry.
DEVICE = "/dev/cowroot"

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _REC = 1, 2, 4, 8, 4096, 16384  # linux/mount.h
_MNT_DETACH = 2
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38  # linux/prctl.h
# pivot_root has no wrapper in every C library; its number by architecture (asm/unistd.h).
_PIVOT_ROOT = {"x86_64": 155, "i686": 217, "i586": 217, "armv7l": 218, "armv6l": 218, "ppc64le": 203, "s390x": 217}
_PIVOT_ROOT_GENERIC = 41  # aarch64, riscv64, loongarch64

_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
# What update-initramfs, update-grub and ldconfig do to files, and chroot (ldconfig -r): linux/capability.h.
_KEPT_CAPABILITIES = {0, 1, 2, 3, 4, 5, 6, 7, 18, 31}  # CHOWN … SETUID, SYS_CHROOT, SETFCAP


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, place: str, kind: str, flags: int, options: str = "") -> None:
    _check(_libc.mount(source.encode(), os.fsencode(place), kind.encode(), flags, options.encode()), place)


def enter(root: str) -> None:
    """Make `root`, a mount point, the root of this mount namespace, and unmount the old one."""
    os.chdir(root)
    # With both names the same the old root ends up on top of the new one, where it can be detached without a directory for it.
    _check(_libc.syscall(_PIVOT_ROOT.get(os.uname().machine, _PIVOT_ROOT_GENERIC), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "the old root")
    os.chdir("/")


def furnish(device: dict[str, str], number: int | None) -> None:
    """Mount what tools expect. Names in the target may be links to anywhere, but anywhere is inside by now."""
    if os.path.isdir("/proc"):
        _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    if os.path.isdir("/sys"):
        _mount("sysfs", "/sys", "sysfs", _RDONLY | _NOSUID | _NODEV | _NOEXEC)
    for place in ("/tmp", "/var/tmp", "/run"):
        if os.path.isdir(place):
            _mount("tmpfs", place, "tmpfs", _NOSUID | _NODEV, "mode=1777" if "tmp" in place else "mode=755")
    if os.path.isdir("/dev"):
        _furnish_dev(device, number)


def _furnish_dev(device: dict[str, str], number: int | None) -> None:
    _mount("tmpfs", "/dev", "tmpfs", _NOSUID | _NOEXEC, "mode=755")
    for name, (major, minor) in _NODES.items():
        os.mknod(f"/dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        os.symlink(f"/proc/self/{target}", f"/dev/{name}")
    os.mkdir("/dev/shm", 0o1777)
    if number is not None:
        # grub-mkconfig asks for the device of / and, where /dev/disk does not have its UUID, would boot the next kernel from the name that
        # the device happens to have here.
        os.mknod(DEVICE, 0o600 | stat.S_IFBLK, number)
        for kind in ("uuid", "label", "partuuid"):
            if device.get(kind) and "/" not in device[kind]:
                os.makedirs(f"/dev/disk/by-{kind}", exist_ok=True)
                os.symlink(DEVICE, f"/dev/disk/by-{kind}/{device[kind]}")


def drop_capabilities() -> None:
    """Give up all capabilities that a tool of the target needs not, so that no program can get them back."""
    for capability in range(64):
        # EINVAL where the kernel does not know that many.
        if capability not in _KEPT_CAPABILITIES and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def main() -> None:
    """Take the specification (a JSON object: root, device, trusted), change worlds, become the tool."""
    specification = json.loads(sys.argv[1])
    device = specification["device"]
    number = os.stat(device["node"]).st_rdev if device else None
    if specification["trusted"]:
        _mount("/dev", f"{specification['root']}/dev", "none", _BIND | _REC)
        _mount("/run", f"{specification['root']}/run", "none", _BIND | _REC)
        enter(specification["root"])
        _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
        _mount("sysfs", "/sys", "sysfs", _RDONLY | _NOSUID | _NODEV | _NOEXEC)
    else:
        enter(specification["root"])
        furnish(device or {}, number)
        drop_capabilities()
    os.umask(0o022)
    tool = sys.argv[2:]
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C", "TERM": "dumb"}
    # An overlay has the place of the EFI system partition: systemd's tools are not to look what kind of partition it is.
    environment.update(SYSTEMD_RELAX_ESP_CHECKS="1", SYSTEMD_RELAX_XBOOTLDR_CHECKS="1")
    try:
        os.execvpe(tool[0], tool, environment)
    except OSError as error:
        print(f"{tool[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
