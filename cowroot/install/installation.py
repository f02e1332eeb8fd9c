"""`cowroot install`: the steps in order, each in a module of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cowroot import __version__
from cowroot.boot.bls import COMMAND_LINE
from cowroot.boot.sysvinit import is_order
from cowroot.config import Config
from cowroot.config.yaml_file import read_text
from cowroot.install import journal, preflight, upper_device
from cowroot.install.initrd import verify_grub_cfg, verify_initrds, verify_menus
from cowroot.install.inspection import Inspection, inspect
from cowroot.install.manifest import GENERATED, Manifest, Record, drift, read_manifest, refuse_drift
from cowroot.install.package import belongs
from cowroot.install.plan import CONFIG_PATH, MakeDirectory, MakeLink, Plan, Restore, RunTool, WriteFile, make_plan, show, to_json
from cowroot.install.room import check_room
from cowroot.install.staging import Say, Staged, Staging, stage
from cowroot.install.state import look
from cowroot.install.target import Choice, OpenTarget, open_target
from cowroot.install.tree import Tree


@dataclass(frozen=True)
class Result:
    """How it ended. done: `installed`, `unchanged`, `planned`, `uninstalled` or `not installed`; text: for people."""

    done: str
    target: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"result": self.done, "target": self.target, **self.facts}


def install(choice: Choice, config_file: Path | None, say: Say, *, dry_run: bool = False, force: bool = False) -> Result:
    """Make the target boot copy-on-write. The same again changes nothing.

    Arguments: `config_file` are the settings to install, None for those that the target has, or the default; `force` overwrites files of
    cowroot's that somebody changed. Raises TargetError, PreflightError, ConflictError, ConfigError; the target is then as it was.
    """
    given = _given(config_file) if config_file else None
    if choice.image and not dry_run:
        # Mounting it for writing changes its superblock: an image that is not fit for it should not even see that.
        with open_target(choice, writable=False) as target:
            _check(target, inspect(target.tree), _settings(target.tree, given)[1])
    with open_target(choice, writable=not dry_run) as target:
        tree = target.tree
        if not dry_run:
            journal.settle(tree, say, force=force)
        inspection = inspect(tree)
        text, config = _settings(tree, given)
        _check(target, inspection, config)
        manifest = read_manifest(tree)
        plan = make_plan(tree, text, config, inspection, manifest)
        if manifest and not force:
            _refuse_to_overwrite(tree, manifest, plan)
        if dry_run:
            what = journal.announce(tree) + (show(plan, tree) if plan.actions else f"{target.name}: nothing to do\n")
            return Result("planned", target.name, what.rstrip("\n"), {"actions": to_json(plan.actions)})
        if not plan.actions:
            return Result("unchanged", target.name, f"{target.name}: nothing to do")
        changed = _carry_out(target, plan, inspection, manifest, say)
    made = "" if inspection.target.init == "upstart" else f", initrds made for {', '.join(inspection.target.kernels)}"
    text = f"{target.name}: installed; {changed} paths changed{made}"
    return Result("installed", target.name, text, {"changed": changed, "kernels": list(inspection.target.kernels)})


def _check(target: OpenTarget, inspection: Inspection, config: Config) -> None:
    preflight.check(inspection, target.name, upper_device.problems(target.tree, config, inspection.target))


def _given(path: Path) -> str:
    text = read_text(path)  # once: it may be /dev/stdin
    Config.parse(text, str(path))  # its errors name this path, not that in the target
    return text


def _settings(tree: Tree, given: str | None) -> tuple[str, Config]:
    if given is None and tree.is_file(CONFIG_PATH):
        given = tree.read_text(CONFIG_PATH)
    if given is None:
        config = Config.default()
        return config.to_yaml(), config
    return given, Config.parse(given, CONFIG_PATH)


def _refuse_to_overwrite(tree: Tree, manifest: Manifest, plan: Plan) -> None:
    settings = tree.canonical(CONFIG_PATH)
    paths = [action.path for action in plan.actions if isinstance(action, (WriteFile, MakeLink, Restore))]
    # The settings are there to be changed, and the tools' files are made anew whatever they are.
    ours = [path for path in paths if path in manifest.records and path != settings]
    refuse_drift(drift(tree, manifest, ours), "overwrites them")


def _carry_out(target: OpenTarget, plan: Plan, inspection: Inspection, manifest: Manifest | None, say: Say) -> int:
    with stage(target.tree, target.scratch, target.submounts, target.device, trusted=target.trusted) as staging:
        say(f"{target.name}: trying it out on an overlay")
        for action in plan.actions:
            if isinstance(action, RunTool):
                staging.run(action.command, say)
            else:
                _stage_action(staging, action)
        if inspection.target.init != "upstart":
            verify_initrds(staging, plan, inspection.kernels)
            verify_menus(staging, plan, inspection.kernels)
        if inspection.make_grub_cfg:
            verify_grub_cfg(staging, plan, inspection.kernels)
        changes = [_record(change, plan) for change in staging.changes()]
        check_room(target.tree, changes, target.name)
        say(f"{target.name}: {len(changes)} paths to change")
        new = Manifest(
            version=__version__,
            kernels=inspection.target.kernels,
            records=_merged(target.tree, manifest, changes, inspection.packaged),
            directories={},
            var_lib_mtime_ns=0,
        )
        journal.commit(target.tree, changes, staging.open_content, manifest, new)
    return len(changes)


def _stage_action(staging: Staging, action: WriteFile | MakeLink | MakeDirectory | Restore) -> None:
    tree = staging.tree
    if isinstance(action, MakeDirectory):
        tree.mkdir(action.path, mode=0o755, uid=0, gid=0, xattrs={})
    elif isinstance(action, MakeLink):
        tree.symlink(action.path, action.target, uid=0, gid=0, mtime_ns=None)
    elif isinstance(action, WriteFile):
        tree.write(action.path, action.content, mode=action.mode, uid=0, gid=0, mtime_ns=None, xattrs={})
    else:
        journal.bring(tree, [(action.path, action.before)], lambda _, state: journal.open_original(staging.target, state))


def _record(change: Staged, plan: Plan) -> Record:
    return Record(change.path, plan.origins.get(change.path, GENERATED), change.before, change.after)


def _merged(tree: Tree, manifest: Manifest | None, changes: list[Record], packaged: frozenset[str]) -> dict[str, Record]:
    """Return the records of the installation as a whole: what was there before the first one, what is there after this one."""
    # What was cowroot's own and has come as a package since is no longer cowroot's to restore or remove.
    records = {path: record for path, record in manifest.records.items() if not belongs(path, packaged)} if manifest else {}
    settings = [tree.canonical(path) for path in (CONFIG_PATH, COMMAND_LINE)]
    for path, record in list(records.items()):
        if is_order(path):  # if that was changed since, `uninstall` is to see it
            continue
        if record.origin == GENERATED or path in settings:  # these may have been changed since, rightly
            now = look(tree, path)
            if now is None and record.after:  # the initrd of a kernel that was removed
                del records[path]
            else:
                records[path] = replace(record, after=now)
    for change in changes:
        first = records[change.path].before if change.path in records else change.before
        if first == change.after:
            records.pop(change.path, None)
        else:
            records[change.path] = Record(change.path, change.origin, first, change.after)
    return records
