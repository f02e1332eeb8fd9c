"""extlinux.conf, the menu of extlinux, and of U-Boot's `sysboot` and distribution boot.

The union needs no kernel parameter: the menu's own entries stay. It gets one more, at its end, that boots the real root once. Debian's
u-boot-menu writes the menu anew for every kernel, and sources the files in /etc/u-boot-menu/conf.d: through one of those it adds that entry
by itself. A menu that was written by hand gets it when cowroot is installed.
"""

from __future__ import annotations

from cowroot.boot.bls import TITLE
from cowroot.boot.rendered import Rendered, RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template
from cowroot.config import Config

SCRIPT = "/usr/lib/cowroot/boot/extlinux"
U_BOOT_SETTINGS = "/etc/u-boot-menu/conf.d/zz-cowroot.conf"
MENUS = ("/boot/extlinux/extlinux.conf", "/boot/extlinux.conf", "/boot/syslinux/extlinux.conf", "/boot/syslinux/syslinux.cfg")
OWN_LABEL = "cowroot-off"


def render_extlinux(config: Config, target: Target) -> tuple[Rendered, ...]:
    """Return what adds the entry to the menu of `target`; nothing for an image without such a menu, or where none is asked for."""
    if not target.extlinux or not config.grub.off_entry:
        return ()
    values = {"menu": target.extlinux, "syslinux": not target.u_boot_menu, "title": TITLE}
    script = render_template("loaders", "extlinux.j2", origin=ORIGIN, **values).encode()
    rendered: list[Rendered] = [RenderedFile(SCRIPT, script, 0o755, f"adds the entry that boots the real root to {target.extlinux}")]
    if target.u_boot_menu:
        rendered.append(RenderedLink(U_BOOT_SETTINGS, SCRIPT, "has u-boot-update do that whenever it has written the menu"))
    return tuple(rendered)
