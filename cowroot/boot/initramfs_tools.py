"""The hook and the boot scripts for initramfs-tools (Debian, Ubuntu)."""

from __future__ import annotations

from typing import Any

from cowroot.boot.rendered import Rendered, RenderedFile
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template
from cowroot.config import SETTINGS, Config, Setting, kinds, mount_rules

THAW_PLAN = "/etc/cowroot/thaw"
"""Which boots have the real root writable: on its own file system, where no other one is mounted at boot."""

IN_INITRD = ("etc/cowroot.conf", "scripts/cowroot", "scripts/local-premount/cowroot", "scripts/local-bottom/cowroot")
"""What an initrd with the hook and the boot scripts contains."""

_FAMILY = "initramfs-hooks"

# The shell's counterpart of each kind of value: the function that checks it (check_…) and how it is written to boot.json.
_CHECKS = {
    kinds.Switch: ("switch", "bare"),
    kinds.Choice: ("choice", "string"),
    kinds.Seconds: ("seconds", "bare"),
    kinds.Size: ("size", "string"),
    kinds.Inodes: ("inodes", "string"),
    kinds.Device: ("device", "string"),
    kinds.BlackBox: ("black_box", "string"),
    kinds.FileSystem: ("file_system", "string"),
    kinds.Directory: ("directory", "string"),
    kinds.Rungs: ("rungs", "words"),
    kinds.Lowers: ("layers", "words"),
    mount_rules.MountRules: ("rules", "words"),
}

_FILES = (
    ("hook", "/etc/initramfs-tools/hooks/cowroot", 0o755, "puts settings, modules and tools into every initrd that is built"),
    ("scripts/cowroot", "/etc/initramfs-tools/scripts/cowroot", 0o644, "what the boot scripts share"),
    ("scripts/local-premount", "/etc/initramfs-tools/scripts/local-premount/cowroot", 0o755, "keeps the real root from being written"),
    ("scripts/local-bottom", "/etc/initramfs-tools/scripts/local-bottom/cowroot", 0o755, "has the union brought up as /"),
)


def render_initramfs_tools(config: Config, target: Target) -> tuple[Rendered, ...]:
    """The files for a target whose initrds are made by initramfs-tools.

    `config` is not in them: the hook reads the settings whenever an initrd is made.
    """

    def text(template: str) -> str:
        return render_functions(target) if template == "scripts/cowroot" else _render(template, origin=ORIGIN, target=target)

    return tuple(RenderedFile(path, text(template).encode(), mode, why) for template, path, mode, why in _FILES)


def render_functions(target: Target) -> str:
    """The shell functions that bring up a union, which the scripts of every way to boot have in common."""
    return _render(
        "scripts/cowroot",
        origin=ORIGIN,
        target=target,
        settings=[_for_shell(setting) for setting in SETTINGS if setting.parameter],
        defaults=Config.default().to_shell().strip().replace("\n", "\n\t"),
        unfit_file_systems=sorted(kinds.UNFIT_FILE_SYSTEMS),
        default_size=Config.default().upper.size,
        policies=mount_rules.POLICIES,
        built_in_rules=mount_rules.BUILT_IN,
        thaw_plan=THAW_PLAN,
    )


def _render(template: str, **values: object) -> str:
    return render_template(_FAMILY, f"initramfs-tools/{template}.j2", **values)


def _for_shell(setting: Setting) -> dict[str, Any]:
    check, json = _CHECKS[type(setting.kind)]
    return {
        "key": setting.key,
        "parameter": setting.parameter,
        "variable": setting.variable,
        "check": check,
        "json": json,
        "words": "".join(f" {choice}" for choice in setting.choices),
    }
