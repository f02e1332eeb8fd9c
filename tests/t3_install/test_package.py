"""A target that has cowroot as a Debian package: what dpkg brought stays dpkg's. And what the package's own scripts do."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from cowroot import __version__
from cowroot.errors import ConflictError
from cowroot.install.installation import install
from cowroot.install.manifest import MANIFEST, drift, read_manifest
from cowroot.install.payload import HOME, own_code, programs
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from tests.t3_install.debian import make_debian
from tests.t3_install.fake import snapshot

TOP = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="installing mounts an overlay, which needs root")
LIST = "var/lib/dpkg/info/cowroot.list"


def bring_package(root: Path) -> None:
    """Do as dpkg does: put the package's files there, whatever is there, and write the list of them."""
    paths = {"/."}
    for file in (*own_code(HOME), *programs("From the Debian package cowroot.")):
        place = root / file.path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content)
        place.chmod(file.mode)
        paths |= {file.path, *map(str, Path(file.path).parents)} - {"/"}
    link = root / HOME.lstrip("/") / "fuse.py"
    link.unlink(missing_ok=True)
    link.symlink_to("../python3/dist-packages/fusepy.py")
    (root / LIST).parent.mkdir(parents=True, exist_ok=True)
    (root / LIST).write_text("".join(f"{path}\n" for path in sorted({*paths, f"{HOME}/fuse.py"})))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_debian(tmp_path / "root")


def put_in(root: Path) -> str:
    return install(Choice(root=root), None, lambda _: None).done


@needs_root
def test_no_payload_goes_in_beside_the_package(root: Path) -> None:
    bring_package(root)
    before = snapshot(root)
    assert put_in(root) == "installed"
    manifest = read_manifest(root)
    assert manifest
    assert {record.origin for record in manifest.records.values()} == {"rendered", "generated"}
    assert sorted(os.listdir(root / HOME.lstrip("/"))) == ["cowroot", "fuse.py"]
    assert put_in(root) == "unchanged"
    assert uninstall(Choice(root=root), lambda _: None).done == "uninstalled"
    assert snapshot(root) == before


@needs_root
def test_a_package_takes_the_place_of_the_payload(root: Path) -> None:
    put_in(root)
    bring_package(root)
    assert put_in(root) == "installed"
    assert not (root / HOME.lstrip("/") / "click/__init__.py").exists()
    assert (root / HOME.lstrip("/") / "fuse.py").is_symlink()
    manifest = read_manifest(root)
    assert manifest
    assert drift(root, manifest) == []
    assert not [path for path in manifest.records if path.startswith((f"{HOME}/cowroot", "/usr/bin/cowroot"))]
    command = (root / "usr/bin/cowroot").read_bytes()
    uninstall(Choice(root=root), lambda _: None)
    assert (root / "usr/bin/cowroot").read_bytes() == command
    assert (root / HOME.lstrip("/") / "cowroot/fuse/entry.py").is_file()
    assert not (root / "etc/initramfs-tools/hooks/cowroot").exists()


@needs_root
def test_an_upgrade_of_the_package_brings_initrds_and_record_up_to_date(root: Path) -> None:
    bring_package(root)
    put_in(root)
    record = root / MANIFEST.lstrip("/")
    record.write_text(record.read_text().replace(f'"version": "{__version__}"', '"version": "0.0.1"'))
    assert put_in(root) == "installed"
    manifest = read_manifest(root)
    assert manifest
    assert manifest.version == __version__
    assert put_in(root) == "unchanged"


@needs_root
def test_another_version_as_a_package_is_refused(root: Path) -> None:
    bring_package(root)
    init = root / HOME.lstrip("/") / "cowroot/__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{__version__}"', '__version__ = "0.0.1"'))
    before = snapshot(root)
    with pytest.raises(ConflictError, match=rf"has cowroot 0\.0\.1 as a Debian package, and this is {re.escape(__version__)}"):
        put_in(root)
    assert snapshot(root) == before


@needs_root
def test_what_a_removed_package_leaves_is_no_package(root: Path) -> None:
    (root / LIST).parent.mkdir(parents=True, exist_ok=True)
    (root / LIST).write_text("/.\n/etc\n")
    put_in(root)
    assert (root / HOME.lstrip("/") / "cowroot/fuse/entry.py").is_file()


def script(name: str, argument: str, place: Path, *, installed: bool, root_is: str = "ext4", code: int = 0) -> tuple[int, str]:
    """Run a maintainer script on a system that boots copy-on-write or does not. Its exit code and all that it says."""
    place.mkdir()
    for program, text in (("findmnt", f"echo {root_is}"), ("cowroot", f'echo "cowroot $*"; exit {code}')):
        (place / program).write_text(f"#!/bin/sh\n{text}\n")
        (place / program).chmod(0o755)
    if installed:
        (place / "manifest.json").touch()
    text = (TOP / "debian" / f"cowroot.{name}").read_text().replace("/var/lib/cowroot", str(place))
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
    command = ["sh", "-c", text, name, argument]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    return run.returncode, run.stdout


def test_an_upgrade_installs_again_where_it_was_installed(tmp_path: Path) -> None:
    assert script("postinst", "configure", tmp_path / "1", installed=True) == (0, "cowroot install\n")
    assert script("postinst", "triggered", tmp_path / "2", installed=True) == (0, "cowroot install\n")
    assert script("postinst", "configure", tmp_path / "3", installed=False) == (0, "")
    assert script("postinst", "abort-upgrade", tmp_path / "4", installed=True) == (0, "")


@pytest.mark.parametrize("kind", ["fuse.cowroot", "overlay"])
def test_an_upgrade_in_a_union_says_that_the_disk_has_it_not(kind: str, tmp_path: Path) -> None:
    code, said = script("postinst", "configure", tmp_path / "1", installed=True, root_is=kind)
    assert code == 0
    assert "cowroot chroot apt-get install cowroot" in said
    assert "cowroot install" not in said
    assert script("postinst", "triggered", tmp_path / "2", installed=True, root_is=kind) == (0, "")


def test_an_upgrade_that_cannot_be_completed_fails_and_says_so(tmp_path: Path) -> None:
    code, said = script("postinst", "configure", tmp_path / "1", installed=True, code=5)
    assert code == 1
    assert "dpkg --configure cowroot" in said


def test_the_package_stays_as_long_as_the_boot_needs_it(tmp_path: Path) -> None:
    code, said = script("prerm", "remove", tmp_path / "1", installed=True)
    assert code == 1
    assert "cowroot uninstall" in said
    assert script("prerm", "remove", tmp_path / "2", installed=False) == (0, "")
    assert script("prerm", "upgrade", tmp_path / "3", installed=True) == (0, "")
