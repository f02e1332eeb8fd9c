"""Real systemd-boot and real extlinux on small disks: what they boot unattended and when chosen, and what they write to the disk."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cowroot.boot.bls import PLUGIN, render_bls
from cowroot.boot.extlinux import SCRIPT, render_extlinux
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.config import Config
from tests.t6_boot import grub_disk, menu_disk
from tests.t6_boot.machine import PATIENCE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="extlinux is installed into a mounted file system")

DOWN = "\x1b[B"


def _entry(release: str, *, key: str = "", options: str = "root=x") -> bytes:
    return f"title Debian {release}\n{key}options {options} {release}\nlinux /vmlinuz\n".encode()


def _with_plugin(place: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """What the plugin of kernel-install makes of an EFI system partition with these files."""
    top = place / "esp"
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    (plugin,) = [each for each in render_bls(Config.default(), Target(bls="/efi")) if each.path == PLUGIN]
    assert isinstance(plugin, RenderedFile)
    (place / "plugin").write_bytes(plugin.content)
    environment = {"PATH": "/usr/bin:/bin", "KERNEL_INSTALL_BOOT_ROOT": str(top)}
    subprocess.run(["sh", str(place / "plugin"), "add"], env=environment, check=True)
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


class TestSystemdBoot:
    def test_without_cowroot_counted_boots_end_at_the_entry_that_is_not_counted(self, tmp_path: Path) -> None:
        """So an entry for the real root must not stand beside counted ones."""
        files = {
            "vmlinuz": menu_disk.efi_kernel(),
            "loader/loader.conf": b"timeout 0\n",
            "loader/entries/a-6.1+0-3.conf": _entry("6.1", key="sort-key debian\n"),
            "loader/entries/a-0-cowrootoff.conf": _entry("off", key="sort-key debian-cowroot-off\n", options="cowroot=off"),
        }
        disk = menu_disk.make_efi_disk(tmp_path / "disk.img", files)
        with menu_disk.boot(disk, writable=False, efi=True) as console:
            assert console.booted().startswith("cowroot=off")

    def test_with_it_the_newest_kernel_is_booted_and_the_disk_stays_as_it_is(self, tmp_path: Path) -> None:
        """Without a sort-key, as Fedora's and older entries are, and from names that count boots, one of them down to nothing."""
        files = {
            "vmlinuz": menu_disk.efi_kernel(),
            "loader/loader.conf": b"timeout 0\n",
            "loader/random-seed": bytes(range(32)),
            "loader/entries/c1-6.9.0-amd64+3.conf": _entry("6.9"),
            "loader/entries/c1-6.12.1+deb13-amd64+0-3.conf": _entry("6.12"),
        }
        disk = menu_disk.make_efi_disk(tmp_path / "disk.img", _with_plugin(tmp_path, files))
        assert "c1-0-cowrootoff.conf" in menu_disk.entries_of(disk)
        before = grub_disk.sha256(disk)
        with menu_disk.boot(disk, writable=True, efi=True) as console:
            assert console.booted() == "root=x 6.12"
        assert grub_disk.sha256(disk) == before

    def test_the_entry_of_the_real_root_is_the_next_one(self, tmp_path: Path) -> None:
        files = {
            "vmlinuz": menu_disk.efi_kernel(),
            "loader/loader.conf": b"timeout 60\n",
            "loader/entries/c1-6.12.1-amd64.conf": _entry("6.12", key="sort-key debian\n"),
        }
        disk = menu_disk.make_efi_disk(tmp_path / "disk.img", _with_plugin(tmp_path, files))
        with menu_disk.boot(disk, writable=False, efi=True) as console:
            console.see("The real root, without cowroot")
            console.send(DOWN)
            console.send("\r")
            assert console.booted() == "root=x 6.12 cowroot=off"


MENU = """\
serial 0 115200
default l0
{more}
label l0
	menu label Debian
	linux /boot/vmlinuz
	append root=x ro
label l0r
	linux /boot/vmlinuz
	append root=x single
"""


def _extlinux_disk(place: Path, more: str, *, cowroot: bool = True) -> Path:
    menu = place / "extlinux.conf"
    menu.write_text(MENU.format(more=more))
    (script,) = [each for each in render_extlinux(Config.default(), Target(extlinux=str(menu))) if each.path == SCRIPT]
    assert isinstance(script, RenderedFile)
    (place / "script").write_bytes(script.content)
    subprocess.run(["sh", str(place / "script")], check=True)
    text = menu.read_text() if cowroot else menu.read_text().replace("menu nosave", "")
    return menu_disk.make_extlinux_disk(
        place / "disk.img", {"boot/vmlinuz": menu_disk.bios_kernel(), "boot/extlinux/extlinux.conf": text.encode()}
    )


class TestExtlinux:
    def test_the_default_is_booted_and_the_disk_stays_as_it_is(self, tmp_path: Path) -> None:
        disk = _extlinux_disk(tmp_path, "prompt 0\ntimeout 1")
        before = grub_disk.sha256(disk)
        with menu_disk.boot(disk, writable=True) as console:
            assert console.booted() == "BOOT_IMAGE=/boot/vmlinuz root=x ro"
        assert grub_disk.sha256(disk) == before

    def test_the_entry_of_the_real_root(self, tmp_path: Path) -> None:
        disk = _extlinux_disk(tmp_path, "prompt 1\ntimeout 600")
        with menu_disk.boot(disk, writable=False) as console:
            console.see("boot:")
            console.send("cowroot-off\r")
            assert console.booted() == "BOOT_IMAGE=/boot/vmlinuz root=x ro cowroot=off"

    @pytest.mark.parametrize("cowroot", [True, False], ids=["with-nosave", "without"])
    def test_it_is_not_remembered_as_the_last_choice(self, tmp_path: Path, cowroot: bool) -> None:
        disk = _extlinux_disk(tmp_path, f"ui menu.c32\nmenu save\ntimeout {int(20 * PATIENCE)}", cowroot=cowroot)
        with menu_disk.boot(disk, writable=True) as console:
            console.see("The real root, without cowroot")
            console.send(DOWN * 2)
            console.send("\r")
            assert console.booted().endswith("cowroot=off")
        with menu_disk.boot(disk, writable=True) as console:
            assert console.booted().endswith("cowroot=off") is not cowroot
