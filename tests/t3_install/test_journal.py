"""Changes to a tree are made wholly or not at all, and unmade to the last byte, wherever the kill comes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cowroot.errors import ConflictError, CowrootError
from cowroot.install import journal
from cowroot.install.manifest import MANIFEST, ORIGINALS, RENDERED, Manifest, Record, drift, read_manifest
from cowroot.install.state import look
from cowroot.install.tree import Tree
from tests.t3_install.fake import Content, Link, make_fake_tree, run_killed, snapshot

BEFORE: dict[str, Content] = {
    "/etc/motd": "welcome\n",
    "/etc/grub.d/00_header": "echo header\n",
    "/usr/lib/old": Link("nowhere"),
    "/usr/share/gone/a/b": "deep\n",
    "/usr/share/kind": "a file where a directory will be\n",
    "/boot/initrd.img-6.1": b"\x1f\x8b" + bytes(70_000),
    "/var/lib/dpkg/status": "",
}
AFTER: dict[str, Content] = {
    "/etc/motd": "changed\n",
    "/etc/cowroot/cowroot.yaml": "enabled: true\n",
    "/etc/grub.d/00_header": "echo header\n",
    "/usr/lib/old": Link("somewhere"),
    "/usr/lib/new": Link("old"),
    "/usr/share/kind/inner/file": "inside\n",
    "/boot/initrd.img-6.1": b"\x1f\x8b" + b"x" * 50_000,
    "/var/lib/dpkg/status": "",
}


@dataclass
class Change:
    """A tree as it is, the tree with the content that it shall have, and what differs."""

    tree: Tree
    source: Tree
    records: list[Record]
    manifest: Manifest

    def commit(self) -> None:
        old = read_manifest(self.tree)
        journal.commit(self.tree, self.records, lambda path, _: self.source.open_file(path), old, self.manifest)

    def recover(self) -> None:
        interrupted = journal.read_journal(self.tree)
        if interrupted:
            journal.check_unchanged(self.tree, interrupted)
            journal.recover(self.tree, interrupted)
        journal.sweep(self.tree)

    def undo(self) -> list[str]:
        manifest = read_manifest(self.tree)
        assert manifest
        return journal.undo(self.tree, manifest)


def _records(tree: Tree, source: Tree) -> list[Record]:
    paths = {"/" + path for root in (tree.path, source.path) for path in snapshot(root)}
    records = []
    for path in sorted(paths):
        before, after = look(tree, path), look(source, path)
        if (before and not before.same(after)) or (after and not after.same(before)):
            records.append(Record(path, RENDERED, before, after))
    return records


@pytest.fixture
def change(tmp_path: Path) -> Iterator[Change]:
    make_fake_tree(tmp_path / "root", BEFORE)
    os.chown(tmp_path / "root/etc/motd", 12, 34)
    (tmp_path / "root/etc/motd").chmod(0o4750)
    os.setxattr(tmp_path / "root/etc/motd", "user.note", b"\0kept")
    os.utime(tmp_path / "root/etc/motd", ns=(1, 1_400_000_000_000_000_007))
    make_fake_tree(tmp_path / "source", AFTER)
    with Tree(tmp_path / "root") as tree, Tree(tmp_path / "source") as source:
        records = _records(tree, source)
        yield Change(tree, source, records, Manifest("0", ("6.1",), {record.path: record for record in records}, {}, 0))


def test_commit_brings_every_path_into_its_state_after(change: Change) -> None:
    change.commit()
    for record in change.records:
        now = look(change.tree, record.path)
        assert now == record.after or (now and now.same(record.after))
    manifest = read_manifest(change.tree.path)
    assert manifest
    assert drift(change.tree, manifest) == []
    assert not change.tree.exists(journal.JOURNAL)
    for path, mode in {"/var/lib/cowroot": 0o755, MANIFEST: 0o644, ORIGINALS: 0o700}.items():
        assert stat.S_IMODE(change.tree.lstat(path).st_mode) == mode


def test_undo_restores_every_byte_mode_owner_attribute_and_time(change: Change) -> None:
    before = snapshot(change.tree.path)
    change.commit()
    assert change.undo() == []
    assert snapshot(change.tree.path) == before


def test_kill_at_every_step_of_a_commit_leaves_something_that_recovers(change: Change, tmp_path: Path) -> None:
    before = snapshot(change.tree.path)
    step = 0
    while not run_killed(step, change.commit):
        manifest, interrupted = read_manifest(change.tree), journal.read_journal(change.tree)
        change.recover()
        if manifest and not interrupted:  # killed when all had been done but the tidying up
            assert drift(change.tree, manifest) == []
            change.undo()
        assert snapshot(change.tree.path) == before, f"killed at step {step}"
        step += 1
    assert step > 80


def test_kill_at_every_step_of_an_undo_is_completed_later(change: Change, tmp_path: Path) -> None:
    before = snapshot(change.tree.path)
    step = 0
    while True:
        change.commit()
        finished = run_killed(step, change.undo)
        if not finished and read_manifest(change.tree) and not journal.read_journal(change.tree):
            change.undo()  # killed before it had begun
        change.recover()
        assert snapshot(change.tree.path) == before, f"killed at step {step}"
        if finished:
            break
        step += 1
    assert step > 40


def test_kill_during_the_recovery_itself_is_recovered_from(change: Change) -> None:
    before = snapshot(change.tree.path)
    steps = 0
    while not run_killed(steps, change.commit):
        change.recover()
        steps += 1
    change.undo()
    # Most of a commit done, then each step of going back interrupted in turn.
    for step in range(200):
        run_killed(steps - 12, change.commit)
        finished = run_killed(step, change.recover)
        change.recover()
        assert snapshot(change.tree.path) == before, f"killed at step {step}"
        if finished:
            break
    else:
        pytest.fail("the recovery never came to an end")


def test_kill_at_every_step_of_a_second_installation_goes_back_to_the_first(change: Change, tmp_path: Path) -> None:
    before = snapshot(change.tree.path)
    change.commit()
    with Tree(make_fake_tree(tmp_path / "newer", {**AFTER, "/etc/motd": "newer\n", "/etc/extra": "1"})) as newer:
        records = [Record(path, RENDERED, look(change.tree, path), look(newer, path)) for path in ("/etc/extra", "/etc/motd")]
        merged = {record.path: record for record in [*change.records, *records]}
        merged["/etc/motd"] = Record("/etc/motd", RENDERED, change.manifest.records["/etc/motd"].before, records[1].after)
        second = Change(change.tree, newer, records, Manifest("1", ("6.1",), merged, {}, 0))
        step, versions = 0, set()
        while not run_killed(step, second.commit):
            change.recover()
            manifest = read_manifest(change.tree)
            assert manifest
            assert drift(change.tree, manifest) == [], f"killed at step {step}"
            versions.add(manifest.version)
            if manifest.version == "1":  # killed when all but the tidying up was done
                change.undo()
                change.commit()
            step += 1
        assert versions == {"0", "1"}
    change.undo()
    assert snapshot(change.tree.path) == before


def test_a_failure_in_the_middle_rolls_back_at_once(change: Change, tmp_path: Path) -> None:
    before = snapshot(change.tree.path)
    (tmp_path / "source/usr/share/kind/inner/file").unlink()
    with pytest.raises(FileNotFoundError):
        change.commit()
    assert snapshot(change.tree.path) == before


def test_files_changed_since_they_were_looked_at_are_not_overwritten(change: Change) -> None:
    (change.tree.path / "etc/motd").write_text("written by somebody\n")
    before = snapshot(change.tree.path)
    with pytest.raises(ConflictError, match="/etc/motd was changed just now"):
        change.commit()
    assert snapshot(change.tree.path) == before


def test_files_changed_after_an_interruption_are_not_overwritten(change: Change) -> None:
    assert not run_killed(70, change.commit)
    assert journal.read_journal(change.tree)
    (change.tree.path / "etc/motd").write_text("written by somebody\n")
    with pytest.raises(ConflictError, match="/etc/motd"):
        change.recover()
    assert (change.tree.path / "etc/motd").read_text() == "written by somebody\n"


def test_what_others_put_into_our_directories_stays(change: Change) -> None:
    change.commit()
    (change.tree.path / "etc/cowroot/notes").write_text("mine")
    assert change.undo() == ["/etc/cowroot"]
    assert (change.tree.path / "etc/cowroot/notes").read_text() == "mine"
    assert not (change.tree.path / "etc/cowroot/cowroot.yaml").exists()


def test_a_lost_original_is_an_error_that_says_so(change: Change) -> None:
    change.commit()
    shutil.rmtree(change.tree.path / "var/lib/cowroot/originals")
    with pytest.raises(CowrootError, match=r"originals/.* is missing"):
        change.undo()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 99}', '{"format": 1, "records": [{}]}'])
def test_a_damaged_manifest_is_an_error_that_says_so(change: Change, text: str) -> None:
    change.commit()
    (change.tree.path / "var/lib/cowroot/manifest.json").write_text(text)
    with pytest.raises(CowrootError, match=r"manifest\.json"):
        read_manifest(change.tree)


@pytest.mark.parametrize(
    "damage",
    [
        {"uid": "root"},
        {"uid": 1 << 70},
        {"mode": "-1"},
        {"mode": "777777"},
        {"mode": 420},
        {"kind": "device"},
        {"mtime_ns": None},
        {"sha256": "../../../etc/shadow"},
        {"sha256": ""},
        {"xattrs": []},
        {"xattrs": {"user.x": "no base 64"}},
    ],
)
def test_a_manifest_is_as_little_trusted_as_the_image_that_it_came_with(change: Change, damage: dict[str, object]) -> None:
    change.commit()
    place = change.tree.path / MANIFEST.lstrip("/")
    data = json.loads(place.read_text())
    record = next(record for record in data["records"] if record["path"] == "/etc/motd")
    record["after"].update(damage)
    place.write_text(json.dumps(data))
    with pytest.raises(CowrootError, match="is damaged"):
        read_manifest(change.tree)
