"""`cowroot doctor`: what would go wrong at the next boot, found out before it.

Everything that can be seen from outside: what `install` would still do, what each kernel's initrd really contains, what GRUB would say to
the kernel, what in the image works against a union. The target is looked at, and its own tools list its initrds in a sandbox; nothing is
changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cowroot.boot.bls import COMMAND_LINE, OWN_ENTRY, PLACES, PLUGIN
from cowroot.boot.grub import GRUBENV
from cowroot.config import Config, apply_parameters
from cowroot.config.mount_rules import rule_for
from cowroot.errors import ConfigError, CowrootError
from cowroot.install import journal, preflight, upper_device
from cowroot.install.initrd import expected_in_initrd, further_initrds, missing_in
from cowroot.install.inspection import Inspection, inspect
from cowroot.install.manifest import drift, read_manifest
from cowroot.install.menu import GRUB_CFG, Entry, menu_entries, remembers_choice
from cowroot.install.plan import CONFIG_PATH, Plan, Restore, RunTool, make_plan
from cowroot.install.staging import Staging, stage
from cowroot.install.target import Choice, OpenTarget, fstab, open_target
from cowroot.install.tree import Tree

_LOADER_VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # systemd's boot loader interface

PROBLEM, WARNING = "problem", "warning"
"""A boot would not be as configured; or it would be, but something there is not what one wants of a copy-on-write root."""

# What else makes a root volatile or read-only, by a file that says so and what in it does.
_RIVALS = (
    ("/etc/overlayroot.conf", r'^overlayroot="?(?!disabled|""|$)[^"\s]', "overlayroot makes an overlay of / as well", 'set overlayroot=""'),
    ("/etc/overlayroot.local.conf", r'^overlayroot="?(?!disabled|""|$)[^"\s]', "overlayroot makes an overlay of / as well", "remove it"),
)
# What changes a system by itself: into an upper that forgets it, or fills.
_SELF_CHANGING = (
    ("/usr/bin/unattended-upgrade", "unattended-upgrades installs into the upper", "apt-get remove unattended-upgrades"),
    ("/usr/lib/snapd/snapd", "snapd refreshes its snaps into the upper", "snap refresh --hold"),
    ("/usr/libexec/packagekitd", "PackageKit may install into the upper", "systemctl mask packagekit"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be. fix: a command, or what to write, that mends it."""

    severity: str
    what: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(choice: Choice) -> list[Finding]:
    """Return what is found in a target, problems first. Raises TargetError if it is none."""
    with open_target(choice, writable=False) as target:
        inspection = inspect(target.tree)
        try:
            config = _config(target.tree)
        except ConfigError as error:
            return [Finding(PROBLEM, error.message, error.hint)]
        found = [Finding(PROBLEM, each.what, _how(each)) for each in preflight.problems(inspection)]
        if not found:
            found += _installation(target, config, inspection)
        found += [Finding(PROBLEM, each.what, _how(each)) for each in upper_device.problems(target.tree, config, inspection.target)]
        found += _layers(target.tree, config)
        found += [*_menus(target.tree, config), *_chosen(target)]
        found += [*_fstab(target.tree, config), *_others(target.tree), *_upper(config), *_memory(target, config)]
    return sorted(found, key=lambda each: each.severity != PROBLEM)


def _config(tree: Tree) -> Config:
    return Config.parse(tree.read_text(CONFIG_PATH), CONFIG_PATH) if tree.is_file(CONFIG_PATH) else Config.default()


def _how(problem: preflight.Problem) -> str:
    return problem.advice or f"apt-get install {' '.join(problem.packages)}"


def _installation(target: OpenTarget, config: Config, inspection: Inspection) -> Iterator[Finding]:
    tree = target.tree
    if journal.announce(tree):
        yield Finding(PROBLEM, "an installation was interrupted", "cowroot install")
        return
    manifest = read_manifest(tree)
    if manifest is None:
        yield Finding(PROBLEM, "cowroot is not installed", "cowroot install")
        return
    text = tree.read_text(CONFIG_PATH) if tree.is_file(CONFIG_PATH) else config.to_yaml()
    plan = make_plan(tree, text, config, inspection, manifest)
    for action in plan.actions:
        if not isinstance(action, (RunTool, Restore)):
            yield Finding(PROBLEM, f"{action.path} is not as this version and the settings want it", "cowroot install")
    if drift(tree, manifest, [path for path in (tree.canonical(CONFIG_PATH),) if path in manifest.records]):
        yield Finding(PROBLEM, f"{CONFIG_PATH} was changed since it was last brought into force", "cowroot install")
    yield from _initrds(target, inspection, plan)


