"""The hook for mkinitcpio (Arch Linux and its kin), whose initrds run busybox's shell, or systemd."""

from __future__ import annotations

from cowroot.boot.initramfs_tools import render_functions
from cowroot.boot.rendered import Rendered, RenderedFile
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template

HOME = "/usr/lib/cowroot/initcpio"
INSTALL = "/etc/initcpio/install/cowroot"
HOOK = "/etc/initcpio/hooks/cowroot"
IN_INITRD = ("etc/cowroot.conf", "usr/lib/cowroot-boot/functions", "hooks/cowroot")
"""What an initrd with the hook contains."""

_FILES = (
    ("mkinitcpio/install", INSTALL, 0o755, "puts settings, modules and tools into every initrd that is built"),
    ("mkinitcpio/hook", HOOK, 0o755, "has the union brought up as the root"),
    ("mkinitcpio/cowroot.conf", "/etc/mkinitcpio.conf.d/cowroot.conf", 0o644, "has mkinitcpio take the hook"),
    # With the hook systemd an initrd is like dracut's.
    ("dracut/boot", f"{HOME}/boot", 0o755, "the same, in an initrd with systemd"),
    ("dracut/cowroot-root.service", f"{HOME}/cowroot-root.service", 0o644, "runs that when the root is mounted"),
    ("dracut/fsck.conf", f"{HOME}/fsck.conf", 0o644, "leaves out the check of a disk that is not written"),
)


def render_mkinitcpio(target: Target) -> tuple[Rendered, ...]:
    """The files for a target whose initrds are made by mkinitcpio. The settings are read whenever an initrd is made."""

    def text(template: str) -> str:
        return render_template("initramfs-hooks", f"{template}.j2", origin=ORIGIN, target=target, home=HOME)

    return (
        *(RenderedFile(path, text(template).encode(), mode, why) for template, path, mode, why in _FILES),
        RenderedFile(f"{HOME}/functions", render_functions(target).encode(), 0o644, "what boot scripts share"),
    )
