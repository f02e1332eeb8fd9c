"""`cowroot status --last-boot` over what boots have left beside an upper."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cowroot.cli import status as cli
from cowroot.errors import CowrootError
from cowroot.lastboot import LastBoot, last_boot


def lay_out(root: Path, stages: str, *, rung: str = "configured", device: str = "/dev/sdb1", reasons: tuple[str, ...] = ()) -> Path:
    """A running system whose upper's disk has the record of a boot before."""
    boots = root / "run/cowroot/upper/cowroot/boots"
    boots.mkdir(parents=True)
    here = {"upper_device": device, "upper_directory": "/run/cowroot/upper/cowroot"}
    (root / "run/cowroot/boot.json").write_text(json.dumps(here))
    (boots / "last.json").write_text(json.dumps({"boot_id": "1234", "rung": rung, "reasons": reasons}))
    os.utime(boots / "last.json", (1000, 1000))
    (boots / "last.stages").write_text(stages)
    return root


def ask(root: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Result:
    monkeypatch.setattr(cli, "last_boot", lambda: last_boot(root))
    return CliRunner().invoke(cli.command, ["--last-boot", *options])


@pytest.mark.parametrize(
    ("stages", "said", "code"),
    [
        ("initrd 2.5\nup 10.1\nshutdown 60.0\nclean\n", "ended cleanly", 0),
        ("initrd 2.5\nup 10.1\nshutdown 60.0\nunclean\n", "began to shut down, but did not come to its end", 12),
        ("initrd 2.5\nup 10.1\nunclean\n", "was never shut down: it lost its power, hung or crashed", 12),
        ("initrd 2.5\nunknown\n", "how the boot before this one ended is not known", 0),
        ("", "how the boot before this one ended is not known", 0),
        ("init\0rd 2.5\nup x", "how the boot before this one ended is not known", 0),
    ],
)
def test_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: str, said: str, code: int) -> None:
    result = ask(lay_out(tmp_path, stages), monkeypatch)
    assert said in result.output.splitlines()[0]
    assert result.exit_code == code
    assert ("the system was up, 10 s after the kernel started" in result.output) == ("up 10.1" in stages)


def test_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay_out(tmp_path, "initrd 2.5\nunclean\n", rung="tmpfs", reasons=("no disk",))
    (root / "sys/fs/pstore").mkdir(parents=True)
    (root / "sys/fs/pstore/dmesg-efi-1").touch()
    result = ask(root, monkeypatch, "--json")
    assert json.loads(result.output) == {
        "ended": "unclean", "boot_id": "1234", "began": 1000.0, "rung": "tmpfs", "reasons": ["no disk"], "stages": {"initrd": 2.5},
        "pstore": ["dmesg-efi-1"],
    }  # fmt: skip
    assert result.exit_code == 12
    assert "! no disk" in ask(root, monkeypatch).output
    assert "dmesg-efi-1 in /sys/fs/pstore" in ask(root, monkeypatch).output


def test_a_clean_end_is_not_all(tmp_path: Path) -> None:
    whole = LastBoot("clean", "", 0, "configured", [], {})
    assert whole.is_well
    whole.rung = "fresh"
    assert not whole.is_well


def test_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(CowrootError, match="this boot has no record"):
        last_boot(tmp_path)
    root = lay_out(tmp_path, "", device="tmpfs")
    with pytest.raises(CowrootError, match="the upper is in memory") as caught:
        last_boot(root)
    assert "pstore" in caught.value.hint
    (root / "run/cowroot/upper/cowroot").rename(root / "run/cowroot/cowroot")
    (root / "run/cowroot/box").mkdir()
    (root / "run/cowroot/cowroot").rename(root / "run/cowroot/box/cowroot")
    assert last_boot(root).boot_id == "1234"
    root = lay_out(tmp_path / "first", "")
    (root / "run/cowroot/upper/cowroot/boots/last.json").write_text("{")
    with pytest.raises(CowrootError, match="cannot be read"):
        last_boot(root)
    (root / "run/cowroot/upper/cowroot/boots/last.json").unlink()
    with pytest.raises(CowrootError, match="no boot before this one"):
        last_boot(root)


def test_it_is_about_the_root(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.command, ["--last-boot", "/mnt"])
    assert result.exit_code == 2