def _initrds(target: OpenTarget, inspection: Inspection, plan: Plan) -> Iterator[Finding]:
    if inspection.target.init == "upstart":
        return
    expected = expected_in_initrd(plan)
    with stage(target.tree, target.scratch, target.submounts, target.device, trusted=target.trusted) as staging:
        for kernel in inspection.kernels:
            if not kernel.made:
                yield Finding(PROBLEM, f"the kernel {kernel.release} has no initrd", "cowroot install")
                continue
            for initrd in kernel.initrds:
                yield from _initrd(staging, kernel.release, (initrd,), expected)
        made = tuple(kernel for kernel in inspection.kernels if kernel.made)
        for initrds, source in further_initrds(menu_entries(target.tree), made).items():
            yield from _initrd(staging, source, initrds, expected)


def _initrd(staging: Staging, booted: str, initrds: tuple[str, ...], expected: set[str]) -> Iterator[Finding]:
    initrd = " with ".join(initrds) or "no initrd"
    try:
        missing = missing_in(staging, initrds, expected)
    except CowrootError as error:
        yield Finding(PROBLEM, f"{initrd} cannot be read: {error.message.splitlines()[0]}", "cowroot install")
        return
    if missing:
        what = f"{initrd} lacks {', '.join(sorted(missing))}: {booted} would boot onto the writable disk"
        yield Finding(PROBLEM, what, "cowroot install")


def _layers(tree: Tree, config: Config) -> Iterator[Finding]:
    for layer in config.lowers:
        if layer.startswith("/") and not layer.startswith("/dev/") and not (tree.is_file(layer) or tree.is_dir(layer)):
            yield Finding(PROBLEM, f"the layer {layer} of lowers is not there", "put it there, or take it out of lowers")


# Where the parameters of a loader's entries come from.
_PARAMETERS = {
    "GRUB": "mend GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub",
    "BLS": f"mend {COMMAND_LINE} and the entry (options)",
    "extlinux": "mend U_BOOT_PARAMETERS in /etc/default/u-boot, u-boot-update; or the entry (append)",
}


def _menus(tree: Tree, config: Config) -> Iterator[Finding]:
    entries = menu_entries(tree)
    for entry in entries:
        if entry.real_root:
            continue
        whose = "GRUB" if entry.loader == "GRUB" else entry.source
        try:
            booted = apply_parameters(config, entry.line)
        except ConfigError as error:
            yield Finding(PROBLEM, f"{whose} boots {entry.title!r} with a bad parameter: {error.message}", _PARAMETERS[entry.loader])
            continue
        if not booted.enabled:
            yield Finding(WARNING, f"{whose} boots {entry.title!r} without a union (cowroot=off)", _PARAMETERS[entry.loader])
    menu = tree.read_text(GRUB_CFG) if tree.is_file(GRUB_CFG) else ""
    if config.grub.recordfail and "/99_cowroot ###" in menu and tree.is_file(GRUBENV) and tree.lstat(GRUBENV).st_size:
        yield Finding(WARNING, f"{GRUBENV} is not empty: GRUB may write to the disk", f"truncate --size 0 {GRUBENV}")
    if config.grub.recordfail:
        yield from _boot_counts(tree)
    yield from _default_entry(entries)
    if remembers_choice(tree):
        what = f"{remembers_choice(tree)} has systemd-boot boot what was chosen last: the menu has no entry for one boot of the real root"
        yield Finding(WARNING, what, "write another `default` there, or none, and cowroot install")


def _boot_counts(tree: Tree) -> Iterator[Finding]:
    for top in PLACES:
        for name in tree.listdir(f"{top}/loader/entries"):
            if re.search(r"\+\d+(-\d+)?\.conf$", name):
                what = f"systemd-boot counts the boots of {top}/loader/entries/{name} down, on the disk, and nothing takes that back"
                yield Finding(PROBLEM, what, PLUGIN)
        if tree.exists(f"{top}/loader/random-seed"):
            yield Finding(WARNING, f"systemd-boot writes {top}/loader/random-seed at each boot", f"rm {top}/loader/random-seed")


