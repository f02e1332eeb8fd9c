"""Whether an initrd or a grub.cfg that a tool has made really holds what brings up the union."""

from __future__ import annotations

import re
import shlex

from cowroot.boot import dracut, initramfs_tools, mkinitcpio
from cowroot.errors import CowrootError
from cowroot.install import sandbox
from cowroot.install.inspection import Kernel
from cowroot.install.menu import GRUB_CFG, Entry, menu_entries
from cowroot.install.plan import Plan
from cowroot.install.staging import Staging

SETTINGS_IN_INITRD = "etc/cowroot.conf"


def expected_in_initrd(plan: Plan) -> set[str]:
    """Return the paths that every initrd must contain: the boot scripts, and the settings that the hook or module puts there."""
    if any(path.startswith(f"{dracut.MODULE}/") for path in plan.names):
        return set(dracut.IN_INITRD)
    if mkinitcpio.HOOK in plan.names:
        return set(mkinitcpio.IN_INITRD)
    return set(initramfs_tools.IN_INITRD)


def list_initrd(staging: Staging, path: str) -> set[str]:
    """Return the paths in an initrd, as the target's own tools read it. Raises ToolError if they cannot."""
    for lister in ("lsinitramfs", "lsinitcpio"):
        if staging.tree.is_file(f"/usr/bin/{lister}"):
            return set(staging.run([lister, path], _silent).splitlines())
    # As `ls -l` lists them.
    lines = (line.split() for line in staging.run(["lsinitrd", path], _silent).splitlines())
    return {fields[8] for fields in lines if len(fields) > 8}


def verify_initrds(staging: Staging, plan: Plan, kernels: tuple[Kernel, ...]) -> None:
    """Raise CowrootError unless the initrd of every kernel holds all that the boot needs: one that was forgotten boots onto the disk."""
    expected = expected_in_initrd(plan)
    for kernel in kernels:
        for initrd in kernel.initrds:
            if not staging.tree.is_file(initrd):
                raise CowrootError(
                    f"no {initrd} was made", hint="does update_initramfs=no stand in /etc/initramfs-tools/update-initramfs.conf?"
                )
            missing = expected - list_initrd(staging, initrd)
            if missing:
                command = next(shlex.join(tool.command) for tool in plan.tools() if kernel.release in tool.command)
                raise CowrootError(f"{initrd} was made without {', '.join(sorted(missing))}", hint=f"look at what `{command}` says")


def further_initrds(entries: list[Entry], kernels: tuple[Kernel, ...]) -> dict[tuple[str, ...], str]:
    """Return the initrds that boot menus name and that are not where the tools make them: copies on the EFI system partition.

    By all that one entry loads, which is one initrd to its kernel, the file that the entry stands in. Only of entries for these kernels.
    """
    made = {initrd for kernel in kernels for initrd in kernel.initrds}
    names = {name for kernel in kernels for name in (kernel.release, kernel.name)}
    mine = [entry for entry in entries if any(f"/{name}/" in entry.kernel or entry.kernel.endswith(f"-{name}") for name in names)]
    return {entry.initrds: entry.source for entry in reversed(mine) if not made.intersection(entry.initrds)}


def missing_in(staging: Staging, initrds: tuple[str, ...], expected: set[str]) -> set[str]:
    """Return what of the expected paths is in none of these initrds. Raises ToolError if they cannot be read."""
    return expected.difference(*(list_initrd(staging, initrd) for initrd in initrds))


def verify_menus(staging: Staging, plan: Plan, kernels: tuple[Kernel, ...]) -> None:
    """Raise CowrootError if an entry of a boot menu loads another initrd than those that were made."""
    for initrds, source in further_initrds(menu_entries(staging.tree), kernels).items():
        missing = missing_in(staging, initrds, expected_in_initrd(plan))
        if missing:
            loaded = ", ".join(initrds) or "no initrd"
            raise CowrootError(
                f"{source} has its kernel started with {loaded}, without {', '.join(sorted(missing))}",
                hint="remove the entry, or have what makes it copy the initrd that was made (kernel-install add)",
            )


def verify_grub_cfg(staging: Staging, plan: Plan, kernels: tuple[Kernel, ...]) -> None:
    """Raise CowrootError if grub.cfg came out without a kernel, without cowroot's part, or with a root device that exists only here."""
    text = staging.tree.read_text(GRUB_CFG)
    for kernel in kernels:
        if not re.search(rf"^\s*linux\S*\s+\S*-{re.escape(kernel.name)}\s", text, re.MULTILINE):
            raise CowrootError(
                f"{GRUB_CFG} came out without an entry for the kernel {kernel.name}", hint="run update-grub there and look at what it says"
            )
    for path in sorted(plan.names):
        if path.startswith("/etc/grub.d/") and path not in text:
            raise CowrootError(f"{GRUB_CFG} came out without what {path} writes", hint=f"run {path} in the image and look at what it says")
    if f"root={sandbox.DEVICE}" in text:
        raise CowrootError(
            f"{GRUB_CFG} came out with a name for the root device that holds on this machine only",
            hint="give its root file system a UUID (tune2fs -U random), and do not set GRUB_DISABLE_LINUX_UUID",
        )


def _silent(_: str) -> None:
    return
