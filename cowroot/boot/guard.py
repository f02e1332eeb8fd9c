"""What keeps the upgrade of a kernel from ending with an initrd that lacks what brings up the union."""

from __future__ import annotations

from cowroot.boot import dracut, initramfs_tools
from cowroot.boot.rendered import Rendered, RenderedFile
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template

# After what makes initrds, before what tells the boot loader (zz-update-grub): run-parts takes them by name.
KERNEL_HOOK = "/etc/kernel/postinst.d/zz-cowroot"
INITRD_HOOK = "/etc/initramfs/post-update.d/cowroot"


def render_guard(target: Target) -> tuple[Rendered, ...]:
    """The hook for installed kernels, and, with initramfs-tools, the same for every initrd that is made."""
    if target.initramfs == "dracut":
        # as `ls -l` lists them
        values = {"lister": "lsinitrd \"$1\" | sed 's/.* //'", "paths": dracut.IN_INITRD}
    else:
        values = {"lister": 'lsinitramfs "$1"', "paths": initramfs_tools.IN_INITRD}
    content = render_template("initramfs-hooks", "guard.j2", origin=ORIGIN, **values).encode()
    kernel = RenderedFile(KERNEL_HOOK, content, 0o755, "has a kernel's installation fail if its initrd lacks the union")
    if target.initramfs == "dracut":
        return (kernel,)
    return (kernel, RenderedFile(INITRD_HOOK, content, 0o755, "has update-initramfs fail if the initrd lacks the union"))
