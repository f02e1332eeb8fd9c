"""Entries after the Boot Loader Specification: what an image gets, and what the plugin makes of a directory of entries."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from cowroot.boot.bls import COMMAND_LINE, PLUGIN, SEED_WRITERS, render_bls
from cowroot.boot.rendered import RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.config import Config
from tests.t2_render.golden import hold_against

# What may be /bin/sh of a system that is up.
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}
GOLDEN = Path(__file__).parent / "golden/bls"
TARGET = Target(bls="/efi", kernel_cmdline="root=UUID=1 ro quiet")
OWN = "4f2a-0-cowrootoff.conf"
ENTRY = """\
title      Debian GNU/Linux 13 (trixie)
version    6.12.1+deb13-amd64
sort-key   debian
options    root=UUID=1 ro quiet
linux      /4f2a/6.12.1+deb13-amd64/linux
initrd     /4f2a/6.12.1+deb13-amd64/initrd.img-6.12.1+deb13-amd64
"""
# As kernel-core of Fedora has it, and grubby leaves it.
FEDORA = """\
title Fedora Linux (6.10.5-200.fc40.x86_64) 40 (Forty)
version 6.10.5-200.fc40.x86_64
linux /vmlinuz-6.10.5-200.fc40.x86_64
initrd /initramfs-6.10.5-200.fc40.x86_64.img $tuned_initrd
options root=UUID=1 ro rootflags=subvol=root rhgb quiet
grub_users $grub_users
grub_arg --unrestricted
grub_class fedora
"""


def rendered(target: Target = TARGET, **settings: bool) -> dict[str, RenderedFile | RenderedLink]:
    config = Config.default()
    config = dataclasses.replace(config, grub=dataclasses.replace(config.grub, **settings))
    return {each.path: each for each in render_bls(config, target)}


@pytest.fixture(params=SHELLS)
def boot(request: pytest.FixtureRequest, tmp_path: Path) -> Boot:
    return Boot(tmp_path, SHELLS[request.param])


class Boot:
    """What is at $BOOT, and the plugin."""

    def __init__(self, top: Path, shell: list[str]) -> None:
        self.top, self.shell = top / "boot", shell
        self.entries = self.top / "loader/entries"
        self.entries.mkdir(parents=True)

    def run(self, *words: str, **settings: bool) -> subprocess.CompletedProcess[str]:
        plugin = rendered(TARGET, **settings)[PLUGIN]
        assert isinstance(plugin, RenderedFile)
        script = self.top.parent / "plugin"
        script.write_bytes(plugin.content)
        return subprocess.run(
            [*self.shell, str(script), *words],
            env={"PATH": "/usr/bin:/bin", "KERNEL_INSTALL_BOOT_ROOT": str(self.top)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
        )  # fmt: skip

    def names(self) -> list[str]:
        return sorted(path.name for path in self.entries.iterdir())


class TestFiles:
    def test_what_an_image_gets(self) -> None:
        files = rendered()
        assert set(files) == {PLUGIN, COMMAND_LINE, *(f"/etc/systemd/system/{unit}" for unit in SEED_WRITERS)}
        assert {file.path: file.mode for file in files.values() if isinstance(file, RenderedFile)} == {PLUGIN: 0o755, COMMAND_LINE: 0o644}

    @pytest.mark.parametrize("path", [PLUGIN, COMMAND_LINE])
    def test_golden(self, path: str) -> None:
        file = rendered()[path]
        assert isinstance(file, RenderedFile)
        hold_against(GOLDEN / path.lstrip("/"), file.content)

    def test_an_image_without_entries_gets_nothing(self) -> None:
        assert rendered(Target()) == {}

    def test_nobody_reads_kernel_cmdline(self) -> None:
        assert COMMAND_LINE not in rendered(dataclasses.replace(TARGET, kernel_cmdline=""))

    def test_masks_are_for_systemd_and_for_recordfail(self) -> None:
        assert set(rendered(dataclasses.replace(TARGET, init="sysvinit"))) == {PLUGIN, COMMAND_LINE}
        assert set(rendered(recordfail=False)) == {PLUGIN, COMMAND_LINE}
        assert set(rendered(recordfail=False, off_entry=False)) == {COMMAND_LINE}

    @pytest.mark.parametrize(("recordfail", "off_entry"), [(True, True), (True, False), (False, True)])
    def test_shellcheck(self, recordfail: bool, off_entry: bool, tmp_path: Path) -> None:
        plugin = rendered(recordfail=recordfail, off_entry=off_entry)[PLUGIN]
        assert isinstance(plugin, RenderedFile)
        (tmp_path / "plugin").write_bytes(plugin.content)
        done = subprocess.run(["shellcheck", "--shell=sh", str(tmp_path / "plugin")], stdout=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0, done.stdout


class TestPlugin:
    def test_the_copy_is_the_newest_kernel_s_but_for_the_parameter(self, boot: Boot) -> None:
        (boot.entries / "4f2a-6.12.1+deb13-amd64.conf").write_text(ENTRY)
        (boot.entries / "4f2a-6.9.0-amd64.conf").write_text(ENTRY.replace("6.12.1+deb13", "6.9.0"))
        assert boot.run("add", "6.9.0-amd64").stdout == ""
        lines = (boot.entries / OWN).read_text().splitlines()
        assert lines[1:] == [
            "title      The real root, without cowroot: changes stay (cowroot=off)",
            "version    6.12.1+deb13-amd64",
            "sort-key   debian-cowroot-off",
            "options    root=UUID=1 ro quiet cowroot=off",
            "linux      /4f2a/6.12.1+deb13-amd64/linux",
            "initrd     /4f2a/6.12.1+deb13-amd64/initrd.img-6.12.1+deb13-amd64",
        ]
        before = (boot.entries / OWN).stat().st_mtime_ns
        boot.run()
        assert (boot.entries / OWN).stat().st_mtime_ns == before
        (boot.entries / "4f2a-6.12.1+deb13-amd64.conf").unlink()
        boot.run("remove", "6.12.1+deb13-amd64")
        assert "linux      /4f2a/6.9.0-amd64/linux" in (boot.entries / OWN).read_text()
        (boot.entries / "4f2a-6.9.0-amd64.conf").unlink()
        boot.run("remove", "6.9.0-amd64")
        assert boot.names() == []

    def test_an_entry_of_fedora_s(self, boot: Boot) -> None:
        (boot.entries / "4f2a-6.10.5-200.fc40.x86_64.conf").write_text(FEDORA)
        (boot.entries / "4f2a-0-rescue.conf").write_text(FEDORA)
        boot.run()
        lines = (boot.entries / OWN).read_text().splitlines()
        assert "options root=UUID=1 ro rootflags=subvol=root rhgb quiet cowroot=off" in lines
        assert "grub_users $grub_users" in lines
        assert not [line for line in lines if "unrestricted" in line or line.startswith("sort-key")]

    def test_only_one_line_of_options_gets_the_parameter(self, boot: Boot) -> None:
        (boot.entries / "one.conf").write_text("title One\nlinux /vmlinuz\noptions a\noptions b")
        boot.run()
        text = (boot.entries / "one-0-cowrootoff.conf").read_text()
        assert text.endswith("linux /vmlinuz\noptions a cowroot=off\noptions b\n")
        (boot.entries / "one.conf").write_text("linux /vmlinuz\n")
        boot.run()
        assert (boot.entries / "one-0-cowrootoff.conf").read_text().endswith("linux /vmlinuz\noptions    cowroot=off\n")

    @pytest.mark.parametrize(
        ("default", "source"),
        [("", "b.conf"), ("a", "a.conf"), ("a.conf", "a.conf"), ("a*", "a.conf"), ("gone", "b.conf"), ("#default c", "b.conf")],
    )
    def test_the_default_of_loader_conf_is_what_is_copied(self, boot: Boot, default: str, source: str) -> None:
        for name in "ab":
            (boot.entries / f"{name}.conf").write_text(f"options {name}.conf\n")
        (boot.top / "loader/loader.conf").write_text(f"timeout 3\n{default if default.startswith('#') else f'default  {default}'}\n")
        boot.run()
        (own,) = [name for name in boot.names() if "cowrootoff" in name]
        assert f"options {source} cowroot=off" in (boot.entries / own).read_text()

    def test_where_the_last_choice_is_the_next_default_there_is_nothing_to_choose(self, boot: Boot) -> None:
        (boot.entries / "a.conf").write_text("options ro\n")
        boot.run()
        assert len(boot.names()) == 2
        (boot.top / "loader/loader.conf").write_text("default @saved\n")
        assert "default @saved" in boot.run().stdout
        assert boot.names() == ["a.conf"]

    def test_nothing_counts_boots_nor_is_rewritten_at_each(self, boot: Boot) -> None:
        for name in ("4f2a-6.12.1+deb13-amd64+3", "4f2a-6.9+2-1", "4f2a-6.8+deb13"):
            (boot.entries / f"{name}.conf").write_text(name)
        (boot.top / "loader/random-seed").write_bytes(bytes(32))
        boot.run(off_entry=False)
        assert boot.names() == ["4f2a-6.12.1+deb13-amd64.conf", "4f2a-6.8+deb13.conf", "4f2a-6.9.conf"]
        assert not (boot.top / "loader/random-seed").exists()

    def test_boots_are_counted_where_that_is_wanted(self, boot: Boot) -> None:
        (boot.entries / "4f2a-6.9+3.conf").write_text("options ro\n")
        assert "counts boots" in boot.run(recordfail=False).stdout
        assert boot.names() == ["4f2a-6.9+3.conf"]

    def test_another_verb_of_kernel_install_is_not_its_business(self, boot: Boot) -> None:
        (boot.entries / "a.conf").write_text("options ro\n")
        boot.run("inspect")
        assert boot.names() == ["a.conf"]
