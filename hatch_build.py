"""Put the template folders into the wheel, as cowroot/templates/<name>.

A hook and not hatchling's `force-include` table: that one would also copy the templates next to an editable installation, where
they would go stale unnoticed. A source checkout reads them where they are.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FAMILIES = ("initramfs-hooks", "systemd", "grub")


class TemplatesHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling once for each wheel that it builds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folders to a standard wheel. A missing folder fails the build: a wheel without templates installs nothing."""
        if version != "editable":
            build_data["force_include"].update({family: f"cowroot/templates/{family}" for family in FAMILIES})
