"""`cowroot uninstall`: everything back as it was before the first `cowroot install`, to the byte.

Some things cannot simply be put back: the initrd of a kernel that was installed since (it has no state before), an initrd or grub.cfg that
was made anew since, and an order of init scripts that has changed since (what was there before would be out of date). The target's tools
make those again, without cowroot.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from cowroot.boot.bls import OWN_ENTRY, PLACES, RANDOM_SEED
from cowroot.boot.initramfs_tools import THAW_PLAN
from cowroot.boot.sysvinit import is_order
from cowroot.install import journal
from cowroot.install.initrd import SETTINGS_IN_INITRD, list_initrd
from cowroot.install.inspection import Inspection, Kernel, inspect
from cowroot.install.installation import Result
from cowroot.install.manifest import GENERATED, Manifest, Record, drift, read_manifest, refuse_drift
from cowroot.install.menu import GRUB_CFG
from cowroot.install.plan import RunTool, initrd_tools, menu_tools
from cowroot.install.room import check_room
from cowroot.install.staging import Say, Staging, stage
from cowroot.install.state import FILE
from cowroot.install.target import Choice, OpenTarget, open_target


def uninstall(choice: Choice, say: Say, *, dry_run: bool = False, force: bool = False) -> Result:
    """Bring the target back into the state before it was installed into.

    `force`: also where files were changed since; those changes are lost. Raises TargetError, ConflictError; the target is then as it was.
    """
    with open_target(choice, writable=not dry_run) as target:
        tree = target.tree
        interrupted = "" if dry_run else journal.settle(tree, say, force=force)
        manifest = read_manifest(tree)
        if manifest is None and dry_run and journal.announce(tree):
            return Result("planned", target.name, journal.announce(tree).rstrip("\n"))
        if manifest is None:
            if interrupted:
                return Result("uninstalled", target.name, f"{target.name}: an interrupted {interrupted} was cleared away")
            return Result("not installed", target.name, f"{target.name}: cowroot is not installed, nothing to do")
        # Nobody has written those.
        found = [each for each in drift(tree, manifest) if not each.path.endswith(OWN_ENTRY)]
        inspection = inspect(tree)
        anew = {each.path for each in found if each.origin == GENERATED and _is_made_anew(inspection, each.path)}
        if any(map(is_order, anew)):  # one as a whole
            anew |= set(filter(is_order, manifest.records))
        if not force:
            # what the target's tools made anew, they will make once more: nobody's work is lost
            refuse_drift([each for each in found if each.path not in anew], "restores them as they were before cowroot")
        since = [kernel for kernel in inspection.kernels if kernel.made and kernel.release not in manifest.kernels]
        if inspection.target.init == "upstart":  # whose initrds are none of cowroot's
            since = []
        if dry_run:
            return _planned(target, manifest, anew, since)
        if anew or since:
            manifest = _remade(target, manifest, inspection, anew, since, say)
        _check_room(target, list(manifest.records.values()))
        say(f"{target.name}: restoring {len(manifest.records)} paths")
        with suppress(FileNotFoundError):
            tree.remove(THAW_PLAN)
        kept = journal.undo(tree, manifest)
    notes = "".join(f"\n{path} stays: there is something in it that cowroot did not put there" for path in kept)
    facts = {"changed": len(manifest.records), "kept": kept}
    return Result("uninstalled", target.name, f"{target.name}: uninstalled; {len(manifest.records)} paths restored{notes}", facts)


def _is_made_anew(inspection: Inspection, path: str) -> bool:
    if path == inspection.target.extlinux:
        return inspection.target.u_boot_menu
    if inspection.copied and path.startswith(tuple(f"{top}/" for top in PLACES)):
        return True
    made = path.startswith(("/boot/initrd.img-", "/boot/initramfs-"))
    return made or path == GRUB_CFG or path.endswith(RANDOM_SEED) or is_order(path)


def _check_room(target: OpenTarget, records: list[Record]) -> None:
    # Seen from `room`, a state before is a state after here. Half of it done and no room for the rest would be a bad place to be.
    check_room(target.tree, [replace(record, before=None, after=record.before) for record in records], target.name)


def _planned(target: OpenTarget, manifest: Manifest, anew: set[str], since: list[Kernel]) -> Result:
    lines = journal.announce(target.tree).splitlines()
    for path, record in sorted(manifest.records.items()):
        lines.append(f"{'make anew' if path in anew else 'restore' if record.before else 'remove'} {path}")
    lines += [f"make anew {kernel.initrd}, if cowroot is in it" for kernel in since]
    return Result("planned", target.name, "\n".join(lines), {"actions": lines})


def _remade(target: OpenTarget, manifest: Manifest, inspection: Inspection, anew: set[str], since: Iterable[Kernel], say: Say) -> Manifest:
    """Return a manifest whose states before are what the target's tools make of it without cowroot; their contents are kept with it."""
    with stage(target.tree, target.scratch, target.submounts, target.device, trusted=target.trusted) as staging:
        ours = [kernel.release for kernel in since if SETTINGS_IN_INITRD in list_initrd(staging, kernel.initrd)]
        ours += [kernel.release for kernel in inspection.kernels if _is_of(kernel, anew)]
        # An entry whose name cowroot has changed gets the old one again, whatever became of it.
        stay = {path for path in anew if manifest.records[path].before or "/loader/entries/" not in path}
        back = [(path, record.before) for path, record in manifest.records.items() if path not in stay]
        journal.bring(staging.tree, back, lambda _, state: journal.open_original(target.tree, state))
        for tool in _tools(inspection, ours, anew):
            staging.run(tool.command, say)
        records = {change.path: Record(change.path, GENERATED, change.after, change.before) for change in staging.changes()}
        _keep_made(target, staging, list(records.values()))
    return replace(manifest, records=records)


def _is_of(kernel: Kernel, paths: set[str]) -> bool:
    """Tell whether one of these is the kernel's initrd, or belongs to its entry."""
    return bool(paths.intersection(kernel.initrds)) or any(
        f"/{kernel.release}/" in path or path.endswith(f"-{kernel.release}.conf") for path in paths
    )


def _tools(inspection: Inspection, releases: list[str], anew: set[str]) -> list[RunTool]:
    tools = initrd_tools(inspection, releases)
    tools += [tool for tool in menu_tools(inspection, releases) if inspection.target.extlinux in anew or tool.command[0] != "u-boot-update"]
    if GRUB_CFG in anew and inspection.make_grub_cfg:
        tools.append(RunTool(inspection.make_grub_cfg, f"writes {GRUB_CFG}"))
    if any(map(is_order, anew)):
        tools.append(RunTool(("insserv",), "puts the init scripts in order"))
    return tools


def _keep_made(target: OpenTarget, staging: Staging, records: list[Record]) -> None:
    _check_room(target, records)
    for record in records:
        if record.before and record.before.kind == FILE:
            journal.keep_original(target.tree, record.before, partial(staging.open_content, record.path, record.before))
    target.tree.sync(["/var/lib"])
