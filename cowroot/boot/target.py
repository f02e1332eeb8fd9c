"""Facts about an image that rendering depends on. Pure data: whoever looked into the image fills it in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """An image as far as its boot is concerned. The defaults are Debian 13's.

    os_id, os_version: ID and VERSION_ID of os-release.
    init: `systemd`, `upstart` or `sysvinit`; empty if it could not be told.
    initramfs: `initramfs-tools`, `dracut` or `mkinitcpio`; empty if there is none.
    kernels: releases (`uname -r`) of the installed kernels.
    root_device: how fstab names the root file system (`UUID=…`, `LABEL=…`, a path); empty if fstab has no line for it.
    root_fstype: its type there, empty like `root_device`.
    python: path of the Python that runs the daemon, absolute in the image.
    libfuse: path of libfuse 2, absolute in the image.
    merged_usr: whether /bin, /sbin and /lib are links into /usr.
    runtime: where cowroot's own interpreter is in the image, a directory in which `python` and `libfuse` are then looked for as if it were
    /; empty where the image's own Python runs the daemon.
    upstart: Upstart's version; empty without Upstart, or where it could not be told.
    mountall_conf, mountall_override: Upstart's job mountall and its override, as found; empty if they are not there.
    grub: the GRUB package that boots it (`grub-pc`, `grub-efi-amd64`, …), empty without GRUB.
    grub_default_d: whether its grub-mkconfig reads /etc/default/grub.d.
    bls: where loader/entries, for boot entries, is (`/boot`, `/efi` or `/boot/efi`); empty where there are none.
    kernel_cmdline: what /etc/kernel/cmdline holds, or would have to; empty where nobody reads that.
    extlinux: the path of extlinux' or U-Boot's menu; empty without one. u_boot_menu: whether u-boot-update writes it.
    """

    os_id: str = "debian"
    os_version: str = "13"
    init: str = "systemd"
    initramfs: str = "initramfs-tools"
    kernels: tuple[str, ...] = ()
    root_device: str = ""
    root_fstype: str = ""
    python: str = "/usr/bin/python3"
    libfuse: str = "/usr/lib/x86_64-linux-gnu/libfuse.so.2"
    runtime: str = ""
    merged_usr: bool = True
    upstart: str = ""
    mountall_conf: str = ""
    mountall_override: str = ""
    grub: str = "grub-pc"
    grub_default_d: bool = True
    bls: str = ""
    kernel_cmdline: str = ""
    extlinux: str = ""
    u_boot_menu: bool = False
