"""`cowroot status`: what is true now, for people and for programs."""

from __future__ import annotations

import sys
import time

import click

from cowroot import __version__
from cowroot.cli.completion import directory
from cowroot.cli.figures import duration, size
from cowroot.lastboot import CLEAN, UNCLEAN, LastBoot, last_boot
from cowroot.status import DEGRADED, NOT_ACTIVE, NOT_INSTALLED, Status, status_of_mount, status_of_system

_HEADLINES = {
    NOT_INSTALLED: "cowroot is not installed here",
    NOT_ACTIVE: "/ is not a copy-on-write union",
    DEGRADED: "{mountpoint} is a copy-on-write union, but not as configured",
}


@click.command()
@click.argument("mountpoint", required=False, type=click.Path(), shell_complete=directory)
@click.option("--last-boot", "last", is_flag=True, help="Say how the boot before this one went and ended. Needs a disk for it.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object, the verdict and all that it rests on.")
def command(mountpoint: str | None, last: bool, as_json: bool) -> None:
    """Say whether / is a copy-on-write union and all is as configured; or how the union at MOUNTPOINT is.

    \b
    Exit codes:
       0  all is as configured
      10  cowroot is not installed
      11  it is installed, but / is not a union in this boot
      12  / is a union, but something is not as it should be; the lines with ! say what

    With --last-boot, 12 is a boot that was not as configured, or that did not end with a clean shutdown; 1: nothing is known of it.
    """
    if last:
        if mountpoint:
            raise click.UsageError("--last-boot is about /, not about a MOUNTPOINT")
        found = last_boot()
        click.echo(found.to_json() if as_json else "\n".join(_last_text(found)))
        sys.exit(0 if found.is_well else 12)
    status = status_of_mount(mountpoint) if mountpoint else status_of_system()
    click.echo(status.to_json() if as_json else "\n".join(_text(status)))
    sys.exit(status.exit_code)


def _text(status: Status) -> list[str]:
    headline = _HEADLINES.get(status.verdict, "{mountpoint} is a copy-on-write union, and all is as configured")
    if status.by_hand:
        headline = "{mountpoint} is a copy-on-write union" + (", and all is well" if not status.problems else ", with problems")
    lines = [headline.format(mountpoint=status.mountpoint)]
    lines += [f"! {problem}" for problem in status.problems]
    rows = [*_daemon_rows(status), *_disk_rows(status)]
    if rows:
        lines += ["", *(f"  {name:<11} {text}" for name, text in rows)]
    return lines


def _daemon_rows(status: Status) -> list[tuple[str, str]]:
    daemon = status.daemon
    if daemon is None:
        return []
    process = f"cowroot {daemon['version']}, pid {daemon['pid']}, up {duration(daemon['uptime'])}, {size(daemon['rss'])} of memory"
    load = f"{daemon['open_files']} open files, {sum(daemon['requests'].values())} requests"
    rows = [("engine", f"{daemon['engine']}, FUSE protocol {daemon['protocol']}, {len(daemon['features'])} features in force")]
    rows += [("without", f"{', '.join(names)}: {reason}") for reason, names in _by_reason(daemon.get("missing_features", {}))]
    rows.append(("daemon", f"{process}, {load}"))
    filtered = daemon.get("system_calls")
    if filtered:  # else it is a daemon from before an upgrade
        calls = "filtered" if filtered == "filtered" else f"not filtered: {filtered}"
        rows.append(("rights", f"{len(daemon['capabilities'])} capabilities, system calls {calls}"))
    if daemon["version"] != __version__:
        how = "`cowroot daemon restart` has it serve" if daemon["engine"] == "direct" else "it serves from the next boot or mount on"
        rows.append(("upgrade", f"cowroot {__version__} is installed, {how}"))
    for layer in daemon["layers"]:
        if layer["kind"] == "work":
            continue
        where = "" if layer["path"] == layer["filesystem"] else f"{layer['path']}, "  # a tmpfs is just that
        text = f"{where}{layer['filesystem']} of {size(layer['size'])}, {size(layer['free'])} free"
        if layer["kind"] == "lower" and status.lower_writable is not None:
            text += ", writable!" if status.lower_writable else ", read-only"
        rows.append((layer["kind"], text))
    return rows


def _by_reason(missing: dict[str, str]) -> list[tuple[str, list[str]]]:
    reasons = sorted(set(missing.values()))
    return [(reason, sorted(name for name in missing if missing[name] == reason)) for reason in reasons]


def _disk_rows(status: Status) -> list[tuple[str, str]]:
    rows = []
    if status.fullness is not None:
        left = status.fullness.seconds_left
        rows.append(("full", f"{status.fullness.percent} %" + (f", at this rate full in {duration(left)}" if left is not None else "")))
    copied = status.copied_up
    if copied is not None:
        counts = (
            (copied.files, "file", "files"),
            (copied.directories, "directory", "directories"),
            (copied.whiteouts, "whiteout", "whiteouts"),
        )
        held = ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts) + f", {size(copied.bytes)}"
        rows.append(("copied up", held))
    if status.reset:
        rows.append(("reset", "the upper will be emptied at the next boot"))
    if status.boot is not None:
        rows.append(("boot", f"rung `{status.boot.get('rung')}`, {status.boot.get('seconds')} s after the kernel started"))
        if status.boot.get("mounts"):
            rows.append(("mounts", ", ".join(" ".join(reversed(each.split(" ", 1))) for each in status.boot["mounts"])))
    if status.thaw:
        boots = "the next boot has" if status.thaw == 1 else f"the next {status.thaw} boots have"
        rows.append(("thaw", f"{boots} the real root writable"))
    if status.thaw_window:
        rows.append(("thaw", f"boots from {status.thaw_window.describe()} have the real root writable"))
    if status.recordfail is not None:
        said = {"empty": "grubenv is empty, GRUB writes nothing", "absent": "there is no grubenv", "clean": "not set", "set": "set"}
        waits = "never waits" if status.recordfail.override else "may wait"
        rows.append(("recordfail", f"{said[status.recordfail.grubenv]}; the menu {waits}"))
    if status.installed is not None:
        state = f"{len(status.drift)} changed since" if status.drift else "all as installed"
        rows.append(("files", f"cowroot {status.installed}, {state}"))
    return rows


def _last_text(boot: LastBoot) -> list[str]:
    shutting_down = "shutdown" in boot.stages
    if boot.ended == CLEAN:
        headline = "the boot before this one ended cleanly"
    elif boot.ended == UNCLEAN and shutting_down:
        headline = "the boot before this one began to shut down, but did not come to its end: it hung, or lost its power"
    elif boot.ended == UNCLEAN:
        headline = "the boot before this one was never shut down: it lost its power, hung or crashed"
    else:
        headline = "how the boot before this one ended is not known"
    began = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(boot.began))
    rows = [("began", f"{began}, boot {boot.boot_id}"), ("rung", f"`{boot.rung}`")]
    said = {"initrd": "the union was up", "up": "the system was up", "shutdown": "the shutdown began"}
    for stage, text in said.items():
        if stage in boot.stages:
            rows.append((stage, f"{text}, {boot.stages[stage]:.0f} s after the kernel started"))
    if boot.pstore:
        rows.append(("pstore", f"the kernel has left {', '.join(boot.pstore)} in /sys/fs/pstore"))
    return [headline, *(f"! {reason}" for reason in boot.reasons), "", *(f"  {name:<11} {text}" for name, text in rows)]
