"""Real GRUB on a real (small) disk: what it does at its menu and to the disk, without cowroot's files and with them.

Each menu is written by the real grub-mkconfig, nearly always in Ubuntu's form: that is the one that records failures. What GRUB does
without the files is tested too, since a test that the disk stays as it is proves something only where it otherwise would not.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cowroot.boot.grub import render_grub
from cowroot.boot.rendered import Rendered
from cowroot.boot.target import Target
from cowroot.config import Config
from tests.t2_render import grub_mkconfig
from tests.t6_boot import grub_disk

SERIAL = 'GRUB_TERMINAL=serial\nGRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"\n'
# What Ubuntu's installer writes into /etc/default/grub.
UBUNTU = SERIAL + "GRUB_TIMEOUT_STYLE=hidden\nGRUB_TIMEOUT=0\n"
REAL_ROOT = "The real root, without cowroot"
COUNTDOWN = "executed automatically in"

FAILED = grub_disk.environment_block("recordfail=1")
CLEAN = grub_disk.environment_block()
EMPTY = b""


def installed(target: Target | None = None, **settings: object) -> tuple[Rendered, ...]:
    """What cowroot puts into an image, with some settings of `grub` other than their defaults."""
    config = Config.default()
    config = dataclasses.replace(config, grub=dataclasses.replace(config.grub, **settings))  # type: ignore[arg-type]
    return render_grub(config, target or Target())


# How a menu of an Ubuntu release began, and what stood at the begin of each entry: 9.10 said in every entry what 10.04 to 11.10 had a
# function for, and both waited for ever after a failure, with no variable to change that.
_ENVIRONMENT = """\
if [ -s $prefix/grubenv ]; then
  have_grubenv=true
  load_env
fi
set default="0"
"""
_TERMINAL = """\
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
if [ ${recordfail} = 1 ]; then
  set timeout=-1
else
  set timeout=0
fi
"""
OLDER = {
    "9.10": (
        _ENVIRONMENT + _TERMINAL,
        """\
  recordfail=1
  if [ -n ${have_grubenv} ]; then save_env recordfail; fi
""",
    ),
    "10.04": (
        _ENVIRONMENT
        + """\
function recordfail {
  set recordfail=1
  if [ -n ${have_grubenv} ]; then if [ -z ${boot_once} ]; then save_env recordfail; fi; fi
}
"""
        + _TERMINAL,
        "  recordfail\n",
    ),
}


def older_menu(menu: str, release: str) -> str:
    """Return a menu as that release would have written it, with what `menu` has of cowroot's late script at its end."""
    header, first = OLDER[release]
    entry = f"menuentry 'Ubuntu' {{\n{first}  linux /{grub_disk.KERNEL} ro quiet\n  initrd /{grub_disk.INITRD}\n}}\n"
    return header + entry + menu.partition("### BEGIN /etc/grub.d/99_cowroot ###")[2]


def make(
    place: Path, *, settings: str, rendered: tuple[Rendered, ...] = (), grubenv: bytes | None = None, form: str = "ubuntu", older: str = ""
) -> Path:
    """Have the menu generated, or written as an `older` release of Ubuntu would have, and return a disk with it."""
    root = place / "root"
    grub_mkconfig.lay_out(root, form=form, settings=settings, rendered=rendered)
    grub_disk.add_kernel(root)
    grub_mkconfig.generate(root)
    if older:
        menu = root / "boot/grub/grub.cfg"
        menu.write_text(older_menu(menu.read_text(), older))
    return grub_disk.make_disk(root, place / "disk.img", grubenv)


def boot_unattended(disk: Path, *, writable: bool) -> tuple[str, str]:
    """Boot without touching a key; return the kernel's command line and what the console showed before."""
    with grub_disk.boot(disk, writable=writable) as console:
        line = console.booted()
        return line, console.seen


class TestWithoutCowroot:
    def test_a_recorded_failure_waits_at_the_menu(self, tmp_path: Path) -> None:
        disk = make(tmp_path, settings=UBUNTU, grubenv=FAILED)
        with grub_disk.boot(disk, writable=False) as console:
            console.see(f"{COUNTDOWN} (30|29|28)s")
            console.see(f"{COUNTDOWN} 2[0-4]s")
            assert grub_disk.BOOTED not in console.seen

    def test_a_recorded_failure_may_wait_for_ever(self, tmp_path: Path) -> None:
        disk = make(tmp_path, settings=UBUNTU + "GRUB_RECORDFAIL_TIMEOUT=-1\n", grubenv=FAILED)
        with grub_disk.boot(disk, writable=False) as console:
            console.see(grub_disk.MENU)
            assert console.silent(f"{COUNTDOWN}|{grub_disk.BOOTED}", seconds=8)
            console.send("\r")
            console.booted()

    def test_a_disk_that_cannot_be_written_stops_the_boot(self, tmp_path: Path) -> None:
        disk = make(tmp_path, settings=UBUNTU, grubenv=CLEAN)
        with grub_disk.boot(disk, writable=False) as console:
            console.see("failure writing sector")
            console.see("Press any key")
            console.send(" ")
            console.booted()

    def test_a_disk_that_can_be_written_is(self, tmp_path: Path) -> None:
        disk = make(tmp_path, settings=UBUNTU, grubenv=CLEAN)
        before = grub_disk.sha256(disk)
        boot_unattended(disk, writable=True)
        assert grub_disk.sha256(disk) != before
        assert grub_disk.grubenv_of(disk) == FAILED

    def test_debian_writes_a_saved_default(self, tmp_path: Path) -> None:
        settings = SERIAL + "GRUB_TIMEOUT=0\nGRUB_DEFAULT=saved\nGRUB_SAVEDEFAULT=true\n"
        disk = make(tmp_path, settings=settings, grubenv=CLEAN, form="debian")
        boot_unattended(disk, writable=True)
        assert b"saved_entry=" in grub_disk.grubenv_of(disk)


