"""Put the template folders into the wheel, as cowroot/templates/<name>, and the manual pages where `man` finds them.

A hook and not hatchling's `force-include` table: that one would also copy the templates next to an editable installation, where
they would go stale unnoticed. A source checkout reads them where they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FAMILIES = ("initramfs-hooks", "systemd", "sysvinit", "grub", "loaders", "upstart")


class TemplatesHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling once for each wheel that it builds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folders to a standard wheel. A missing folder fails the build: a wheel without templates installs nothing."""
        if version != "editable":
            build_data["force_include"].update({family: f"cowroot/templates/{family}" for family in FAMILIES})
            pages = sorted(page.name for page in Path(self.root, "man").iterdir())
            # Before hatchling 1.25 nothing is made of it; Debian's package takes the pages from man/ itself.
            build_data.setdefault("shared_data", {}).update({f"man/{page}": f"share/man/man{page[-1]}/{page}" for page in pages})
