"""Init scripts, for sysvinit and for what Upstart runs of the kind: what systemd's units do at the end of a boot and of a shutdown.

The one that remounts the upper's device read-only has to be the very last. Where insserv orders such scripts, by their headers, it renames
the links of others when one is added; Ubuntu with Upstart has fixed numbers.
"""

from __future__ import annotations

import re

from cowroot.boot.rendered import Rendered, RenderedFile, RenderedLink
from cowroot.boot.templates import ORIGIN, render_template

SCRIPTS = ("cowroot", "cowroot-umount")
_ORDER = re.compile(r"/etc/(rc[0-6S]\.d/[SK]\d\d|init\.d/\.depend\.)")
_IN_ORDER = re.compile(r"K\d\dcowroot-umount")
# In Ubuntu umountroot is S60, kexec S85, and halt and reboot are S90.
_NUMBERED = {
    "cowroot": ("rc0.d/K01", "rc1.d/K01", "rc6.d/K01", "rc2.d/S99", "rc3.d/S99", "rc4.d/S99", "rc5.d/S99"),
    "cowroot-umount": ("rc0.d/S70", "rc6.d/S70"),
}


def render_sysvinit() -> tuple[RenderedFile, ...]:
    """The scripts; that they run is up to insserv, or to `numbered_links`."""
    whys = ("tells in time when the upper gets full, and keeps beside it how far boot and shutdown come", "remounts its device read-only")
    return tuple(
        RenderedFile(f"/etc/init.d/{name}", render_template("sysvinit", f"{name}.j2", origin=ORIGIN).encode(), 0o755, why)
        for name, why in zip(SCRIPTS, whys)
    )


def numbered_links() -> tuple[Rendered, ...]:
    """What has the scripts run in an Ubuntu with Upstart."""
    return tuple(
        RenderedLink(f"/etc/{link}{name}", f"../init.d/{name}", f"runs {name}") for name, links in _NUMBERED.items() for link in links
    )


def is_order(path: str) -> bool:
    """Tell whether insserv makes `path` and makes it anew, under another name perhaps, whenever a script comes or goes."""
    return _ORDER.match(path) is not None


def is_in_order(names: list[str]) -> bool:
    """Tell whether the last script is run, where these are the names in /etc/rc0.d."""
    return any(map(_IN_ORDER.fullmatch, names))
