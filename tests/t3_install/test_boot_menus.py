"""`cowroot install` where systemd-boot, Fedora's GRUB or extlinux boots: entries, initrds that are copied, and all of it undone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowroot.errors import CowrootError, PreflightError
from cowroot.install.doctor import PROBLEM, WARNING, examine
from cowroot.install.installation import install
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from tests.t3_install.debian import RELEASE, kernel, make_debian, program
from tests.t3_install.disks import MIB, make_disk, mounted
from tests.t3_install.fake import Content, Link, Script, make_fake_tree, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting an image needs root")

TOKEN = "4f2a"
ENTRY = f"{TOKEN}-{RELEASE}.conf"
OWN = f"{TOKEN}-0-cowrootoff.conf"
# As Debian's kernel-install and its plugin 90-loaderentry do it.
_KERNEL_INSTALL = f"""\
#!/bin/sh
set -e
top=/efi
[ -d $top/loader ] || top=/boot
export KERNEL_INSTALL_BOOT_ROOT=$top
place=$top/{TOKEN}/$2
case $1 in
add)
	mkdir -p "$place"
	cp "$3" "$place/linux"
	cp "$4" "$place/initrd.img-$2"
	{{
		echo "title Debian"
		echo "sort-key debian"
		if [ -e /etc/kernel/cmdline ]; then read -r line </etc/kernel/cmdline || :; else read -r line </proc/cmdline; fi
		echo "options $line"
		echo "linux /{TOKEN}/$2/linux"
		echo "initrd /{TOKEN}/$2/initrd.img-$2"
	}} >"$top/loader/entries/{TOKEN}-$2.conf"
	;;
