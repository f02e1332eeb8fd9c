"""What cowroot puts into an image for GRUB, and what the real grub-mkconfig makes of it."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
from pathlib import Path

import pytest

from cowroot.boot.grub import DROP_IN, GRUBENV, GRUBENV_WRITERS, LATE_SCRIPT, render_grub, saved_entry
from cowroot.boot.rendered import Rendered, RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.config import Config
from tests.t2_render import grub_mkconfig
from tests.t2_render.golden import hold_against

GOLDEN = Path(__file__).parent / "golden/grub"
KERNELS = ("6.1.0-9-amd64", "6.1.0-10-amd64")
SECTION = "### BEGIN /etc/grub.d/99_cowroot ###\n"


def rendered(target: Target | None = None, grubenv: bytes = b"", **settings: object) -> tuple[Rendered, ...]:
    config = Config.default()
    config = dataclasses.replace(config, grub=dataclasses.replace(config.grub, **settings))  # type: ignore[arg-type]
    return render_grub(config, target or Target(), grubenv)


def content(files: tuple[Rendered, ...], path: str) -> str:
    (file,) = [file for file in files if isinstance(file, RenderedFile) and file.path == path]
    return file.content.decode()


def paths(files: tuple[Rendered, ...]) -> set[str]:
    return {file.path for file in files}


def lay_out(root: Path, files: tuple[Rendered, ...], *, form: str = "ubuntu", settings: str = "", file_system: str = "ext2") -> Path:
    grub_mkconfig.lay_out(root, form=form, settings=settings, rendered=files, file_system=file_system)
    for release in KERNELS:
        add_kernel(root, release)
    return root


def add_kernel(root: Path, release: str) -> None:
    for name in (f"vmlinuz-{release}", f"initrd.img-{release}"):
        (root / "boot" / name).write_bytes(b"")


def section(menu: str) -> str:
    """What 99_cowroot has printed."""
    return menu.partition(SECTION)[2].partition("### END")[0]


def entries(text: str) -> list[list[str]]:
    """The menu entries that are not in a submenu, each as its lines."""
    found: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("menuentry "):
            found.append([])
            inside = True
        if inside:
            found[-1].append(line)
        inside = inside and line != "}"
    return found


class TestFiles:
    def test_what_an_image_gets(self) -> None:
        masks = [f"/etc/systemd/system/{unit}" for unit in GRUBENV_WRITERS]
        assert [file.path for file in rendered()] == [DROP_IN, LATE_SCRIPT, *masks, GRUBENV]
        modes = {file.path: file.mode for file in rendered() if isinstance(file, RenderedFile)}
        assert modes == {DROP_IN: 0o644, LATE_SCRIPT: 0o755, GRUBENV: 0o644}
        assert {file.target for file in rendered() if isinstance(file, RenderedLink)} == {"/dev/null"}
        assert content(rendered(), GRUBENV) == ""

    @pytest.mark.parametrize("path", [DROP_IN, LATE_SCRIPT])
    def test_golden(self, path: str) -> None:
        hold_against(GOLDEN / path.lstrip("/"), content(rendered(), path).encode())

    def test_an_image_without_grub_gets_nothing(self) -> None:
        assert rendered(Target(grub="")) == ()

    def test_no_drop_in_where_nobody_would_read_it(self) -> None:
        assert DROP_IN not in paths(rendered(Target(grub_default_d=False)))

    def test_masks_are_for_systemd(self) -> None:
        assert not [file for file in rendered(Target(init="sysvinit")) if isinstance(file, RenderedLink)]

    def test_recordfail_left_alone(self) -> None:
        files = rendered(recordfail=False)
        assert paths(files) == {DROP_IN, LATE_SCRIPT}
        assert "recordfail {" not in content(files, LATE_SCRIPT)
        assert "RECORDFAIL" not in content(files, DROP_IN)

    def test_nothing_but_the_initrd_asked_for(self) -> None:
        files = rendered(recordfail=False, off_entry=False)
        assert paths(files) == {DROP_IN}
        assert "GRUB_FORCE_PARTUUID=\n" in content(files, DROP_IN)


@pytest.mark.parametrize(("recordfail", "off_entry"), [(True, True), (True, False), (False, True), (False, False)])
def test_shellcheck(recordfail: bool, off_entry: bool, tmp_path: Path) -> None:
    for file in rendered(recordfail=recordfail, off_entry=off_entry, timeout=5):
        if isinstance(file, RenderedFile) and file.path != GRUBENV:
            script = tmp_path / Path(file.path).name
            script.write_bytes(file.content)
            # SC2034: the drop-in's variables are used by those who source it.
            done = subprocess.run(
                ["shellcheck", "--shell=sh", "--norc", "--exclude=SC2034", str(script)], stdout=subprocess.PIPE, text=True, check=False
            )
            assert done.returncode == 0, done.stdout


def test_the_drop_in_minds_whoever_else_sources_it(tmp_path: Path) -> None:
    """GRUB's package does when it is configured, under `set -e`, and knows no GRUB_DEVICE."""
    drop_in = tmp_path / "cowroot.cfg"
    drop_in.write_text(content(rendered(), DROP_IN))
    done = subprocess.run(
        ["sh", "-eu", "-c", '. "$1"; echo "[$GRUB_RECORDFAIL_TIMEOUT] [${GRUB_DEFAULT-}]"', "sh", str(drop_in)],
        env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[0] []\n")


class TestSavedEntry:
    @pytest.mark.parametrize(
        ("block", "entry"),
        [
            (b"", ""),
            (b"# GRUB Environment Block\n" + b"#" * 999, ""),
            (b"# GRUB Environment Block\nrecordfail=1\nsaved_entry=advanced-1>6.1-advanced-1\n###", "advanced-1>6.1-advanced-1"),
            (b"# GRUB Environment Block\n# WARNING: Do not edit\nsaved_entry=a=b\n", "a=b"),
            (b"# GRUB Environment Block\nsaved_entry=\n", ""),
            (b"saved_entry=not a block\n", ""),
            (b"\xff\xfe\0", ""),
        ],
    )
    def test_parsing(self, block: bytes, entry: str) -> None:
        assert saved_entry(block) == entry

    def test_stays_the_default(self, tmp_path: Path) -> None:
        entry = "Advanced options for Ubuntu>it's this one"
        files = rendered(grubenv=f"# GRUB Environment Block\nsaved_entry={entry}\n".encode())
        menu = grub_mkconfig.generate(lay_out(tmp_path / "root", files, settings="GRUB_DEFAULT=saved\nGRUB_SAVEDEFAULT=true\n"))
        assert f'set default="{entry}"' in menu
        assert "\nsavedefault\n" not in menu

    def test_without_one_the_default_is_the_first(self, tmp_path: Path) -> None:
        done = grub_mkconfig.mkconfig(lay_out(tmp_path / "root", rendered(), settings="GRUB_DEFAULT=saved\n"))
        assert done.returncode == 0
        assert "grub-editenv" not in done.stderr, "it has been asked to read the empty environment block"
        assert 'set default="0"' in (tmp_path / "root/boot/grub/grub.cfg").read_text()

    def test_another_default_is_left_alone(self, tmp_path: Path) -> None:
        menu = grub_mkconfig.generate(lay_out(tmp_path / "root", rendered(), settings="GRUB_DEFAULT=2\n"))
        assert 'set default="2"' in menu


class TestMenu:
    @pytest.mark.parametrize("form", grub_mkconfig.FORMS)
    @pytest.mark.parametrize(("recordfail", "off_entry"), [(True, True), (True, False), (False, True)])
    def test_grub_script_check(self, tmp_path: Path, form: str, recordfail: bool, off_entry: bool) -> None:
        menu = grub_mkconfig.generate(lay_out(tmp_path / "root", rendered(recordfail=recordfail, off_entry=off_entry), form=form))
        assert grub_mkconfig.script_check(menu) == ""
        assert grub_mkconfig.script_check(section(menu)) == ""
        assert section(menu).strip()

    def test_the_checker_finds_what_is_wrong(self) -> None:
        assert "error" in grub_mkconfig.script_check("if [ 1 = 1 ]; then\n")

    @pytest.mark.parametrize("form", grub_mkconfig.FORMS)
    @pytest.mark.parametrize(
        "settings",
        [
            "",
            "GRUB_DISABLE_SUBMENU=true\n",
            "GRUB_SAVEDEFAULT=true\n",
            "GRUB_CMDLINE_LINUX='console=ttyS0 dyndbg=\"file fuse.c +p\"'\nGRUB_CMDLINE_LINUX_DEFAULT='quiet splash'\n",
        ],
    )
    def test_the_entry_is_the_distribution_s_first_but_for_the_parameter(self, tmp_path: Path, form: str, settings: str) -> None:
        menu = grub_mkconfig.generate(lay_out(tmp_path / "root", rendered(), form=form, settings=settings))
        first, last = entries(menu)[0], entries(menu)[-1]
        assert last[0].startswith("menuentry 'The real root, without cowroot")
        assert last[0].endswith("--class gnu-linux --class gnu --class os $menuentry_id_option 'cowroot-off' {")
        (kernel,) = [line for line in last if line.startswith("\tlinux\t")]
        assert kernel.split().count("cowroot=off") == 1
        assert f"/boot/vmlinuz-{KERNELS[1]} " in kernel
        # By words: the spacing of the parameters is 10_linux's own affair.
        assert [[word for word in line.split() if word != "cowroot=off"] for line in last[1:]] == [line.split() for line in first[1:]]

    def test_the_entry_follows_the_kernels(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path / "root", rendered())
        grub_mkconfig.generate(root)
        add_kernel(root, "6.12.3-amd64")
        assert "/boot/vmlinuz-6.12.3-amd64 " in section(grub_mkconfig.generate(root))
        (root / "boot/vmlinuz-6.12.3-amd64").unlink()
        again = section(grub_mkconfig.generate(root))
        assert f"/boot/vmlinuz-{KERNELS[1]} " in again
        assert f"/boot/initrd.img-{KERNELS[1]}\n" in again

    def test_the_entry_is_as_protected_as_the_menu(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path / "root", rendered())
        script = root / "etc/grub.d/10_linux"
        script.write_text(script.read_text().replace('CLASS="--class gnu-linux', 'CLASS="--unrestricted --class gnu-linux'))
        menu = grub_mkconfig.generate(root)
        assert "--unrestricted" in entries(menu)[0][0]
        assert "--unrestricted" not in section(menu)

    @pytest.mark.parametrize("script", [None, "exit 1", "exit 0", "echo 'menuentry x {'; exit 1", "echo blscfg"])
    def test_without_an_entry_to_follow_the_rest_is_still_there(self, tmp_path: Path, script: str | None) -> None:
        """A 10_linux that fails ends grub-mkconfig by itself; here it fails only for the late script, so as to see what that does."""
        root = lay_out(tmp_path / "root", rendered())
        linux = root / "etc/grub.d/10_linux"
        if script is None:
            linux.unlink()
        else:
            linux.write_text(f'#!/bin/sh\ncase $GRUB_CMDLINE_LINUX_DEFAULT in *cowroot=off*) {script} ;; esac\n')
        done = grub_mkconfig.mkconfig(root)
        assert done.returncode == 0
        assert "cowroot: /etc/grub.d/10_linux makes no menu entry" in done.stderr
        menu = (root / "boot/grub/grub.cfg").read_text()
        assert "set timeout=0" in section(menu)
        assert "menuentry" not in section(menu)

    def test_a_menu_without_kernels_does_not_replace_one_with_them(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path / "root", rendered())
        old = grub_mkconfig.generate(root)
        # 10_linux ends without an entry and without a complaint if it cannot find the device behind a loop device.
        done = grub_mkconfig.mkconfig(root, device="/dev/loop9")
        assert done.returncode == 1
        assert "cowroot: /etc/grub.d/10_linux made entries for the kernels before and makes none now" in done.stderr
        assert (root / "boot/grub/grub.cfg").read_text() == old

    def test_a_menu_without_kernels_may_replace_one_when_there_are_none(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path / "root", rendered())
        grub_mkconfig.generate(root)
        for kernel in (root / "boot").glob("vmlinuz-*"):
            kernel.unlink()
        assert entries(grub_mkconfig.generate(root)) == []

    def test_the_header_itself_waits_no_longer_than_configured(self, tmp_path: Path) -> None:
        menu = grub_mkconfig.generate(lay_out(tmp_path / "root", rendered(timeout=7), settings="GRUB_RECORDFAIL_TIMEOUT=-1\n"))
        header = menu.partition("### END")[0]
        assert 'if [ "${recordfail}" = 1 ] ; then\n  set timeout=7\n' in header
        assert 'if [ "${recordfail}" = 1 ]; then\n  set timeout=7\n' in section(menu)

    def test_where_grub_cannot_write_no_boot_waits(self, tmp_path: Path) -> None:
        """On such file systems Ubuntu's header takes each boot for one after a failure (on EFI)."""
        plain = grub_mkconfig.generate(lay_out(tmp_path / "plain", (), file_system="btrfs"))
        assert "recordfail support is disabled" in plain
        assert "if [ $grub_platform = efi ]; then\n  set timeout=30\n" in plain
        ours = grub_mkconfig.generate(lay_out(tmp_path / "ours", rendered(), file_system="btrfs"))
        assert "if [ $grub_platform = efi ]; then\n  set timeout=0\n" in ours

    def test_no_boot_without_an_initrd(self, tmp_path: Path) -> None:
        """As an Ubuntu cloud image has it; its drop-in is read before cowroot's."""
        root = lay_out(tmp_path / "root", rendered())
        (root / "etc/default/grub.d/40-force-partuuid.cfg").write_text("GRUB_FORCE_PARTUUID=0e5f6c5c-01\n")
        # Debian's 10_linux knows nothing of it: say what a script of Ubuntu's would find.
        script = root / "etc/grub.d/10_linux"
        script.write_text(script.read_text().replace("set -e\n", 'set -e\necho "# partuuid [$GRUB_FORCE_PARTUUID]"\n', 1))
        mkconfig = root / "etc/default/grub"
        mkconfig.write_text(mkconfig.read_text() + "export GRUB_FORCE_PARTUUID\n")
        assert "# partuuid []\n" in grub_mkconfig.generate(root)


class TestInsideTheUnion:
    OLD = "# the menu from before\n"

    @staticmethod
    def block_device(place: Path) -> str:
        """A node that no device answers to, since nobody opens it."""
        node = place / "disk"
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(7, 200))
        return str(node)

    @pytest.mark.parametrize("where", ["union", "elsewhere"])
    def test_an_unknown_device_leaves_the_menu_alone(self, tmp_path: Path, where: str) -> None:
        root = lay_out(tmp_path / "root", rendered())
        (root / "boot/grub/grub.cfg").write_text(self.OLD)
        mounts = {"union": "cowroot / fuse.cowroot rw 0 0\n", "elsewhere": "/dev/x / ext4 rw 0 0\nx /mnt fuse.cowroot rw 0 0\n"}[where]
        done = grub_mkconfig.mkconfig(root, device="/dev/null", mounts=mounts)
        menu = (root / "boot/grub/grub.cfg").read_text()
        if where == "union":
            assert done.returncode == 1
            assert "cowroot: grub-probe takes '/dev/null' for the device of /, which is no disk" in done.stderr
            assert menu == self.OLD
        else:
            assert done.returncode == 0
            assert menu != self.OLD

    @pytest.mark.skipif(os.geteuid() != 0, reason="making a device node takes root")
    def test_the_disk_below_it_is_what_the_menu_boots(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path / "root", rendered())
        device = self.block_device(tmp_path)
        done = grub_mkconfig.mkconfig(root, device=device, mounts=f"{device} / fuse.cowroot rw 0 0\n")
        assert done.returncode == 0, done.stderr
        menu = (root / "boot/grub/grub.cfg").read_text()
        assert f"root={device} ro" in section(menu)
