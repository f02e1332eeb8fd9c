"""The initramfs hook, run as mkinitramfs runs it, into a directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cowroot.boot.initramfs_tools import render_initramfs_tools
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.config import Config

FUNCTIONS = "/usr/share/initramfs-tools/hook-functions"
HOOK = "/etc/initramfs-tools/hooks/cowroot"
GOOD = """\
COWROOT_UPPER_DEVICE='tmpfs'
COWROOT_UPPER_FSTYPE='auto'
COWROOT_LOWERS=''
COWROOT_UPPER_CREATE=false
COWROOT_UPPER_RANDOM_KEY=false"""


class Hook:
    """The hook with its program and its library at places of our own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.initrd = place / "initrd"
        self.modules = place / "modules"
        self.python = place / "python"
        self.library = place / "libfuse.so.2"
        for program in (self.python, self.library):
            program.touch(mode=0o755)

    def run(self, settings: str = GOOD, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run it, with a `cowroot config shell` that prints `settings` and ends with `code`."""
        (self.place / "settings").write_text(settings + "\n")
        cowroot = self.place / "cowroot"
        cowroot.write_text(f'#!/bin/sh\n[ "$*" = "config shell" ] || exit 99\ncat "{self.place}/settings"\nexit {code}\n')
        cowroot.chmod(0o755)
        target = Target(python=str(self.python), libfuse=str(self.library))
        (file,) = (each for each in render_initramfs_tools(Config.default(), target) if each.path == HOOK)
        assert isinstance(file, RenderedFile)
        script = self.place / "hook"
        # The real library, but for what depends on the kernels of this machine.
        library = self.place / "hook-functions"
        library.write_text(f'. {FUNCTIONS}\nmanual_add_modules() {{ echo "$@" >>"{self.modules}"; }}\n')
        text = file.content.decode().replace("/usr/bin/cowroot", str(cowroot)).replace(FUNCTIONS, str(library))
        script.write_text(text)
        script.chmod(0o755)
        (self.initrd / "sbin").mkdir(parents=True)  # mkinitramfs has made the usual directories before it runs hooks
        (self.initrd / "sbin/mke2fs").write_text("busybox")
        # What mkinitramfs exports to its hooks.
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DESTDIR": str(self.initrd), "version": "0-none", "verbose": "n",
        }
        return subprocess.run([str(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return Hook(tmp_path)


def test_settings_modules_and_tools_go_into_the_initrd(hook: Hook) -> None:
    done = hook.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (hook.initrd / "etc/cowroot.conf").read_text() == GOOD + "\n"
    assert hook.modules.read_text().split() == ["fuse", "overlay"]
    for program in ("blkid", "blockdev", "e2fsck"):
        assert [path for path in hook.initrd.rglob(program) if path.is_file()], program


def test_the_file_system_of_the_upper_has_its_module(hook: Hook) -> None:
    assert hook.run(GOOD.replace("tmpfs", "LABEL=x").replace("auto", "btrfs")).returncode == 0
    assert hook.modules.read_text().split() == ["fuse", "overlay", "btrfs"]


def test_what_further_lowers_take_is_in_the_initrd_where_there_are_some(hook: Hook) -> None:
    assert hook.run(f"{GOOD}\nCOWROOT_LOWERS='/opt/app.squashfs'").returncode == 0
    assert hook.modules.read_text().split() == ["fuse", "overlay", "loop", "squashfs", "erofs"]
    assert [path for path in hook.initrd.rglob("losetup") if path.is_file()]


def test_what_an_upper_in_a_file_takes_is_in_the_initrd(hook: Hook) -> None:
    settings = GOOD.replace("'tmpfs'", "'LABEL=x:/upper.img'").replace("CREATE=false", "CREATE=true")
    assert hook.run(settings).returncode == 0
    assert hook.modules.read_text().split() == ["fuse", "overlay", "loop", "squashfs", "erofs", "ext4"]
    assert {path.name for path in hook.initrd.rglob("*") if path.name in ("losetup", "mke2fs")} == {"losetup", "mke2fs"}
    assert [path.read_bytes() for path in hook.initrd.rglob("mke2fs")] == [Path("/sbin/mke2fs").read_bytes()], "it is busybox'"


def test_broken_settings_fail_the_initrd_and_leave_none_behind(hook: Hook) -> None:
    done = hook.run("", code=2)
    assert done.returncode == 1
    assert "E: cowroot: the settings in /etc/cowroot/cowroot.yaml cannot be used" in done.stderr
    assert not (hook.initrd / "etc/cowroot.conf").exists()


@pytest.mark.parametrize("missing", ["python", "library"])
def test_without_what_serves_the_union_there_is_no_initrd(hook: Hook, missing: str) -> None:
    path = getattr(hook, missing)
    path.unlink()
    done = hook.run()
    assert done.returncode == 1
    assert f"E: cowroot: {path} is missing" in done.stderr