remove) rm -rf "$place" "$top/loader/entries/{TOKEN}-$2.conf" ;;
esac
for plugin in /etc/kernel/install.d/*.install; do
	[ ! -e "$plugin" ] || "$plugin" "$1" "$2" "$place"
done
"""
_PROGRAMS = {
    path: content for name in ("cat", "cp", "mkdir", "mv", "rm", "sed", "sort", "tail") for path, content in program(f"/bin/{name}").items()
}
_NO_GRUB = ("/boot/grub", "/usr/sbin/grub", "/usr/sbin/update-grub", "/etc/grub.d", "/etc/default")


def entry(release: str = RELEASE, options: str = "root=LABEL=fake ro quiet") -> str:
    paths = f"linux /{TOKEN}/{release}/linux\ninitrd /{TOKEN}/{release}/initrd.img-{release}"
    return f"title Debian\nsort-key debian\noptions {options}\n{paths}\n"


def esp(name: str = ENTRY) -> dict[str, Content]:
    """An EFI system partition with one kernel."""
    return {
        "EFI/systemd/systemd-bootx64.efi": "MZ",
        "loader/loader.conf": "timeout 3\n",
        "loader/random-seed": bytes(32),
        f"loader/entries/{name}": entry(),
        f"{TOKEN}/{RELEASE}/linux": b"MZ" + RELEASE.encode(),
        f"{TOKEN}/{RELEASE}/initrd.img-{RELEASE}": "init\n",
    }


def system(place: Path, changed: dict[str, Content] | None = None) -> Path:
    return make_debian(
        place,
        {
            **_PROGRAMS,
            "/efi": None,
            "/etc/kernel/install.d": None,
            "/usr/bin/kernel-install": Script(_KERNEL_INSTALL),
            "/usr/lib/kernel/install.d/90-loaderentry.install": Script("#!/bin/sh\n"),
            **(changed or {}),
        },
        without=_NO_GRUB,
    )


class Disk:
    """A disk with a root and, on FAT, an EFI system partition."""

    def __init__(self, place: Path, files: dict[str, Content]) -> None:
        self.place = place
        tree = system(place / "tree", {"/etc/fstab": "LABEL=fake / ext4 defaults 0 1\nUUID=ABCD-1234 /efi vfat umask=0077 0 1\n"})
        self.path = make_disk(place / "disk.img", tree, None, label="gpt")
        start = 41 * MIB
        fat = place / "esp.img"
        with fat.open("wb") as file:
            file.truncate(40 * MIB)
        subprocess.run(["mkfs.vfat", "-i", "ABCD1234", str(fat)], stdout=subprocess.DEVNULL, check=True)
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(fat.read_bytes())
        fat.unlink()
        with self.esp("rw") as root:
            make_fake_tree(root, files)

    @contextmanager
    def esp(self, options: str = "ro") -> Iterator[Path]:
        with mounted(self.path, self.place / "esp", offset=41 * MIB, options=options) as root:
            yield root

    def choice(self) -> Choice:
        return Choice(image=self.path)

    def install(self) -> str:
        return install(self.choice(), None, lambda _: None).done

    def files(self) -> dict[str, bytes]:
        with self.esp() as root:
            return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def content(self) -> tuple[dict[str, Any], dict[str, Any]]:
        with mounted(self.path, self.place / "mnt", options="ro,noload") as root:
            inner = snapshot(root)
        with self.esp() as root:
            return inner, {path: facts for path, facts in snapshot(root).items() if path != "."}


@pytest.mark.skipif("\tvfat\n" not in Path("/proc/filesystems").read_text(), reason="no FAT in this kernel: t6_boot/test_fat.py runs this")
def test_systemd_boot_gets_the_initrd_with_the_union_and_loses_it_to_the_byte(tmp_path: Path) -> None:
    disk = Disk(tmp_path, esp(f"{TOKEN}-{RELEASE}+3.conf"))
    before = disk.content()
    assert disk.install() == "installed"
    files = disk.files()
    assert b"scripts/local-bottom/cowroot" in files[f"{TOKEN}/{RELEASE}/initrd.img-{RELEASE}"]
    assert files[f"loader/entries/{ENTRY}"].decode() == entry(), "neither this machine's parameters nor any of cowroot's"
    assert b"options root=LABEL=fake ro quiet cowroot=off\n" in files[f"loader/entries/{OWN}"]
    assert "loader/random-seed" not in files
    assert sorted(name for name in files if "/entries/" in name) == [f"loader/entries/{OWN}", f"loader/entries/{ENTRY}"]
    assert examine(disk.choice()) == []
    assert disk.install() == "unchanged"
    assert uninstall(disk.choice(), lambda _: None).done == "uninstalled"
    assert disk.content() == before


def test_an_initrd_that_is_not_copied_is_noticed(tmp_path: Path) -> None:
    """Or the next boot would end on the writable disk, and nothing would say so."""
    without_copying = Script(_KERNEL_INSTALL.replace('	cp "$4"', '	: "$4"'))
    root = system(tmp_path / "root", {"/usr/bin/kernel-install": without_copying, **{f"/efi/{path}": text for path, text in esp().items()}})
    before = snapshot(root)
    with pytest.raises(CowrootError, match=rf"/efi/loader/entries/{ENTRY} has its kernel started with .*, without .*local-bottom/cowroot"):
        install(Choice(root=root), None, lambda _: None)
    assert snapshot(root) == before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With cowroot installed, and an EFI system partition that is no file system of its own."""
    made = system(tmp_path / "root", {f"/efi/{path}": content for path, content in esp().items()})
    install(Choice(root=made), None, lambda _: None)
    return made


def findings(root: Path) -> list[tuple[str, str]]:
    return [(each.severity, each.what) for each in examine(Choice(root=root))]


def test_a_kernel_that_is_installed_in_a_boot_of_the_real_root(root: Path) -> None:
    """Its entry gets the parameters of the others, not those of that boot, or every boot from then on would leave the union out."""
    assert (root / "etc/kernel/cmdline").read_text() == "root=LABEL=fake ro quiet\n"
    make_fake_tree(root, {**kernel("6.20"), "/boot/initrd.img-6.20": (root / f"boot/initrd.img-{RELEASE}").read_text()})
    subprocess.run(
        ["chroot", str(root), "kernel-install", "add", "6.20", "/boot/vmlinuz-6.20", "/boot/initrd.img-6.20"],
        env={"PATH": "/usr/sbin:/usr/bin"}, check=True,
    )  # fmt: skip
    entries = root / "efi/loader/entries"
    assert "\noptions root=LABEL=fake ro quiet\n" in (entries / f"{TOKEN}-6.20.conf").read_text()
    assert f"linux /{TOKEN}/6.20/linux" in (entries / OWN).read_text()
    assert findings(root) == []
    uninstall(Choice(root=root), lambda _: None)
    assert "cowroot" not in (root / f"efi/{TOKEN}/6.20/initrd.img-6.20").read_text()
    assert sorted(path.name for path in entries.iterdir()) == [ENTRY, f"{TOKEN}-6.20.conf"]


def test_parameters_that_the_administrator_has_written_down_stay(tmp_path: Path) -> None:
    files = {f"/efi/{path}": content for path, content in esp().items()}
    root = system(tmp_path / "root", {**files, "/etc/kernel/cmdline": "root=LABEL=fake mine"})
    before = snapshot(root)
    install(Choice(root=root), None, lambda _: None)
    assert (root / "etc/kernel/cmdline").read_text() == "root=LABEL=fake mine"
    assert "options root=LABEL=fake mine cowroot=off" in (root / "efi/loader/entries" / OWN).read_text()
    uninstall(Choice(root=root), lambda _: None)
    assert snapshot(root) == before


def test_parameters_that_are_changed_later_stay_too(root: Path) -> None:
    (root / "etc/kernel/cmdline").write_text("root=LABEL=fake other\n")
    assert install(Choice(root=root), None, lambda _: None).done == "unchanged"
    (root / "etc/cowroot/cowroot.yaml").write_text("upper: {size: 64M}\n")
    assert install(Choice(root=root), None, lambda _: None).done == "installed"
    assert (root / "etc/kernel/cmdline").read_text() == "root=LABEL=fake other\n"
    assert uninstall(Choice(root=root), lambda _: None, force=True).done == "uninstalled"
    assert not (root / "etc/kernel/cmdline").exists()


def test_what_doctor_says_of_systemd_boot(root: Path) -> None:
    entries = root / "efi/loader/entries"
    assert findings(root) == []
    (root / f"efi/{TOKEN}/{RELEASE}/initrd.img-{RELEASE}").write_text("init\n")
    (entries / ENTRY).write_text(entry(options="root=LABEL=fake cowroot=off"))
    (entries / f"{TOKEN}-6.1+3-1.conf").write_text(entry("6.1", "cowroot.size=banana"))
    (root / "efi/loader/loader.conf").write_text("default @saved\n")
    (root / "efi/loader/random-seed").write_bytes(bytes(32))
    found = findings(root)
    assert (WARNING, f"/efi/loader/entries/{ENTRY} boots 'Debian' without a union (cowroot=off)") in found
    whose = f"/efi/loader/entries/{TOKEN}-6.1+3-1.conf"
    assert (PROBLEM, f"{whose} boots 'Debian' with a bad parameter: kernel parameter cowroot.size is 'banana', not a size") in found
    assert (PROBLEM, f"systemd-boot counts the boots of {whose} down, on the disk, and nothing takes that back") in found
    assert (WARNING, "systemd-boot writes /efi/loader/random-seed at each boot") in found
    assert [what for severity, what in found if "chosen last" in what and severity == WARNING]
    (lacking,) = [what for severity, what in found if " lacks " in what and severity == PROBLEM]
    assert lacking.startswith(f"/efi/{TOKEN}/{RELEASE}/initrd.img-{RELEASE} lacks etc/cowroot.conf")
    for path in entries.iterdir():
        if path.name != OWN:
            path.unlink()
    assert (PROBLEM, f"/efi/loader/entries/{OWN} boots the real root by default, without a union") in findings(root)


def test_entries_that_are_first_made_while_cowroot_is_installed(tmp_path: Path) -> None:
    """By a hook of update-initramfs, as Debian has one: they are not to get the parameters of this machine."""
    files = {f"/efi/{path}": content for path, content in esp().items() if "/entries/" not in path and TOKEN not in path}
    root = system(tmp_path / "root", {**files, "/efi/loader/entries": None})
    hook = f"kernel-install add {RELEASE} /boot/vmlinuz-{RELEASE} /boot/initrd.img-{RELEASE}\n"
    with (root / "usr/sbin/update-initramfs").open("a") as script:
        script.write(hook)
    assert install(Choice(root=root), None, lambda _: None).done == "installed"
    assert "options root=LABEL=fake ro\n" in (root / "efi/loader/entries" / ENTRY).read_text()
    assert "options root=LABEL=fake ro cowroot=off\n" in (root / "efi/loader/entries" / OWN).read_text()
    assert findings(root) == []


def test_unified_kernels_are_refused(tmp_path: Path) -> None:
    root = system(tmp_path / "root", {"/efi/EFI/Linux/debian.efi": "MZ"})
    with pytest.raises(PreflightError, match=r"one file with their initrd, .*: /efi/EFI/Linux/debian\.efi"):
        install(Choice(root=root), None, lambda _: None)


# extlinux

_U_BOOT_UPDATE = """\
#!/bin/sh
set -e
exec 1>&2
for file in /etc/u-boot-menu/conf.d/*.conf; do
	[ ! -e "$file" ] || . "$file"
done
{
	echo "default l0"
	echo "label l0"
	echo "	linux /boot/vmlinuz-RELEASE"
	echo "	initrd /boot/initrd.img-RELEASE"
	echo "	append root=LABEL=fake ro quiet"
} >/boot/extlinux/extlinux.conf
""".replace("RELEASE", RELEASE)
_MENU = _U_BOOT_UPDATE.partition("{\n")[2].partition("}")[0].replace('	echo "', "").replace('"\n', "\n")
_MENU_OWN = (
    "# cowroot: begin\nlabel cowroot-off\n\tmenu label The real root, without cowroot: changes stay (cowroot=off)\n{more}"
    f"\tlinux /boot/vmlinuz-{RELEASE}\n\tinitrd /boot/initrd.img-{RELEASE}\n\tappend root=LABEL=fake ro quiet cowroot=off\n# cowroot: end\n"
)


def with_extlinux(place: Path, changed: dict[str, Content]) -> Path:
    return make_debian(place, {**_PROGRAMS, "/boot/extlinux/extlinux.conf": _MENU, **changed}, without=_NO_GRUB)


def test_the_menu_of_u_boot(tmp_path: Path) -> None:
    root = with_extlinux(tmp_path / "root", {"/usr/sbin/u-boot-update": Script(_U_BOOT_UPDATE)})
    menu, before = root / "boot/extlinux/extlinux.conf", snapshot(root)
    assert install(Choice(root=root), None, lambda _: None).done == "installed"
    assert menu.read_text() == _MENU + _MENU_OWN.format(more="")
    assert findings(root) == []
    assert install(Choice(root=root), None, lambda _: None).done == "unchanged"
    uninstall(Choice(root=root), lambda _: None)
    assert snapshot(root) == before


def test_a_menu_of_u_boot_that_was_written_anew_since(tmp_path: Path) -> None:
    root = with_extlinux(tmp_path / "root", {"/usr/sbin/u-boot-update": Script(_U_BOOT_UPDATE)})
    install(Choice(root=root), None, lambda _: None)
    program_, menu = root / "usr/sbin/u-boot-update", root / "boot/extlinux/extlinux.conf"
    program_.write_text(_U_BOOT_UPDATE.replace("quiet", "splash"))
    subprocess.run(["chroot", str(root), "u-boot-update"], env={"PATH": "/usr/sbin:/usr/bin"}, check=True)
    assert "splash cowroot=off" in menu.read_text()
    uninstall(Choice(root=root), lambda _: None)
    assert menu.read_text() == _MENU.replace("quiet", "splash")


def test_a_menu_that_was_written_by_hand(tmp_path: Path) -> None:
    root = with_extlinux(tmp_path / "root", {"/vmlinuz": Link(f"boot/vmlinuz-{RELEASE}")})
    menu, before = root / "boot/extlinux/extlinux.conf", snapshot(root)
    assert install(Choice(root=root), None, lambda _: None).done == "installed"
    assert menu.read_text() == _MENU + _MENU_OWN.format(more="\tmenu nosave\n")
    assert install(Choice(root=root), None, lambda _: None).done == "unchanged"
    menu.write_text(menu.read_text().replace("default l0", "default cowroot-off"))
    assert (PROBLEM, "/boot/extlinux/extlinux.conf boots the real root by default, without a union") in findings(root)
    assert install(Choice(root=root), None, lambda _: None).done == "installed"
    assert uninstall(Choice(root=root), lambda _: None).done == "uninstalled"
    assert snapshot(root) == before
