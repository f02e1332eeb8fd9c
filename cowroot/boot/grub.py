"""GRUB: a disk that never changes boots unattended all the same, and its menu offers one boot of the real root.

What goes wrong without it. Ubuntu's GRUB (and Debian's, where it is asked to) writes ``recordfail=1`` into /boot/grub/grubenv when an
entry is chosen, and the booted system takes it out again. A union keeps that second write from the disk, so each later boot waits
at the menu: 30 s today, for ever in older releases. If GRUB cannot write either, it says "failure writing sector" and waits
for a key. If it can, which a read-only *mount* does not prevent, the disk changes with every boot.

What is done about it, each a safety net of the others:

- an empty grubenv: 00_header loads and saves only one that has a size (``[ -s $prefix/grubenv ]``), and grub-install makes one
  only where there is none;
- a late script in /etc/grub.d, whose words come after those of every header and survive its upgrades;
- a drop-in in /etc/default/grub.d, so that the header itself says the right thing (Debian's and Ubuntu's grub-mkconfig read it);
- masks on the services that would write a grubenv anew, on the disk when the real root is booted.
"""

from __future__ import annotations

import shlex

from cowroot.boot.rendered import Rendered, RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template
from cowroot.config import Config

DROP_IN = "/etc/default/grub.d/cowroot.cfg"
LATE_SCRIPT = "/etc/grub.d/99_cowroot"
GRUBENV = "/boot/grub/grubenv"

GRUBENV_WRITERS = ("grub-common.service", "grub2-common.service", "grub-initrd-fallback.service")
"""Services of Ubuntu's that write grubenv at the end of a boot: "Record successful boot for GRUB" (named after grub2-common from 26.04
on) and the memory of boots without an initrd. Debian has none. A mask on a service that is not there does nothing, and holds should a
package bring it."""

_BLOCK_SIGNATURE = b"# GRUB Environment Block\n"


def render_grub(config: Config, target: Target, grubenv: bytes = b"") -> tuple[Rendered, ...]:
    """Return what makes GRUB boot `target` as `config` says; nothing for an image without GRUB.

    `grubenv` is the content of the image's /boot/grub/grubenv as found: an entry that was chosen with grub-set-default stays the
    default. The order matters: grub.cfg is to be generated anew when all files but the last, the empty grubenv, are in place.
    """
    if not target.grub:
        return ()
    values = {
        "origin": ORIGIN,
        "recordfail": config.grub.recordfail,
        "timeout": config.grub.timeout,
        "off_entry": config.grub.off_entry,
        "default_entry": shlex.quote(saved_entry(grubenv) or "0"),
    }
    rendered: list[Rendered] = []
    if target.grub_default_d:
        why = "tells grub-mkconfig not to wait at the menu, nor to boot without an initrd"
        rendered.append(RenderedFile(DROP_IN, render_template("grub", "cowroot.cfg.j2", **values).encode(), 0o644, why))
    if config.grub.recordfail or config.grub.off_entry:
        why = "has the last word in grub.cfg about recordfail, and adds the entry that boots the real root"
        rendered.append(RenderedFile(LATE_SCRIPT, render_template("grub", "99_cowroot.j2", **values).encode(), 0o755, why))
    if config.grub.recordfail:
        if target.init == "systemd":
            rendered += [_mask(unit) for unit in GRUBENV_WRITERS]
        rendered.append(RenderedFile(GRUBENV, b"", 0o644, "GRUB neither loads nor saves an environment block without a size"))
    return tuple(rendered)


def saved_entry(grubenv: bytes) -> str:
    """Return the menu entry that an environment block names as saved default; empty if there is none, or the block is none."""
    if not grubenv.startswith(_BLOCK_SIGNATURE):
        return ""
    # GRUB escapes a newline in a value by a backslash, which no name of a menu entry has; the rest of the block is filled with "#".
    for line in grubenv.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name == "saved_entry":
            return value
    return ""


def _mask(unit: str) -> RenderedLink:
    return RenderedLink(f"/etc/systemd/system/{unit}", "/dev/null", f"keeps {unit} from writing a grubenv again")
