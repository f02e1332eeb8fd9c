"""What is found in a root file system, and what is said to be missing from it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cowroot.errors import PreflightError
from cowroot.install import preflight
from cowroot.install.inspection import Inspection, inspect
from cowroot.install.tree import Tree
from tests.t3_install.debian import RELEASE, kernel, make_debian
from tests.t3_install.fake import Content, Link, Script

MODULES = f"/lib/modules/{RELEASE}"


def look_into(place: Path, changed: dict[str, Content] | None = None, without: tuple[str, ...] = ()) -> Inspection:
    with Tree(make_debian(place / "root", changed, without)) as tree:
        return inspect(tree)


def test_debian_13(tmp_path: Path) -> None:
    found = look_into(tmp_path)
    assert found.target.os_id == "debian"
    assert found.target.os_version == "13"
    assert found.target.init == "systemd"
    assert found.target.initramfs == "initramfs-tools"
    assert found.target.kernels == (RELEASE,)
    assert found.target.root_device == "LABEL=fake"
    assert found.target.root_fstype == "ext4"
    assert found.target.libfuse == "/usr/lib/x86_64-linux-gnu/libfuse.so.2"
    assert found.target.merged_usr
    assert found.target.grub_default_d
    assert found.python == (3, 13)
    assert found.ctypes
    assert found.make_grub_cfg == ("update-grub",)
    preflight.check(found, "it")


@pytest.mark.parametrize(
    ("path", "content", "fuse"),
    [
        (f"{MODULES}/modules.dep", "kernel/fs/fuse/fuse.ko:\n", "module"),
        (f"{MODULES}/modules.dep", "kernel/fs/fuse/fuse.ko.xz: kernel/x.ko.xz\n", "module"),
        (f"{MODULES}/modules.dep", "kernel/fs/fuse/fuse.ko.zst:\n", "module"),
        (f"{MODULES}/modules.dep", "kernel/fs/fuse/virtiofs.ko: kernel/fs/fuse/fuse.ko\n", ""),
        (f"{MODULES}/modules.dep", "kernel/x/notfuse.ko:\n", ""),
        (f"{MODULES}/modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/fs/fuse/fuse.ko\n", "builtin"),
        (f"{MODULES}/kernel/fs/fuse/fuse.ko.gz", b"", "module"),
        (f"/boot/config-{RELEASE}", "CONFIG_FUSE_FS=y\n", "builtin"),
        (f"/boot/config-{RELEASE}", "# CONFIG_FUSE_FS is not set\n", ""),
        (f"/boot/config-{RELEASE}", "CONFIG_FUSE_FS=m\n", ""),  # a module that is not there
        (f"{MODULES}/config", gzip.compress(b"CONFIG_FUSE_FS=y\n"), "builtin"),
        ("/etc/nothing", "", ""),
    ],
)
def test_fuse_in_a_kernel(tmp_path: Path, path: str, content: Content, fuse: str) -> None:
    found = look_into(tmp_path, {path: content}, without=(MODULES,))
    assert [each.fuse for each in found.kernels] == [fuse]
    if fuse:
        preflight.check(found, "it")
    else:
        with pytest.raises(PreflightError, match=f"the kernel {RELEASE} has no FUSE") as caught:
            preflight.check(found, "it")
        assert "CONFIG_FUSE_FS" in caught.value.hint


def test_every_installed_kernel_counts_and_leftovers_do_not(tmp_path: Path) -> None:
    leftovers: dict[str, Content] = {
        "/lib/modules/5.10.0-old/modules.dep": "",
        f"/boot/vmlinuz-{RELEASE}.dpkg-tmp": "",
        f"/boot/initrd.img-{RELEASE}.bak": "",
    }
    found = look_into(tmp_path, {**kernel("6.1"), "/boot/vmlinuz-6.2": "", **leftovers})
    assert [(each.release, each.fuse, each.made) for each in found.kernels] == [
        ("6.1", "module", True),
        (RELEASE, "module", True),
        ("6.2", "", False),
    ]
    with pytest.raises(PreflightError, match=r"the kernel 6\.2 has no FUSE"):
        preflight.check(found, "it")


@pytest.mark.parametrize(
    ("link", "version", "problem"),
    [
        ("python3.13", (3, 13), ""),
        ("python3.9", (3, 9), ""),
        ("python3.8", (3, 8), "its Python is 3.8; 3.9 or newer is needed"),
        ("/usr/bin/python3.11", (3, 11), ""),
        ("/nowhere/python3.11", None, "there is no Python 3.9 or newer"),
    ],
)
def test_python(tmp_path: Path, link: str, version: tuple[int, int] | None, problem: str) -> None:
    minor = link.rpartition(".")[2]
    found = look_into(
        tmp_path,
        {
            "/usr/bin/python3": Link(link),
            **({f"/usr/bin/python3.{minor}": Script("")} if "nowhere" not in link else {}),
            f"/usr/lib/python3.{minor}/ctypes/__init__.py": "",
            f"/usr/lib/python3.{minor}/lib-dynload/_ctypes.x.so": b"",
        },
        without=("/usr/bin/python3", "/usr/lib/python3"),
    )
    assert found.python == version
    _expect(found, problem)


def test_python_without_ctypes(tmp_path: Path) -> None:
    found = look_into(tmp_path, without=("/usr/lib/python3.13/lib-dynload",))
    _expect(found, "its Python has no ctypes")


def test_usr_on_a_file_system_of_its_own(tmp_path: Path) -> None:
    found = look_into(tmp_path, {"/etc/fstab": "UUID=1 / ext4 defaults 0 1\nUUID=2 /usr ext4 defaults 0 2\n"})
    _expect(found, "puts /usr on a file system of its own")


def _expect(found: Inspection, problem: str) -> None:
    if not problem:
        preflight.check(found, "it")
        return
    with pytest.raises(PreflightError, match=problem):
        preflight.check(found, "it")


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ("ID=debian\nVERSION_ID=12\n", "libfuse2"),
        ('ID=debian\nVERSION_ID="13"\n', "libfuse2t64"),
        ("ID=debian\n", "libfuse2t64"),  # testing
        ("ID=ubuntu\nVERSION_ID=22.04\n", "libfuse2"),
        ("ID=ubuntu\nVERSION_ID=24.04\n", "libfuse2t64"),
    ],
)
def test_a_missing_libfuse_is_named_as_its_package_is_there(tmp_path: Path, release: str, package: str) -> None:
    found = look_into(tmp_path, {"/etc/os-release": release}, without=("/usr/lib/x86_64-linux-gnu/libfuse",))
    with pytest.raises(PreflightError, match="libfuse 2 is missing") as caught:
        preflight.check(found, "it")
    assert caught.value.hint == f"run in it: apt-get install {package}"


def test_another_initramfs_tool_is_named(tmp_path: Path) -> None:
    found = look_into(tmp_path, {"/usr/bin/booster": Script("")}, without=("/usr/sbin/update-initramfs",))
    assert found.target.initramfs == "booster"
    _expect(found, "its initrds are made by booster, which is not supported yet")


def test_another_init_is_named(tmp_path: Path) -> None:
    found = look_into(tmp_path, {"/usr/sbin/init": Script(""), "/etc/inittab": "", "/usr/sbin/insserv": Script("")})
    assert found.target.init == "sysvinit"
    preflight.check(found, "it")
    found = look_into(tmp_path / "unordered", {"/usr/sbin/init": Script(""), "/etc/inittab": ""})
    _expect(found, "its init scripts are put in order without insserv")
    found = look_into(tmp_path / "another", {"/usr/sbin/init": Script("")})
    assert found.target.init == ""
    _expect(found, "its init system is none that is known")


def test_unmerged_usr(tmp_path: Path) -> None:
    found = look_into(tmp_path, {"/sbin/mount": ""}, without=("/sbin", "/usr/sbin/init"))
    assert not found.target.merged_usr


def test_no_grub(tmp_path: Path) -> None:
    found = look_into(tmp_path, without=("/usr/sbin/grub-mkconfig",))
    assert found.target.grub == ""
    assert found.make_grub_cfg == ()
    preflight.check(found, "it")


def test_grub_without_a_menu_yet_has_none_made(tmp_path: Path) -> None:
    found = look_into(tmp_path, without=("/boot/grub/grub.cfg",))
    assert found.target.grub
    assert found.make_grub_cfg == ()
