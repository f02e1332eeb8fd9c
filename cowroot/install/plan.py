"""What a target shall have that it has not: typed actions, computed without touching anything, that can be shown before they are done."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

from cowroot import __version__
from cowroot.boot.bls import COMMAND_LINE, PLUGIN
from cowroot.boot.extlinux import SCRIPT
from cowroot.boot.grub import GRUBENV
from cowroot.boot.render import render
from cowroot.boot.rendered import RenderedLink
from cowroot.boot.sysvinit import SCRIPTS, is_order
from cowroot.config import DEFAULT_PATH, Config
from cowroot.install.inspection import Inspection, Kernel
from cowroot.install.manifest import GENERATED, ORIGINALS, PAYLOAD, RENDERED, Manifest, drift
from cowroot.install.menu import GRUB_CFG
from cowroot.install.package import check_same
from cowroot.install.payload import HOME, PayloadFile, payload
from cowroot.install.runtime import runtime
from cowroot.install.state import DIRECTORY, FILE, LINK, State, look
from cowroot.install.tree import Tree

CONFIG_PATH = str(DEFAULT_PATH)
_HELPERS = ("/usr/sbin/mount.fuse.cowroot", "/usr/sbin/umount.fuse.cowroot")


@dataclass(frozen=True)
class WriteFile:
    """Put a regular file of root's at `path`; `why` says what for."""

    path: str
    content: bytes
    mode: int
    origin: str
    why: str


@dataclass(frozen=True)
class MakeLink:
    """Put a symbolic link to `target` at `path`."""

    path: str
    target: str
    origin: str
    why: str


@dataclass(frozen=True)
class MakeDirectory:
    """Make a directory of root's, mode 0755."""

    path: str
    origin: str


@dataclass(frozen=True)
class Restore:
    """Bring back what was at `path` before cowroot, which no longer wants it."""

    path: str
    before: State | None


@dataclass(frozen=True)
class RunTool:
    """Run a program of the target, in a sandbox; `why` says what for."""

    command: tuple[str, ...]
    why: str


Action = Union[MakeDirectory, WriteFile, MakeLink, Restore, RunTool]


@dataclass(frozen=True)
class Plan:
    """The actions in the order in which they are done.

    origins: path -> origin, for all that cowroot wants, changed or not. names: the same paths as they were before links in the target
    were resolved, by which its tools know them.
    """

    actions: tuple[Action, ...]
    origins: dict[str, str]
    names: frozenset[str]

    def tools(self) -> list[RunTool]:
        return [action for action in self.actions if isinstance(action, RunTool)]


def make_plan(tree: Tree, config_text: str, config: Config, inspection: Inspection, manifest: Manifest | None) -> Plan:
    """Return what to do so that `tree` boots as `config` says. An empty plan: nothing is to be done.

    Arguments: `config_text` is what /etc/cowroot/cowroot.yaml shall hold, `config` the settings in it; `manifest` is that of the present
    installation. Raises PreflightError if it cannot boot so, ConflictError where another cowroot is there as a package, and what
    rendering raises.
    """
    if inspection.packaged:
        check_same(tree)
    named = list(_wanted(config_text, config, inspection, _first_grubenv(tree, inspection, manifest)))
    names = frozenset(item.path for item in named)
    wanted = [replace(item, path=tree.canonical(item.path)) for item in named]
    origins = {item.path: item.origin for item in wanted}
    files = [item for item in wanted if not _is_there(tree, item)]
    stale = _stale(manifest, origins, inspection.packaged)
    refresh = _needs_refresh(tree, inspection, manifest)
    if not files and not stale and not refresh:
        return Plan((), origins, names)
    # What clears grubenv goes last: grub.cfg is to be generated while there is one with a size.
    last = [item for item in files if item.path == tree.canonical(GRUBENV)]
    first = [item for item in files if item not in last]
    directories = list(_directories(tree, files))
    origins.update({directory.path: directory.origin for directory in directories})
    return Plan((*stale, *directories, *first, *_tools(inspection, names), *last), origins, names)


def _wanted(config_text: str, config: Config, inspection: Inspection, grubenv: bytes) -> Iterator[WriteFile | MakeLink]:
    yield WriteFile(CONFIG_PATH, config_text.encode(), 0o644, RENDERED, "the settings")
    for item in _payload(inspection):
        yield WriteFile(item.path, item.content, item.mode, PAYLOAD, "cowroot's code")
    if not inspection.target.merged_usr and not inspection.packaged:
        for helper in _HELPERS:
            yield MakeLink(f"/sbin/{os.path.basename(helper)}", helper, PAYLOAD, "where mount(8) and umount(8) look for it")
    for rendered in render(config, inspection.target, grubenv):
        if isinstance(rendered, RenderedLink):
            yield MakeLink(rendered.path, rendered.target, RENDERED, rendered.why)
        else:
            yield WriteFile(rendered.path, rendered.content, rendered.mode, RENDERED, rendered.why)


