"""extlinux.conf: what an image gets for it, and what becomes of menus of u-boot-update's and of menus written by hand."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from cowroot.boot.extlinux import SCRIPT, U_BOOT_SETTINGS, render_extlinux
from cowroot.boot.rendered import RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.config import Config
from tests.t2_render.golden import hold_against
from tests.t2_render.test_bls import SHELLS

GOLDEN = Path(__file__).parent / "golden/extlinux"
U_BOOT = Target(extlinux="/boot/extlinux/extlinux.conf", u_boot_menu=True)
TITLE = "The real root, without cowroot: changes stay (cowroot=off)"
# As u-boot-update 4.2 writes it.
MENU = """\
## /boot/extlinux/extlinux.conf

default l0
menu title U-Boot menu
prompt 0
timeout 50


label l0
	menu label Debian GNU/Linux 13 (trixie) 6.12.1-amd64
	linux /boot/vmlinuz-6.12.1-amd64
	initrd /boot/initrd.img-6.12.1-amd64
	fdtdir /usr/lib/linux-image-6.12.1-amd64/
	
	append root=UUID=1 ro quiet

label l0r
	menu label Debian GNU/Linux 13 (trixie) 6.12.1-amd64 (rescue target)
	linux /boot/vmlinuz-6.12.1-amd64
	append root=UUID=1 ro single
"""  # noqa: W293
OWN = f"""\
# cowroot: begin
label cowroot-off
	menu label {TITLE}
	linux /boot/vmlinuz-6.12.1-amd64
	initrd /boot/initrd.img-6.12.1-amd64
	fdtdir /usr/lib/linux-image-6.12.1-amd64/
	append root=UUID=1 ro quiet cowroot=off
# cowroot: end
"""


def script(target: Target) -> str:
    (file, *_) = render_extlinux(Config.default(), target)
    assert isinstance(file, RenderedFile)
    return file.content.decode()


def added(place: Path, menu: str, shell: Sequence[str] = ("dash",), **facts: object) -> str:
    """What the script makes of a menu."""
    path = place / "extlinux.conf"
    path.write_text(menu)
    target = dataclasses.replace(Target(extlinux=str(path)), **facts)  # type: ignore[arg-type]
    (place / "script").write_text(script(target))
    done = subprocess.run([*shell, str(place / "script")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    assert done.stdout == ""
    assert sorted(each.name for each in place.iterdir()) == ["extlinux.conf", "script"]
    return path.read_text()


def own(menu: str) -> list[str]:
    return [line.strip() for line in menu.partition("# cowroot: begin\n")[2].partition("# cowroot: end")[0].splitlines()]


def test_what_an_image_gets() -> None:
    file, link = render_extlinux(Config.default(), U_BOOT)
    assert (file.path, link.path) == (SCRIPT, U_BOOT_SETTINGS)
    assert isinstance(link, RenderedLink)
    assert link.target == SCRIPT
    assert [each.path for each in render_extlinux(Config.default(), dataclasses.replace(U_BOOT, u_boot_menu=False))] == [SCRIPT]
    assert render_extlinux(Config.default(), Target()) == ()
    config = Config.default()
    assert render_extlinux(dataclasses.replace(config, grub=dataclasses.replace(config.grub, off_entry=False)), U_BOOT) == ()


def test_golden() -> None:
    hold_against(GOLDEN / SCRIPT.lstrip("/"), script(U_BOOT).encode())


@pytest.mark.parametrize("u_boot_menu", [True, False])
def test_shellcheck(u_boot_menu: bool, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(script(dataclasses.replace(U_BOOT, u_boot_menu=u_boot_menu)))
    done = subprocess.run(["shellcheck", "--shell=sh", str(tmp_path / "script")], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_menu_of_u_boot_update(tmp_path: Path, shell: str) -> None:
    menu = added(tmp_path, MENU, SHELLS[shell], u_boot_menu=True)
    assert menu == MENU + OWN
    assert added(tmp_path, menu, SHELLS[shell], u_boot_menu=True) == menu


def test_u_boot_update_ends_with_it(tmp_path: Path) -> None:
    """It sources its settings under `set -e` and writes the menu afterwards; its exit code stays its own."""
    menu = tmp_path / "extlinux.conf"
    (tmp_path / "script").write_text(script(dataclasses.replace(U_BOOT, extlinux=str(menu))))
    (tmp_path / "menu").write_text(MENU)
    update = f'set -e\nexec 1>&2\n. {tmp_path}/script\ncp {tmp_path}/menu {menu}.tmp\nmv -f {menu}.tmp {menu}\nexit "$1"\n'
    for code in (0, 3):
        assert subprocess.run(["dash", "-c", update, "dash", str(code)], check=False).returncode == code
        assert menu.read_text() == MENU + OWN
        menu.unlink()


@pytest.mark.parametrize(
    ("menu", "expected"),
    [
        (
            (
                "DEFAULT vesamenu.c32\nPROMPT 0\nLABEL linux\n  MENU DEFAULT\n  MENU PASSWD x\n  KERNEL /vmlinuz\n  INITRD /initrd.img\n"
                "  TEXT HELP\n  append nothing\n  ENDTEXT\n  APPEND root=/dev/sda1\nLABEL other\n  KERNEL /other"
            ),
            ["MENU PASSWD x", "KERNEL /vmlinuz", "INITRD /initrd.img", "APPEND root=/dev/sda1 cowroot=off"],
        ),
        ("default b\nappend root=x\nlabel a\n linux /a\nlabel b\n linux /b\n", ["linux /b", "append root=x cowroot=off"]),
        ("label a\n linux /a\n append -\n", ["linux /a", "append cowroot=off"]),
        ("label a\n linux /*\n append x=* y\n", ["linux /*", "append x=* y cowroot=off"]),
    ],
)
def test_menus_that_were_written_by_hand(tmp_path: Path, menu: str, expected: list[str]) -> None:
    found = added(tmp_path, menu)
    assert found.startswith(menu)
    assert own(found) == ["label cowroot-off", f"menu label {TITLE}", "menu nosave", *expected]
    assert added(tmp_path, found) == found


def test_a_menu_without_entries_stays(tmp_path: Path) -> None:
    assert added(tmp_path, "include other.conf\n") == "include other.conf\n"


def test_its_permissions_stay(tmp_path: Path) -> None:
    added(tmp_path, MENU)
    (tmp_path / "extlinux.conf").chmod(0o600)
    subprocess.run(["dash", str(tmp_path / "script")], check=True)
    assert (tmp_path / "extlinux.conf").stat().st_mode & 0o777 == 0o600