class TestWithCowroot:
    # The environment block is empty once cowroot is installed (None takes the rendered one). The others are there too: somebody may
    # have written it anew, and the late script alone must then do.
    @pytest.mark.parametrize("writable", [False, True], ids=["read-only", "writable"])
    @pytest.mark.parametrize("grubenv", [None, FAILED, CLEAN], ids=["as-installed", "failed", "clean"])
    def test_the_boot_goes_on_at_once_and_the_disk_stays_as_it_is(self, tmp_path: Path, grubenv: bytes | None, writable: bool) -> None:
        disk = make(tmp_path, settings=UBUNTU, rendered=installed(), grubenv=grubenv)
        before = grub_disk.sha256(disk)
        line, console = boot_unattended(disk, writable=writable)
        assert f"BOOT_IMAGE=/{grub_disk.KERNEL}" in line
        assert "cowroot=off" not in line
        assert grub_disk.MENU not in console
        assert "error" not in console
        assert "Press any key" not in console
        assert grub_disk.sha256(disk) == before

    def test_an_empty_environment_block_alone_keeps_grub_from_writing(self, tmp_path: Path) -> None:
        disk = make(tmp_path, settings=UBUNTU, grubenv=EMPTY)
        before = grub_disk.sha256(disk)
        boot_unattended(disk, writable=True)
        assert grub_disk.sha256(disk) == before

    def test_debian_writes_no_saved_default(self, tmp_path: Path) -> None:
        settings = SERIAL + "GRUB_TIMEOUT=0\nGRUB_DEFAULT=saved\nGRUB_SAVEDEFAULT=true\n"
        disk = make(tmp_path, settings=settings, rendered=installed(), grubenv=CLEAN, form="debian")
        before = grub_disk.sha256(disk)
        line, _ = boot_unattended(disk, writable=True)
        assert "cowroot=off" not in line
        assert grub_disk.sha256(disk) == before

    def test_the_late_script_overrules_a_header_that_waits_for_ever(self, tmp_path: Path) -> None:
        """As where /etc/default/grub.d is not read. The configured seconds count down, then the menu is there to choose from."""
        rendered = installed(Target(grub_default_d=False), timeout=20)
        disk = make(tmp_path, settings=UBUNTU + "GRUB_RECORDFAIL_TIMEOUT=-1\n", rendered=rendered, grubenv=FAILED)
        before = grub_disk.sha256(disk)
        with grub_disk.boot(disk, writable=True) as console:
            console.see(f"{COUNTDOWN} (20|19|18)s")
            console.see(f"{COUNTDOWN} 1[0-7]s")
            console.choose_last(REAL_ROOT)
            assert console.booted().endswith("cowroot=off")
        assert grub_disk.sha256(disk) == before


class TestOlderHeaders:
    """Menus in the manner of releases whose scripts are no longer to be had, with the end that today's grub-mkconfig takes from cowroot."""

    @pytest.mark.parametrize("release", OLDER)
    def test_without_cowroot_a_recorded_failure_waits_for_ever(self, tmp_path: Path, release: str) -> None:
        disk = make(tmp_path, settings=UBUNTU, grubenv=FAILED, older=release)
        with grub_disk.boot(disk, writable=False) as console:
            console.see(grub_disk.MENU)
            assert console.silent(f"{COUNTDOWN}|{grub_disk.BOOTED}", seconds=8)

    @pytest.mark.parametrize("release", OLDER)
    @pytest.mark.parametrize("grubenv", [None, FAILED, CLEAN], ids=["as-installed", "failed", "clean"])
    def test_the_boot_goes_on_at_once_and_the_disk_stays_as_it_is(self, tmp_path: Path, release: str, grubenv: bytes | None) -> None:
        rendered = installed(Target(init="upstart", grub_default_d=False))
        disk = make(tmp_path, settings=UBUNTU, rendered=rendered, grubenv=grubenv, older=release)
        before = grub_disk.sha256(disk)
        line, console = boot_unattended(disk, writable=True)
        assert line.endswith("ro quiet")
        assert grub_disk.MENU not in console
        assert "error" not in console
        assert grub_disk.sha256(disk) == before


class TestRealRoot:
    @pytest.mark.parametrize("form", grub_mkconfig.FORMS)
    def test_esc_opens_a_menu_without_timeout_and_its_last_entry_boots_the_real_root(self, tmp_path: Path, form: str) -> None:
        disk = make(tmp_path, settings=SERIAL + "GRUB_TIMEOUT=0\n", rendered=installed(), form=form)
        before = grub_disk.sha256(disk)
        with grub_disk.boot(disk, writable=True) as console:
            console.open_menu()
            console.choose_last(REAL_ROOT)
            assert console.booted().endswith("cowroot=off")
        assert grub_disk.sha256(disk) == before

    def test_the_next_boot_is_an_ordinary_one(self, tmp_path: Path) -> None:
        disk = make(tmp_path, settings=SERIAL + "GRUB_TIMEOUT=0\nGRUB_DEFAULT=saved\nGRUB_SAVEDEFAULT=true\n", rendered=installed())
        with grub_disk.boot(disk, writable=True) as console:
            console.open_menu()
            console.choose_last(REAL_ROOT)
            assert console.booted().endswith("cowroot=off")
        line, _ = boot_unattended(disk, writable=True)
        assert "cowroot=off" not in line