def _payload(inspection: Inspection) -> list[PayloadFile]:
    if inspection.target.runtime:
        return runtime()
    if inspection.packaged:
        return []
    assert inspection.python
    return payload(inspection.python)


def _first_grubenv(tree: Tree, inspection: Inspection, manifest: Manifest | None) -> bytes:
    """Return the grubenv that was there before the first installation emptied it: the default entry that it names stays the default."""
    record = manifest.records.get(tree.canonical(GRUBENV)) if manifest else None
    if record is None:
        return inspection.grubenv
    return tree.read(f"{ORIGINALS}/{record.before.sha256}") if record.before and record.before.sha256 else b""


def _is_there(tree: Tree, item: WriteFile | MakeLink) -> bool:
    now = look(tree, item.path)
    if item.path == COMMAND_LINE and now:  # who has one knows what is in it
        return True
    if now is None or (now.uid, now.gid) != (0, 0):
        return False
    if isinstance(item, MakeLink):
        return now.kind == LINK and now.target == item.target
    # The settings are the administrator's: he may make them readable for root only.
    same_mode = now.mode == item.mode or item.path == CONFIG_PATH
    return now.kind == FILE and same_mode and now.size == len(item.content) and tree.read(item.path) == item.content


def _directories(tree: Tree, items: Iterable[WriteFile | MakeLink]) -> Iterator[MakeDirectory]:
    seen = set()
    for item in items:
        missing = []
        parent = os.path.dirname(item.path)
        while parent not in seen and parent != "/" and not tree.exists(parent):
            missing.append(parent)
            seen.add(parent)
            parent = os.path.dirname(parent)
        yield from (MakeDirectory(path, item.origin) for path in reversed(missing))


def _stale(manifest: Manifest | None, wanted: dict[str, str], packaged: frozenset[str]) -> list[Restore]:
    """Return what an earlier installation put there and this one does not want. Its directories stay until `uninstall`."""
    if manifest is None:
        return []
    return [
        Restore(path, record.before)
        for path, record in manifest.records.items()
        if record.origin != GENERATED and path not in wanted and path not in packaged and record.after and record.after.kind != DIRECTORY
    ]


def _needs_refresh(tree: Tree, inspection: Inspection, manifest: Manifest | None) -> bool:
    """Tell whether initrds or grub.cfg are not, or may not be, what this installation made."""
    if manifest is None or set(manifest.kernels) != {kernel.release for kernel in inspection.kernels}:
        return True
    if inspection.packaged and manifest.version != __version__:
        return True
    generated = [path for path, record in manifest.records.items() if record.origin == GENERATED and not is_order(path)]
    # Edited settings are in no initrd yet.
    settings = [path for path in (tree.canonical(CONFIG_PATH),) if path in manifest.records]
    return bool(drift(tree, manifest, [*generated, *settings]))


def initrd_tools(inspection: Inspection, releases: Iterable[str]) -> list[RunTool]:
    """Return what makes the initrds of these kernels anew."""

    def commands(kernel: Kernel) -> Iterator[tuple[str, ...]]:
        # Not for the machine at hand: the image may be meant for another, and what is seen of this one in a sandbox is little.
        if inspection.target.initramfs == "dracut":
            yield ("dracut", "--force", "--no-hostonly", kernel.initrd, kernel.release)
        elif inspection.target.initramfs == "mkinitcpio":
            for initrd in kernel.initrds:
                yield ("mkinitcpio", "-k", kernel.release, "-S", "autodetect", "-g", initrd)
        else:
            yield ("update-initramfs", "-u" if kernel.made else "-c", "-k", kernel.release)

    wanted = [kernel for kernel in inspection.kernels if kernel.release in set(releases)]
    return [RunTool(command, f"makes the initrd of {kernel.release}") for kernel in wanted for command in commands(kernel)]


def menu_tools(inspection: Inspection, releases: Iterable[str]) -> Iterator[RunTool]:
    """Return what brings these kernels' new initrds to where systemd-boot finds them, and writes U-Boot's menu anew."""
    wanted = set(releases)
    for kernel in inspection.kernels:
        if inspection.copied and kernel.release in wanted:
            command = ("kernel-install", "add", kernel.release, f"/boot/vmlinuz-{kernel.name}", kernel.initrd)
            yield RunTool(command, f"copies {kernel.release} and its initrd to {inspection.target.bls}")
    if inspection.target.u_boot_menu:
        yield RunTool(("u-boot-update",), f"writes {inspection.target.extlinux}")


