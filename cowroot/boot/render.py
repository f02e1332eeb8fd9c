"""All that an image gets so that it boots copy-on-write, from its configuration and the facts about it."""

from __future__ import annotations

from cowroot.boot.bls import render_bls
from cowroot.boot.dracut import render_dracut
from cowroot.boot.extlinux import render_extlinux
from cowroot.boot.grub import render_grub
from cowroot.boot.guard import render_guard
from cowroot.boot.initramfs_tools import render_initramfs_tools
from cowroot.boot.mkinitcpio import render_mkinitcpio
from cowroot.boot.rendered import Rendered
from cowroot.boot.systemd import render_systemd
from cowroot.boot.sysvinit import render_sysvinit
from cowroot.boot.target import Target
from cowroot.boot.upstart import render_upstart
from cowroot.config import Config
from cowroot.errors import PreflightError


def render(config: Config, target: Target, grubenv: bytes = b"") -> list[Rendered]:
    """Return the files and links for `target`, in the order in which they are to be installed.

    `grubenv` is the content of the image's /boot/grub/grubenv, empty if it has none. Raises PreflightError for an image whose initramfs
    or init system is none that cowroot knows.
    """
    menus = (*render_grub(config, target, grubenv), *render_bls(config, target), *render_extlinux(config, target))
    # Upstart brings the union up by itself, after the initrd: whatever made that does not matter.
    if target.init == "upstart":
        return [*render_upstart(config, target), *menus]
    if target.initramfs not in ("initramfs-tools", "dracut", "mkinitcpio"):
        made = target.initramfs or "nothing that is known"
        raise PreflightError(
            f"the image's initrds are made by {made}, not by initramfs-tools, dracut or mkinitcpio",
            hint="install initramfs-tools in the image",
        )
    if target.init not in ("systemd", "sysvinit"):
        raise PreflightError(
            f"the image's init system is {target.init or 'none that is known'}, not systemd", hint="install systemd-sysv in the image"
        )
    if target.initramfs == "mkinitcpio":
        initrd = render_mkinitcpio(target)
    else:
        initrd = render_dracut(target) if target.initramfs == "dracut" else render_initramfs_tools(config, target)
        initrd += render_guard(target)
    units = render_systemd(config, target) if target.init == "systemd" else render_sysvinit()
    return [*initrd, *units, *menus]
