"""`cowroot render`: shows what an installation would add, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowroot.cli.main import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As much of a Debian as rendering asks for."""
    root = tmp_path / "root"
    files = {
        "etc/os-release": "ID=debian\nVERSION_ID=13\n",
        "etc/fstab": "UUID=1234 / ext4 errors=remount-ro 0 1\n",
        "usr/sbin/update-initramfs": "",
        "usr/lib/systemd/systemd": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "usr/sbin/init").symlink_to("/lib/systemd/systemd")
    (root / "sbin").symlink_to("usr/sbin")
    (root / "lib").symlink_to("usr/lib")
    return root


def _tree(root: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in root.rglob("*"))


def test_the_list_has_each_file_its_mode_and_its_purpose(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _tree(root)
    assert main(["render", "--root", str(root)]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["0755", "/etc/initramfs-tools/hooks/cowroot"] in [row[:2] for row in rows]
    assert all(len(row) == 3 for row in rows)
    assert _tree(root) == before


def test_one_file_is_printed_as_it_would_be(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/etc/initramfs-tools/hooks/cowroot"
    assert main(["render", "--root", str(root), "--output", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["render", "--root", str(root), path]) == 0
    out = capsys.readouterr().out
    assert out.startswith("#!/bin/sh\n")
    assert (tmp_path / "out" / path[1:]).read_text() == out
    assert (tmp_path / "out" / path[1:]).stat().st_mode & 0o7777 == 0o755


def test_a_path_that_nothing_is_rendered_for(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "--root", str(root), "/etc/initramfs-tools/hooks/cowrot"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "cowroot: error: /etc/initramfs-tools/hooks/cowrot is not among the rendered files",
        "hint: did you mean /etc/initramfs-tools/hooks/cowroot?",
    ]


def test_the_settings_are_the_targets_own_unless_others_are_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = root / "etc/cowroot/cowroot.yaml"
    own.parent.mkdir()
    own.write_text("engine: steam\n")
    assert main(["render", "--root", str(root)]) == 2
    assert capsys.readouterr().err.startswith(f"cowroot: error: {own}:1: engine is 'steam'\n")
    other = tmp_path / "other.yaml"
    other.write_text("engine: fusepy\n")
    assert main(["render", "--root", str(root), "--config", str(other)]) == 0


def test_output_goes_nowhere_where_something_is(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert main(["render", "--root", str(root), "--output", str(tmp_path)]) == 5
    assert capsys.readouterr().err.startswith(f"cowroot: error: {tmp_path}: exists and is not an empty directory\n")


def test_targets_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "--root", str(tmp_path / "nope")]) == 3
    assert capsys.readouterr().err.startswith(f"cowroot: error: {tmp_path}/nope: No such file or directory\n")
    assert main(["render", "--root", str(tmp_path)]) == 4
    assert "initramfs-tools" in capsys.readouterr().err
