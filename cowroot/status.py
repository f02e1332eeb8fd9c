"""What is true now: is `/` a copy-on-write union, is it as configured, what did it copy up, will the next boot be the same.

Everything is read below one root directory, `/` on a running system, so that a test can lay one out. Nothing is changed.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cowroot import bootrecord, mountinfo
from cowroot.boot.bls import COMMAND_LINE, PLACES
from cowroot.boot.extlinux import MENUS
from cowroot.boot.grub import GRUBENV
from cowroot.boot.sysvinit import is_in_order, is_order
from cowroot.config import DEFAULT_PATH, Config, apply_parameters
from cowroot.errors import CowrootError
from cowroot.fuse import control
from cowroot.install.manifest import GENERATED, Drift, Manifest, drift, read_manifest
from cowroot.mountinfo import Mount, mounted_at
from cowroot.reset import RESET_MARK
from cowroot.servicing.real_root import LOCK, is_open, written_elsewhere
from cowroot.servicing.thaw import thawed_boots, thawed_window
from cowroot.servicing.window import Window
from cowroot.watch import CRITICAL, Fill, faults_of_layers, forecast, level_of

OK, NOT_INSTALLED, NOT_ACTIVE, DEGRADED = "ok", "not-installed", "not-active", "degraded"
EXIT_CODES = {OK: 0, NOT_INSTALLED: 10, NOT_ACTIVE: 11, DEGRADED: 12}
"""The verdicts of `cowroot status`, and what it exits with. Scripts test them: they never change meaning."""

FILE_SYSTEM = "fuse.cowroot"
MOUNTS = mountinfo.TABLE.lstrip("/")
# What an initrd that brings the union up has, as the tool that lists it does (with initramfs-tools, with dracut, with mkinitcpio).
BOOT_SCRIPTS = (
    ("lsinitramfs", "scripts/local-bottom/cowroot"),
    ("lsinitrd", "usr/lib/cowroot-boot/boot"),
    ("lsinitcpio", "usr/lib/cowroot-boot/functions"),
)
GRUB_MENU = "/boot/grub/grub.cfg"


@dataclass(frozen=True)
class CopiedUp:
    """What the upper holds: `bytes` as it takes up there."""

    files: int = 0
    directories: int = 0
    whiteouts: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Fullness:
    """How full the upper is: in percent of its space or its inodes, whichever is scarcer; `level`: normal, warning or critical.

    `seconds_left`: until it is full, as `cowroot watch` has reckoned; None if that does not run, or it is not getting fuller.
    """

    percent: int
    level: str
    seconds_left: float | None


@dataclass(frozen=True)
class Recordfail:
    """`grubenv`: absent, empty (GRUB writes nothing to it), clean or set; `override`: the menu boots on at once whatever it says."""

    grubenv: str
    override: bool


@dataclass
class Status:
    """The answer of `cowroot status`; with --json, its fields in this order."""

    verdict: str = OK
    mountpoint: str = "/"
    by_hand: bool = False
    problems: list[str] = field(default_factory=list)
    installed: str | None = None  # version
    settings: dict[str, Any] = field(default_factory=dict)
    boot: dict[str, Any] | None = None  # what the initramfs recorded
    daemon: dict[str, Any] | None = None  # what it answers itself
    lower_writable: bool | None = None
    copied_up: CopiedUp | None = None
    fullness: Fullness | None = None
    reset: bool = False  # the upper will be emptied at the next boot
    recordfail: Recordfail | None = None
    thaw: int = 0  # how many of the next boots have the real root writable
    thaw_window: Window | None = None  # or when they have; not one that is over
    drift: list[Drift] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def to_json(self) -> str:
        return json.dumps({"exit_code": self.exit_code, **asdict(self)}, indent=2)

    def degrade(self, problem: str) -> None:
        """Note a problem; a status that was fine is degraded by it."""
        self.problems.append(problem)
        if self.verdict == OK:
            self.verdict = DEGRADED


def status_of_mount(mountpoint: str) -> Status:
    """The status of a union that was mounted by hand. Raises CowrootError if `mountpoint` is none or its daemon does not answer."""
    status = Status(mountpoint=mountpoint, by_hand=True)
    mount = mounted_at(os.path.realpath(mountpoint))
    if mount is None or mount.kind != FILE_SYSTEM:
        raise CowrootError(f"{mountpoint} is not where a cowroot union is mounted", hint=f"see findmnt -t {FILE_SYSTEM}")
    status.daemon = control.ask(control.socket_for(mount.device))
    _look_at_layers(Path("/"), status)
    upper = [layer["path"] for layer in status.daemon["layers"] if layer["kind"] == "upper"]
    if upper:
        status.copied_up = copied_up(Path(upper[0]))
    return status


def status_of_system(root: Path = Path("/")) -> Status:
    """The status of the running system, which `root` is the root directory of."""
    status = Status()
    mount = mounted_at("/", root / MOUNTS)
    try:
        status.boot = bootrecord.boot_record(root, "cowroot status")
    except bootrecord.RecordError as e:
        status.degrade(e.message)
    by_kernel = mount is not None and mount.kind == "overlay" and (status.boot or {}).get("engine") == "overlayfs"
    active = by_kernel or (mount is not None and mount.kind == FILE_SYSTEM)
    _look_at_settings(root, status)
    # what was installed, and what the next boot will find, is on the disk, whatever the union shows in its place
    disk = root / "run/cowroot/lower" if active else root
    status.thaw, window = thawed_boots(disk), thawed_window(disk)
    status.thaw_window = window if window and time.time() < window.ends else None
    _look_at_installation(_Disk(root, active), status)
    if not active:
        _explain_inactive(status)
        return status
    assert mount is not None
    _look_at_boot(status)
    _look_at_lower(root, status)
    if not by_kernel:
        _look_at_daemon(root, mount, status)
    if status.boot and status.boot.get("upper_directory"):
        directory = root / status.boot["upper_directory"].lstrip("/")
        status.copied_up = copied_up(directory / "upper")
        kept = status.boot.get("upper_device") != "tmpfs"
        status.reset = kept and ((directory / RESET_MARK).exists() or status.boot.get("settings", {}).get("upper.reset", False))
    return status


def _look_at_settings(root: Path, status: Status) -> None:
    path = root / str(DEFAULT_PATH).lstrip("/")
    try:
        config = Config.load(path) if path.exists() else Config.default()
        config = apply_parameters(config, (root / "proc/cmdline").read_text(errors="replace"))
    except CowrootError as e:
        status.degrade(f"{e.message} ({e.hint})" if e.hint else e.message)
        return
    upper = {"upper.device": config.upper.device, "upper.read_only": config.upper.read_only}
    status.settings = {"enabled": config.enabled, "engine": config.engine, **upper}
    if status.boot is None:
        return
    then = status.boot.get("settings", {})
    changed = [key for key, value in status.settings.items() if key in then and then[key] != value]
    if changed:
        status.degrade(
            f"{', '.join(changed)} changed in {DEFAULT_PATH} since this boot's initrd was made; cowroot install brings it up to date"
        )


class _Disk:
    """Where files of the real root are seen now, and those of /boot, which may be a file system of its own."""

    def __init__(self, root: Path, active: bool) -> None:
        self.top = root / "run/cowroot/lower" if active else root
        # What is above the files in such a directory, the innermost first.
        self.above: dict[str, Path] = {}
        for place in sorted(PLACES, reverse=True):
            mount = mounted_at(place, root / MOUNTS)
            if mount and active:  # the lowers of other unions are at the names of their mount points
                self.above[f"{place}/"] = root / "run/cowroot/mounts" if mount.kind in (FILE_SYSTEM, "overlay") else root

    def _above(self, path: str) -> Path:
        return next((above for place, above in self.above.items() if path.startswith(place)), self.top)

    def path(self, path: str) -> Path:
        return self._above(path) / path.lstrip("/")

    def drift(self, manifest: Manifest) -> list[Drift]:
        paths: dict[Path, list[str]] = {}
        for path in manifest.records:
            if self._is_mounted("/boot/efi", path) and self._is_mounted("/efi", path):
                paths.setdefault(self._above(path), []).append(path)
        found = [each for above, names in paths.items() for each in drift(above, manifest, names)]
        return sorted(found, key=lambda each: each.path)

    def _is_mounted(self, place: str, path: str) -> bool:
        """False for a path in an EFI system partition at `place` that is not mounted, which it need not be."""
        return not path.startswith(f"{place}/") or any(self.path(f"{place}/{name}").is_dir() for name in ("EFI", "loader"))


def _look_at_installation(disk: _Disk, status: Status) -> None:
    try:
        manifest = read_manifest(disk.top)
    except CowrootError as e:
        status.degrade(e.message)
        return
    if manifest is None:
        return
    status.installed = manifest.version
    status.drift = disk.drift(manifest)
    for each in status.drift:
        if not _is_maintenance(disk, each):
            status.degrade(f"{each.path} {each.what} since cowroot was installed; see cowroot install --dry-run")
    if GRUB_MENU in manifest.records:
        status.recordfail = _recordfail(disk)
        if not status.recordfail.override:
            status.degrade(f"{GRUB_MENU} is without cowroot's part: GRUB may wait at its menu after a failed boot; run update-grub")


def _is_maintenance(disk: _Disk, found: Drift) -> bool:
    """True for changes that whoever looks after a system makes: settings, and initrds and menus made anew with cowroot still in them."""
    if found.path == str(DEFAULT_PATH):
        return True  # whether they are in force is said apart
    if found.path in (COMMAND_LINE, *MENUS) or "/loader/entries/" in found.path:
        return True  # `cowroot doctor` reads them
    if found.path == GRUB_MENU:
        return disk.path(GRUB_MENU).exists()  # whether cowroot's part is in it is said apart
    if found.origin == GENERATED and is_order(found.path):
        return is_in_order(os.listdir(disk.path("/etc/rc0.d")))
    if found.origin != GENERATED or not found.path.startswith(tuple(f"{place}/" for place in PLACES)):
        return False
    name = os.path.basename(found.path)
    return name == "linux" or (name.startswith("init") and _holds_boot_script(disk.path(found.path)))


def _holds_boot_script(initrd: Path) -> bool:
    for tool, script in BOOT_SCRIPTS:
        try:
            listed = subprocess.run([tool, os.fspath(initrd)], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        if any(line.split()[-1:] == [script] for line in listed.splitlines()):
            return True
    return False


def _recordfail(disk: _Disk) -> Recordfail:
    # grub-mkconfig heads the output of each script with its path
    override = b"/99_cowroot ###" in disk.path(GRUB_MENU).read_bytes()
    try:
        content = disk.path(GRUBENV).read_bytes()
    except FileNotFoundError:
        return Recordfail("absent", override)
    if not content:
        return Recordfail("empty", override)
    return Recordfail("set" if b"\nrecordfail=1\n" in content else "clean", override)


def _explain_inactive(status: Status) -> None:
    reasons = status.boot.get("reasons", []) if status.boot else []
    status.problems.extend(reasons)
    if status.installed is None and status.boot is None:
        status.verdict = NOT_INSTALLED
        return
    status.verdict = NOT_ACTIVE
    rung = status.boot.get("rung") if status.boot else None
    if rung == "off":
        status.problems.append("this boot was asked not to use cowroot (cowroot=off, or enabled: false)")
    elif rung == "thawed":
        status.problems.append("this boot was asked to have / writable (cowroot thaw)")
    elif rung == "read-only":
        status.problems.append("/ is the real root, mounted read-only: the union could not be brought up")
    elif status.boot is None:
        status.problems.append("cowroot is installed, but this boot's initrd is without it; reboot, or run update-initramfs -u -k all")


def _look_at_boot(status: Status) -> None:
    boot = status.boot
    if boot is None:
        status.degrade(f"{bootrecord.PATH}, the record of this boot, is missing")
        return
    for reason in boot.get("reasons", []):
        status.degrade(str(reason))
    if boot.get("rung") != "configured":
        status.degrade(f"the boot ended on the rung `{boot.get('rung')}`, not as configured")


def _look_at_lower(root: Path, status: Status) -> None:
    lower = mounted_at("/run/cowroot/lower", root / MOUNTS)
    status.lower_writable = lower.writable if lower else None
    if lower is None:
        status.degrade("the lower is not mounted at /run/cowroot/lower")
    elif lower.writable:
        status.degrade("the real root is mounted writable at /run/cowroot/lower; mount -o remount,ro /run/cowroot/lower")
    elif lower.opened and not written_elsewhere(lower, root / MOUNTS) and not is_open(root / LOCK.lstrip("/")):
        status.degrade("the real root is mounted read-only, but its file system is not: files in use were removed by a servicing; reboot")


def _look_at_daemon(root: Path, mount: Mount, status: Status) -> None:
    try:
        status.daemon = control.ask(root / control.DEFAULT_DIRECTORY.lstrip("/") / f"{mount.device}.sock")
    except CowrootError as e:
        status.degrade(e.message)
        return
    configured = status.settings.get("engine", "auto")
    if configured not in ("auto", status.daemon["engine"]):
        status.degrade(f"the engine is {status.daemon['engine']}, not {configured} as configured")
    if status.boot:
        saved = [status.boot["saved_device"]] if status.boot.get("saved_device") else []
        lowers = [*saved, *status.boot.get("settings", {}).get("lowers", []), status.boot.get("root_device")]
        names = {"lower": iter(lowers), "upper": iter([status.boot.get("upper_device")])}
        for layer in status.daemon["layers"]:
            layer["path"] = next(names.get(layer["kind"], iter(())), None) or layer["path"]
    _look_at_layers(root, status)


def _look_at_layers(root: Path, status: Status) -> None:
    assert status.daemon is not None
    for fault in faults_of_layers(status.daemon):
        status.degrade(fault)
    for layer in status.daemon["layers"]:
        if layer["kind"] == "upper":
            inodes, free_inodes = layer.get("inodes", 0), layer.get("free_inodes", 0)  # daemons of earlier versions do not tell
            fill = Fill(layer["size"] - layer["free"], layer["free"], inodes - free_inodes, free_inodes)
            level = level_of(fill.percent, _configuration(root).full)
            status.fullness = Fullness(fill.percent, level, None if status.by_hand else forecast(root))
            if level == CRITICAL:
                status.degrade(f"the upper is nearly full: {layer['free'] >> 20} of {layer['size'] >> 20} MiB are free; see cowroot usage")


def _configuration(root: Path) -> Config:
    path = root / str(DEFAULT_PATH).lstrip("/")
    try:
        return Config.load(path) if path.exists() else Config.default()
    except CowrootError:
        return Config.default()  # what is wrong with it is said where it matters


def copied_up(upper: Path) -> CopiedUp:
    """Count what is in an upper. What vanishes meanwhile, or cannot be read, does not count."""
    files = directories = whiteouts = used = 0
    pending = [os.fspath(upper)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                st = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            used += st.st_blocks * 512
            if stat.S_ISDIR(st.st_mode):
                directories += 1
                pending.append(entry.path)
            elif stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
                whiteouts += 1
            else:
                files += 1
    return CopiedUp(files, directories, whiteouts, used)
