"""The module for dracut (Fedora, and Debian with dracut instead of initramfs-tools), whose initrds have systemd in them."""

from __future__ import annotations

from cowroot.boot.initramfs_tools import render_functions
from cowroot.boot.rendered import Rendered, RenderedFile
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template

MODULE = "/usr/lib/dracut/modules.d/90cowroot"
IN_INITRD = (
    "etc/cowroot.conf",
    "usr/lib/cowroot-boot/boot",
    "usr/lib/cowroot-boot/functions",
    "usr/lib/systemd/system/cowroot-root.service",
)
"""What an initrd with the module contains."""

_FILES = (
    ("module-setup.sh", f"{MODULE}/module-setup.sh", 0o755, "puts settings, modules and tools into every initrd that is built"),
    ("boot", f"{MODULE}/boot", 0o755, "has the union brought up as /sysroot"),
    ("cowroot-root.service", f"{MODULE}/cowroot-root.service", 0o644, "runs that when the root is mounted"),
    ("fsck.conf", f"{MODULE}/fsck.conf", 0o644, "leaves out the check of a disk that is not written"),
    ("cowroot.conf", "/etc/dracut.conf.d/cowroot.conf", 0o644, "has dracut take the module"),
)


def render_dracut(target: Target) -> tuple[Rendered, ...]:
    """The files for a target whose initrds are made by dracut. The settings are not in them: they are read whenever an initrd is made."""

    def text(template: str) -> str:
        return render_template("initramfs-hooks", f"dracut/{template}.j2", origin=ORIGIN, target=target)

    return (
        *(RenderedFile(path, text(template).encode(), mode, why) for template, path, mode, why in _FILES),
        RenderedFile(f"{MODULE}/functions", render_functions(target).encode(), 0o644, "what boot scripts share"),
    )