def _default_entry(entries: list[Entry]) -> Iterator[Finding]:
    """What would make the entry of the real root the one that is booted unattended."""
    first = {entry.source if entry.loader == "extlinux" else entry.loader: entry for entry in reversed(entries)}
    for entry in first.values():
        if entry.real_root:
            yield Finding(PROBLEM, f"{entry.source} boots the real root by default, without a union", "make another entry the default")


def _chosen(target: OpenTarget) -> Iterator[Finding]:
    """Only the running system has the firmware's variables by which systemd-boot is told what to boot (bootctl set-default)."""
    for name in ("LoaderEntryDefault", "LoaderEntrySysFail"):
        path = Path(f"/sys/firmware/efi/efivars/{name}-{_LOADER_VENDOR}")
        if target.trusted and path.is_file():
            chosen = path.read_bytes()[4:].decode("utf-16-le", "replace").rstrip("\0")
            if chosen.endswith(OWN_ENTRY):
                yield Finding(PROBLEM, f"the firmware has systemd-boot boot {chosen} by default, without a union", "bootctl set-default ''")


def _fstab(tree: Tree, config: Config) -> Iterator[Finding]:
    for spec, point, kind, *rest in fstab(tree):
        options = rest[0].split(",") if rest else []
        if spec.replace('"', "") == config.upper.device:
            yield Finding(
                PROBLEM, f"/etc/fstab mounts {spec} at {point}, which is to hold the upper", "remove that line, or choose another device"
            )
        elif point == "/" and "x-systemd.growfs" in options:
            yield Finding(
                WARNING,
                "/etc/fstab has the root file system grown at boot, which no longer happens",
                "grow it before, without x-systemd.growfs",
            )
        elif kind == "swap" and spec.startswith("/") and not spec.startswith("/dev/"):
            yield Finding(WARNING, f"the swap file {spec} is left out: it cannot lie on the union", "use a swap partition, or zram")
        elif (
            point.startswith("/")
            and point != "/"
            and kind not in ("tmpfs", "proc", "sysfs", "swap")
            and "ro" not in options
            and rule_for(config.mounts, spec, point, kind).rpartition(":")[2] in ("", "pass")
        ):
            what = f"{point} is a file system of its own and stays writable"
            yield Finding(WARNING, what, "give it another policy below `mounts:`, if it shall not be")
    yield from _idle_rules(tree, config)


def _idle_rules(tree: Tree, config: Config) -> Iterator[Finding]:
    """Rules that were meant to keep something from being written, and do not."""
    used = {rule_for(config.mounts, spec, point, kind) for spec, point, kind, *_ in fstab(tree)}
    for rule in config.mounts:
        match = rule.rpartition(":")[0]
        if rule not in used and not match.startswith("type="):
            yield Finding(PROBLEM, f"the rule for {match} in mounts decides about no line of /etc/fstab", "name the line as fstab does")


def _others(tree: Tree) -> Iterator[Finding]:
    for path, pattern, what, fix in _RIVALS:
        if tree.is_file(path) and re.search(pattern, tree.read_text(path), re.MULTILINE):
            yield Finding(PROBLEM, f"{path}: {what}", fix)
    for path, what, fix in _SELF_CHANGING:
        if tree.is_file(path):
            yield Finding(WARNING, what, fix)


def _upper(config: Config) -> Iterator[Finding]:
    if not config.upper.read_only:
        return
    if config.upper.device == "tmpfs":
        what = "upper.read_only is about an upper on a device, and upper.device is tmpfs"
        yield Finding(PROBLEM, what, "name the device in upper.device")
    elif config.upper.reset or config.upper.random_key:
        what = "upper.read_only keeps what is in the upper, and upper.reset and upper.random_key do not"
        yield Finding(PROBLEM, what, "take either out of the settings")


def _memory(target: OpenTarget, config: Config) -> Iterator[Finding]:
    """Only of the running system is the memory known."""
    if (config.upper.device != "tmpfs" and not config.upper.read_only) or not target.trusted:
        return
    match = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    memory = int(match[1]) << 10 if match else 0
    if memory and config.upper.size.in_bytes(memory) > memory:
        what = f"upper.size is {config.upper.size}, and this machine has {memory >> 20} MiB of memory: the boot refuses that"
        yield Finding(PROBLEM, what, "set upper.size to 50%, or put the upper on a device")
    elif memory and config.upper.size.in_bytes(memory) > memory * 3 // 4:
        what = f"the upper may take {config.upper.size} of {memory >> 20} MiB of memory; a full one leaves too little to run"
        yield Finding(WARNING, what, "set upper.size to 50%, or put the upper on a device")
