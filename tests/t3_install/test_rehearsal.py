"""An image is changed only if its copy boots: with a stand-in for QEMU, which says on the console what a test lays out."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from cowroot.cli.main import main
from cowroot.errors import ConflictError, CowrootError, PreflightError
from cowroot.install import image as image_file
from cowroot.install.rehearsal import rehearse
from cowroot.install.target import Choice
from tests.t3_install.debian import RELEASE, make_debian
from tests.t3_install.disks import make_disk, mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting an image needs root")

_QEMU = """\
#!/bin/sh
echo "$@" >>"{place}/called"
for word; do
	case $last in
	-initrd) cat "$word" >"{place}/initrd" ;;
	-serial) [ ! -s "{place}/console" ] || cat "{place}/console" >"${{word#file:}}" ;;
	esac
	last=$word
done
"""


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands in for QEMU: `console` there is what a guest says, `called` how it was called, `initrd` what it was given."""
    place = tmp_path / "qemu"
    place.mkdir()
    program = place / "qemu-system-x86_64"
    program.write_text(_QEMU.format(place=place))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_disk(tmp_path / "disk.img", make_debian(tmp_path / "tree"))


def _says(qemu: Path, code: int, *problems: str) -> None:
    status = json.dumps({"exit_code": code, "problems": problems}, indent=2)
    (qemu / "console").write_text(f"[  OK  ] Up.\r\n\r\nCOWROOT-REHEARSAL-STATUS\r\n{status}\nCOWROOT-REHEARSAL-CODE {code}\r\nDown.\r\n")


def _digest(disk: Path) -> str:
    return hashlib.sha256(disk.read_bytes()).hexdigest()


def test_an_image_that_boots_as_configured_is_changed(disk: Path, qemu: Path, tmp_path: Path) -> None:
    _says(qemu, 0)
    disk.chmod(0o640)
    before = _digest(disk)
    result = rehearse(Choice(image=disk), None, lambda _: None)
    assert (result.done, "rehearsal" in result.text) == ("installed", False)
    assert _digest(disk) != before
    assert disk.stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.glob("*.rehearsal"))
    with mounted(disk, tmp_path / "mnt") as root:
        assert (root / "usr/bin/cowroot").exists()
        initrd = (root / f"boot/initrd.img-{RELEASE}").read_bytes()
    boot = (qemu / "called").read_text().splitlines()[-1]
    assert "root=LABEL=fake ro console=ttyS0,115200 panic=-1" in boot
    assert "disk.img.rehearsal,format=raw,if=virtio,snapshot=on" in boot
    given = (qemu / "initrd").read_bytes()
    assert given.startswith(b"070701")
    assert b"scripts/init-bottom/cowroot-rehearsal\0" in given
    assert given.endswith(b"TRAILER!!!\0\0\0\0" + initrd)

    (qemu / "called").unlink()
    assert rehearse(Choice(image=disk), None, lambda _: None).done == "unchanged"
    assert not (qemu / "called").exists()


def test_an_image_that_boots_otherwise_stays_as_it_is(disk: Path, qemu: Path, tmp_path: Path) -> None:
    _says(qemu, 12, "the daemon does not answer")
    before = _digest(disk)
    with pytest.raises(PreflightError, match="came up otherwise than configured; the image is as it was: the daemon does not answer"):
        rehearse(Choice(image=disk), None, lambda _: None)
    assert _digest(disk) == before
    assert not list(tmp_path.glob("*.rehearsal"))


def test_an_image_that_does_not_boot_stays_as_it_is(disk: Path, qemu: Path, tmp_path: Path) -> None:
    (qemu / "console").write_text("[    1.0] Kernel panic - not syncing: No working init found.\r\n")
    before = _digest(disk)
    with pytest.raises(PreflightError, match=r"did not come up; the image is as it was\n .*Kernel panic - not syncing: No working init"):
        rehearse(Choice(image=disk), None, lambda _: None)
    assert _digest(disk) == before
    assert not list(tmp_path.glob("*.rehearsal"))


def test_nobody_changes_the_image_meanwhile(disk: Path, qemu: Path) -> None:
    with image_file.opened(disk, writable=True), pytest.raises(ConflictError):
        rehearse(Choice(image=disk), None, lambda _: None)


@pytest.mark.parametrize("words", [["--root", "/mnt"], [], ["--image", "disk.img", "--dry-run"]])
def test_it_is_for_images(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--rehearse", *words]) == 2
    assert "--rehearse goes with --image, and without --dry-run" in capsys.readouterr().err


def test_without_qemu(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(CowrootError, match="qemu-system-x86_64 is missing on this machine"):
        rehearse(Choice(image=disk), None, lambda _: None)
