"""Changes to a target that survive being killed: all of them, or none.

Before anything is touched, the content of everything that will be replaced is copied into the originals, and the journal is written:
for each path the state before and after. From then on an interruption is no loss: `recover` puts back the state before, as often as it
takes. The change is made when the journal is gone. An uninstallation is a journal whose "before" is what the manifest recorded, carried
out by the very same `recover`; interrupted, it is thereby completed.

/var/lib/cowroot itself must appear and vanish without a trace too, and making or removing it changes the time of /var/lib, which would be
lost if the kill came then. So while there is no journal to hold that time, an extended attribute of /var/lib does: setting one changes no
time that anybody looks at.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable

from cowroot.errors import ConflictError, CowrootError
from cowroot.install.manifest import FORMAT, MANIFEST, ORIGINALS, STATE_DIRECTORY, Manifest, Record, Times
from cowroot.install.state import DIRECTORY, FILE, LINK, State, absolute_path, look, whole_number
from cowroot.install.tree import Tree, temporary

JOURNAL = f"{STATE_DIRECTORY}/journal.json"
_VAR_LIB = os.path.dirname(STATE_DIRECTORY)
_VAR_LIB_MTIME = "trusted.cowroot.mtime"

INSTALL, UNINSTALL = "install", "uninstall"
_ENDED = {INSTALL: "undone", UNINSTALL: "completed"}

OpenContent = Callable[[str, State], int]
"""Gives a descriptor of the content that a path shall have in a state."""


@dataclass(frozen=True)
class Journal:
    """What `recover` goes back to.

    verb: what was begun. records: by path. directories: modification times (ns) to set at the end. manifest: its text before, None for no
    installation. var_lib_mtime_ns: of /var/lib, to set when the state directory is removed.
    """

    verb: str
    records: tuple[Record, ...]
    directories: dict[str, int]
    manifest: str | None
    var_lib_mtime_ns: int

    def to_text(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "verb": self.verb,
                "records": [record.to_json() for record in self.records],
                "directories": self.directories,
                "manifest": self.manifest,
                "var_lib_mtime_ns": self.var_lib_mtime_ns,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> Journal:
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise CowrootError(
                    f"{JOURNAL} has format {data['format']}, this cowroot knows {FORMAT}", hint="use the cowroot that wrote it"
                )
            return cls(
                verb=INSTALL if data["verb"] == INSTALL else UNINSTALL,
                records=tuple(Record.from_json(record) for record in data["records"]),
                directories={absolute_path(path): whole_number(mtime_ns) for path, mtime_ns in data["directories"].items()},
                manifest=Manifest.from_text(data["manifest"]).to_text() if data["manifest"] is not None else None,
                var_lib_mtime_ns=whole_number(data["var_lib_mtime_ns"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CowrootError(f"{JOURNAL} is damaged ({error!r})", hint="restore the image from a backup") from None


def read_journal(tree: Tree) -> Journal | None:
    """Return the journal of an interrupted change, None if there is none."""
    try:
        return Journal.from_text(tree.read_text(JOURNAL))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def commit(tree: Tree, records: Iterable[Record], open_content: OpenContent, old: Manifest | None, new: Manifest) -> None:
    """Bring every path of `records` from its state before into its state after, and write the manifest.

    Arguments: `open_content` gives the content of a path in its state after; `old` is the manifest of the installation that this one
    succeeds; `new` is complete but for the times, which are known only afterwards. On any exception the target is as before.
    """
    records = tuple(records)
    journal = Journal(
        verb=INSTALL,
        records=records,
        directories=_parents(tree, records),
        manifest=old.to_text() if old else None,
        var_lib_mtime_ns=old.var_lib_mtime_ns if old else tree.lstat(_VAR_LIB).st_mtime_ns,
    )
    try:
        _begin(tree, journal)
        bring(tree, [(record.path, record.after) for record in records], open_content)
        new = replace(new, directories=_times(tree, journal.directories, old), var_lib_mtime_ns=journal.var_lib_mtime_ns)
        _write_state(tree, MANIFEST, new.to_text())
        _sync(tree, journal)
    except BaseException:
        if read_journal(tree):
            recover(tree, journal)
        sweep(tree)
        raise
    tree.remove(JOURNAL)
    tree.sync([_VAR_LIB])
    forget_originals(tree, new.originals())


def undo(tree: Tree, manifest: Manifest) -> list[str]:
    """Bring every path of an installation back into the state before it; return the directories that had to stay (see `recover`)."""
    # A directory that has seen other changes since keeps its time, which then tells about those.
    directories = {
        path: times.before
        for path, times in manifest.directories.items()
        if tree.is_dir(path) and tree.lstat(path).st_mtime_ns == times.after
    }
    journal = Journal(UNINSTALL, tuple(manifest.records.values()), directories, None, manifest.var_lib_mtime_ns)
    _write_state(tree, JOURNAL, journal.to_text())
    tree.sync([_VAR_LIB])
    return recover(tree, journal)


def recover(tree: Tree, journal: Journal) -> list[str]:
    """Go back to the state before `journal`, and remove it.

    Returns the directories that were made by cowroot but could not be removed because somebody put something into them.
    """
    kept = bring(tree, [(record.path, record.before) for record in journal.records], lambda _, state: open_original(tree, state))
    for path, mtime_ns in journal.directories.items():
        # It may be gone since, with everything in it.
        with suppress(FileNotFoundError, NotADirectoryError):
            tree.set_mtime(path, mtime_ns)
    if journal.manifest is None:
        tree.set_xattr(_VAR_LIB, _VAR_LIB_MTIME, str(journal.var_lib_mtime_ns).encode())
        tree.remove(MANIFEST)
        _sync(tree, journal)
        tree.remove(JOURNAL)
        sweep(tree)
    else:
        _write_state(tree, MANIFEST, journal.manifest)
        _sync(tree, journal)
        tree.remove(JOURNAL)
        forget_originals(tree, Manifest.from_text(journal.manifest).originals())
    tree.sync([_VAR_LIB])
    return kept


def changed_since(tree: Tree, journal: Journal) -> list[str]:
    """Return the paths of an interrupted change that are now neither as before nor as after it: somebody else was there."""
    found = []
    for record in journal.records:
        now = look(tree, record.path)
        # Where a directory takes the place of a file or the other way round, there is nothing for a moment; and a directory gets its
        # mode, owner and attributes one by one.
        ours = [state for state in (record.before, record.after) if state]
        if now and not any(now.same(state) or now.kind == state.kind == DIRECTORY for state in ours):
            found.append(record.path)
    return found


def check_unchanged(tree: Tree, journal: Journal) -> None:
    """Raise ConflictError if going back would destroy what somebody did after the interruption."""
    paths = changed_since(tree, journal)
    if paths:
        raise ConflictError(
            f"an interrupted {journal.verb} must be undone first, but these files were changed since: {', '.join(paths)}",
            hint="save what you need of them, then use --force",
        )


def announce(tree: Tree) -> str:
    """Return what a dry run says about an interrupted change, nothing if there is none."""
    interrupted = read_journal(tree)
    return f"an interrupted {interrupted.verb} is {_ENDED[interrupted.verb]} first\n" if interrupted else ""


def settle(tree: Tree, say: Callable[[str], None], *, force: bool) -> str:
    """Finish whatever was interrupted; return the verb that was, or nothing. Raises ConflictError as `check_unchanged`, unless `force`."""
    interrupted = read_journal(tree)
    if interrupted:
        say(f"the last {interrupted.verb} was interrupted: it is {_ENDED[interrupted.verb]} first")
        if not force:
            check_unchanged(tree, interrupted)
        recover(tree, interrupted)
    sweep(tree)
    return interrupted.verb if interrupted else ""


def sweep(tree: Tree) -> None:
    """Remove a state directory that was being made or removed when the kill came, and give /var/lib the time that it had."""
    time = tree.xattrs(_VAR_LIB).get(_VAR_LIB_MTIME) if tree.is_dir(_VAR_LIB) else None
    if time is None:
        return
    if not tree.exists(JOURNAL) and not tree.exists(MANIFEST):
        _remove_all(tree, STATE_DIRECTORY)
        tree.set_mtime(_VAR_LIB, int(time))
    tree.set_xattr(_VAR_LIB, _VAR_LIB_MTIME, None)


def forget_originals(tree: Tree, needed: set[str]) -> None:
    """Remove the contents that no record speaks of any more, and what a killed write left."""
    for name in tree.listdir(ORIGINALS):
        if name not in needed:
            tree.remove(f"{ORIGINALS}/{name}")


def _begin(tree: Tree, journal: Journal) -> None:
    if journal.manifest is None:
        tree.set_xattr(_VAR_LIB, _VAR_LIB_MTIME, str(journal.var_lib_mtime_ns).encode())
    # Anybody may ask for the status, which reads the manifest; originals are as secret as what they were.
    tree.mkdir(STATE_DIRECTORY, mode=0o755, uid=0, gid=0, xattrs={})
    tree.mkdir(ORIGINALS, mode=0o700, uid=0, gid=0, xattrs={})
    for record in journal.records:
        # On a running system somebody else may be installing something at this very moment.
        now = look(tree, record.path)
        if now != record.before and not (now and now.same(record.before)):
            raise ConflictError(f"{record.path} was changed just now, by somebody else", hint="wait until that has ended, and do it again")
        if record.before and record.before.kind == FILE:
            keep_original(tree, record.before, partial(tree.open_file, record.path))
    # The journal must not reach the disk before what it relies on.
    tree.sync([_VAR_LIB])
    _write_state(tree, JOURNAL, journal.to_text())
    tree.sync([_VAR_LIB])
    tree.set_xattr(_VAR_LIB, _VAR_LIB_MTIME, None)


def keep_original(tree: Tree, state: State, open_content: Callable[[], int]) -> None:
    """Keep the content of a file beside the manifest, unless it already is."""
    original = f"{ORIGINALS}/{state.sha256}"
    if not tree.exists(original):
        fd = open_content()
        try:
            tree.write(original, fd, mode=0o600, uid=0, gid=0, mtime_ns=None, xattrs={})
        finally:
            os.close(fd)


def bring(tree: Tree, wanted: Iterable[tuple[str, State | None]], open_content: OpenContent) -> list[str]:
    """Put every path into its wanted state; return the directories that could not be removed because they are not empty."""
    wanted = list(wanted)
    kept = []
    # What goes, goes first and from the leaves up: it makes room, and directories are empty when their turn comes.
    for path, state in sorted(wanted, key=lambda item: item[0], reverse=True):
        tree.remove(temporary(path))
        if state is None:
            try:
                tree.remove(path)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                kept.append(path)
    for path, state in sorted(wanted, key=lambda item: item[0]):
        if state is not None:
            _put(tree, path, state, open_content)
    for path, state in wanted:
        if state is not None and state.kind == DIRECTORY:
            tree.set_mtime(path, state.mtime_ns)
    return kept


def _put(tree: Tree, path: str, state: State, open_content: OpenContent) -> None:
    now = look(tree, path)
    if now is not None and now == state:
        return
    if now is not None and (now.kind == DIRECTORY) != (state.kind == DIRECTORY):
        tree.remove(path)
    if state.kind == DIRECTORY:
        tree.mkdir(path, mode=state.mode, uid=state.uid, gid=state.gid, xattrs=state.xattrs)
    elif state.kind == LINK:
        tree.symlink(path, state.target, uid=state.uid, gid=state.gid, mtime_ns=state.mtime_ns)
    else:
        fd = open_content(path, state)
        try:
            tree.write(path, fd, mode=state.mode, uid=state.uid, gid=state.gid, mtime_ns=state.mtime_ns, xattrs=state.xattrs)
        finally:
            os.close(fd)


def open_original(tree: Tree, state: State) -> int:
    """Return a descriptor of the kept content of a file. Raises CowrootError if it is lost."""
    try:
        return tree.open_file(f"{ORIGINALS}/{state.sha256}")
    except FileNotFoundError:
        raise CowrootError(
            f"{ORIGINALS}/{state.sha256} is missing, so that a file cannot be put back", hint="restore the image from a backup"
        ) from None


def _parents(tree: Tree, records: Iterable[Record]) -> dict[str, int]:
    """Return the modification times of the directories that are there now and in which something will change."""
    return {
        parent: tree.lstat(parent).st_mtime_ns for parent in {os.path.dirname(record.path) for record in records} if tree.is_dir(parent)
    }


def _times(tree: Tree, touched: dict[str, int], old: Manifest | None) -> dict[str, Times]:
    """Return the times for the manifest: those before the first installation, and as they are now."""
    times = dict(old.directories) if old else {}
    made = {path for path, record in old.records.items() if record.before is None} if old else set()
    for path, before in touched.items():
        if path in made or not tree.is_dir(path):
            continue
        first = times[path].before if path in times and times[path].after == before else before
        times[path] = Times(first, tree.lstat(path).st_mtime_ns)
    return times


def _sync(tree: Tree, journal: Journal) -> None:
    tree.sync([*(path for path in journal.directories if tree.is_dir(path)), _VAR_LIB])


def _write_state(tree: Tree, path: str, text: str) -> None:
    tree.write(path, text.encode(), mode=0o644 if path == MANIFEST else 0o600, uid=0, gid=0, mtime_ns=None, xattrs={})


def _remove_all(tree: Tree, path: str) -> None:
    for name in tree.listdir(path):
        inner = f"{path}/{name}"
        if stat.S_ISDIR(tree.lstat(inner).st_mode):
            _remove_all(tree, inner)
        else:
            tree.remove(inner)
    tree.remove(path)
