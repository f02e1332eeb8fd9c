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

from cowroot.config import Config, apply_parameters
from cowroot.config.mount_rules import rule_for
from cowroot.errors import ConfigError, CowrootError
from cowroot.install import journal, preflight
from cowroot.install.initrd import expected_in_initrd, list_initrd
from cowroot.install.inspection import GRUB_CFG, Inspection, inspect
from cowroot.install.manifest import drift, read_manifest
from cowroot.install.plan import CONFIG_PATH, Plan, Restore, RunTool, make_plan
from cowroot.install.staging import Staging, stage
from cowroot.install.target import Choice, OpenTarget, fstab, open_target
from cowroot.install.tree import Tree

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
        found += _layers(target.tree, config)
        found += [*_grub(target.tree, config), *_fstab(target.tree, config), *_others(target.tree)]
        found += [*_upper(config), *_memory(target, config)]
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
                yield from _initrd(staging, kernel.release, initrd, expected)


def _initrd(staging: Staging, release: str, initrd: str, expected: set[str]) -> Iterator[Finding]:
    try:
        missing = expected - list_initrd(staging, initrd)
    except CowrootError as error:
        yield Finding(PROBLEM, f"{initrd} cannot be read: {error.message.splitlines()[0]}", "cowroot install")
        return
    if missing:
        what = f"{initrd} lacks {', '.join(sorted(missing))}: {release} would boot onto the writable disk"
        yield Finding(PROBLEM, what, "cowroot install")


def _layers(tree: Tree, config: Config) -> Iterator[Finding]:
    for layer in config.lowers:
        if layer.startswith("/") and not layer.startswith("/dev/") and not (tree.is_file(layer) or tree.is_dir(layer)):
            yield Finding(PROBLEM, f"the layer {layer} of lowers is not there", "put it there, or take it out of lowers")


def _grub(tree: Tree, config: Config) -> Iterator[Finding]:
    if not tree.is_file(GRUB_CFG):
        return
    text = tree.read_text(GRUB_CFG)
    for entry in re.split(r"^\s*menuentry ", text, flags=re.MULTILINE)[1:]:
        match = re.search(r"^\s*linux\S*\s+\S+\s+(.*)$", entry, re.MULTILINE)
        title = entry.split("{")[0].strip().split("'")[1] if "'" in entry else "an entry"
        if not match or "cowroot-off" in entry.split("{")[0]:
            continue
        try:
            booted = apply_parameters(config, match[1])
        except ConfigError as error:
            yield Finding(
                PROBLEM,
                f"GRUB boots {title!r} with a bad parameter: {error.message}",
                "mend GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub",
            )
            continue
        if not booted.enabled:
            yield Finding(
                WARNING, f"GRUB boots {title!r} without a union (cowroot=off)", "mend GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub"
            )
    grubenv = "/boot/grub/grubenv"
    if config.grub.recordfail and "/99_cowroot ###" in text and tree.is_file(grubenv) and tree.lstat(grubenv).st_size:
        yield Finding(WARNING, f"{grubenv} is not empty: GRUB may write to the disk", f"truncate --size 0 {grubenv}")


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
