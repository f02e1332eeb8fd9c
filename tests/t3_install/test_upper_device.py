"""What an image must have for its initrds to open the upper's device."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowroot.boot.target import Target
from cowroot.config import Config
from cowroot.errors import PreflightError
from cowroot.install.doctor import PROBLEM, examine
from cowroot.install.installation import install
from cowroot.install.preflight import Problem
from cowroot.install.target import Choice
from cowroot.install.tree import Tree
from cowroot.install.upper_device import problems
from tests.t3_install.debian import make_debian
from tests.t3_install.fake import make_fake_tree

LVM = {"/sbin/lvm": "lvm"}
CRYPTROOT = {"/usr/share/initramfs-tools/hooks/cryptroot": "hook"}
SYSTEMD_CRYPTSETUP = {"/usr/lib/systemd/systemd-cryptsetup": "program"}
TAB = {"/etc/crypttab": "# name device key options\nkept UUID=1 none luks,initramfs\nlate UUID=2 none luks\nbare UUID=3\n"}


def found(root: Path, files: dict[str, str], device: str, tool: str = "initramfs-tools") -> list[Problem]:
    make_fake_tree(root, dict(files))
    with Tree(root) as tree:
        return problems(tree, Config.parse(f"upper: {{device: '{device}'}}", "x"), Target(initramfs=tool))


@pytest.mark.parametrize(
    ("files", "device", "tool"),
    [
        ({}, "tmpfs", "initramfs-tools"),
        ({}, "/dev/sdb1", "initramfs-tools"),
        ({}, "LABEL=data", "initramfs-tools"),
        ({}, "/dev/disk/by-id/one", "initramfs-tools"),
        ({}, "/dev/md/one", "initramfs-tools"),
        (LVM, "/dev/group/volume", "initramfs-tools"),
        (LVM, "/dev/group/volume:/file.img", "dracut"),
        (LVM, "/dev/mapper/group-volume", "initramfs-tools"),
        ({**CRYPTROOT, **TAB}, "/dev/mapper/kept", "initramfs-tools"),
        ({**SYSTEMD_CRYPTSETUP, **TAB}, "/dev/mapper/late", "dracut"),
        (SYSTEMD_CRYPTSETUP, "/dev/mapper/by-kernel-parameter", "dracut"),
    ],
)
def test_what_there_is(tmp_path: Path, files: dict[str, str], device: str, tool: str) -> None:
    assert found(tmp_path, files, device, tool) == []


@pytest.mark.parametrize(
    ("files", "device", "tool", "what", "packages"),
    [
        ({}, "/dev/group/volume", "initramfs-tools", "there is no LVM to make it appear", ("lvm2",)),
        ({}, "/dev/group/volume:/file.img", "dracut", "there is no LVM to make it appear", ("lvm2",)),
        ({}, "/dev/mapper/group-volume", "initramfs-tools", "neither LVM nor cryptsetup in the initrd", ()),
        (TAB, "/dev/mapper/kept", "initramfs-tools", "nothing in the initrd opens /dev/mapper/kept", ("cryptsetup-initramfs",)),
        ({**LVM, **TAB}, "/dev/mapper/kept", "dracut", "nothing in the initrd opens /dev/mapper/kept", ("systemd-cryptsetup",)),
        ({**CRYPTROOT, **TAB}, "/dev/mapper/late", "initramfs-tools", "the line of late in /etc/crypttab lacks the option", ()),
        ({**CRYPTROOT, **TAB}, "/dev/mapper/bare", "initramfs-tools", "the line of bare in /etc/crypttab lacks the option", ()),
    ],
)
def test_what_is_missing(tmp_path: Path, files: dict[str, str], device: str, tool: str, what: str, packages: tuple[str, ...]) -> None:
    (problem,) = found(tmp_path, files, device, tool)
    assert what in problem.what
    assert problem.packages == packages
    assert bool(problem.advice) != bool(packages)


def test_it_is_refused_and_found_afterwards(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root")
    settings = tmp_path / "settings.yaml"
    settings.write_text("upper: {device: /dev/group/volume}\n")
    with pytest.raises(PreflightError, match="is a logical volume, and there is no LVM") as refused:
        install(Choice(root=root), settings, lambda _: None)
    assert "apt-get install lvm2" in refused.value.hint
    make_fake_tree(root, {**LVM})
    assert install(Choice(root=root), settings, lambda _: None).done == "installed"
    (root / "sbin/lvm").unlink()
    (first, *_) = examine(Choice(root=root))
    assert (first.severity, first.fix) == (PROBLEM, "apt-get install lvm2")