def _tools(inspection: Inspection, names: frozenset[str]) -> Iterator[RunTool]:
    target = inspection.target
    if target.runtime:
        # As at boot: chrooted, and once more executed under another name.
        again = f"import os; os.execv({target.python!r}, ['@cowroot', '-I', '-S', '-B', '-c', {_load(target.libfuse)!r}])"
        yield RunTool(
            ("chroot", target.runtime, target.python, "-I", "-S", "-B", "-c", again), "tries whether the Python that comes along runs"
        )
    else:
        if not inspection.packaged:  # which compiles its own
            yield RunTool((target.python, "-IB", "-m", "compileall", "-q", HOME), "spares each boot the compiling")
        yield RunTool((target.python, "-IB", "-c", _load(target.libfuse)), "tries whether libfuse can be loaded")
    yield RunTool(("/usr/bin/cowroot", "--version"), "tries whether cowroot runs there")
    if target.init != "upstart":
        yield from initrd_tools(inspection, target.kernels)
        yield from menu_tools(inspection, target.kernels)
    if target.init == "sysvinit":
        yield RunTool(("insserv", *SCRIPTS), "has the init scripts run, the last of them at the very end")
    if PLUGIN in names:
        yield RunTool((PLUGIN,), f"brings the entries in {target.bls} up to date")
    if SCRIPT in names:
        yield RunTool((SCRIPT,), f"adds an entry to {target.extlinux}")
    if inspection.make_grub_cfg:
        yield RunTool(inspection.make_grub_cfg, f"writes {GRUB_CFG}")


def _load(libfuse: str) -> str:
    return f"import ctypes; ctypes.CDLL({libfuse!r})"


def show(plan: Plan, tree: Tree) -> str:
    """Return the plan as a unified diff, with a line for what no diff can show."""
    return "".join(_show(action, tree) for action in plan.actions)


def _show(action: Action, tree: Tree) -> str:
    if isinstance(action, RunTool):
        return f"run in the image: {' '.join(action.command)}  # {action.why}\n"
    if isinstance(action, MakeDirectory):
        return f"new directory {action.path}\n"
    now = look(tree, action.path)
    if isinstance(action, MakeLink):
        return f"{_was(now)}link {action.path} -> {action.target}  # {action.why}\n"
    if isinstance(action, Restore):
        return f"{'restore' if action.before else 'remove'} {action.path}\n"
    if action.origin == PAYLOAD:
        return f"{_was(now)}file {action.path}, {len(action.content)} bytes  # {action.why}\n"
    old = tree.read(action.path) if now and now.kind == FILE else b""
    mode = "" if now and now.mode == action.mode else f", mode {action.mode:04o}"
    return f"# {action.why}{mode}\n" + _diff(action.path, old if now else None, action.content)


def _was(now: State | None) -> str:
    return f"replace the {now.kind} by a new " if now else "new "


def _diff(path: str, old: bytes | None, new: bytes) -> str:
    try:
        before, after = (old or b"").decode().splitlines(keepends=True), new.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return f"{'new' if old is None else 'changed'} file {path}, {len(new)} bytes\n"
    if "\0" in "".join(after):
        return f"{'new' if old is None else 'changed'} file {path}, {len(new)} bytes\n"
    lines = list(difflib.unified_diff(before, after, "/dev/null" if old is None else f"a{path}", f"b{path}"))
    if not lines:
        return f"{'new' if old is None else 'changed'} file {path}, {len(new)} bytes\n"
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def to_json(actions: Sequence[Action]) -> list[dict[str, Any]]:
    """Return the actions for programs: one object each, with `action` and what belongs to it, contents as their size."""
    return [_action_json(action) for action in actions]


def _action_json(action: Action) -> dict[str, Any]:
    if isinstance(action, RunTool):
        return {"action": "run", "command": list(action.command), "why": action.why}
    if isinstance(action, MakeDirectory):
        return {"action": "directory", "path": action.path}
    if isinstance(action, MakeLink):
        return {"action": "link", "path": action.path, "target": action.target, "why": action.why}
    if isinstance(action, Restore):
        return {"action": "restore" if action.before else "remove", "path": action.path}
    size, mode = len(action.content), f"{action.mode:04o}"
    return {"action": "file", "path": action.path, "size": size, "mode": mode, "origin": action.origin, "why": action.why}
