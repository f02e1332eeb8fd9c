"""`cowroot doctor`: what is found in a target, what is said of it, and that nothing is changed by looking."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cowroot.cli.main import main
from cowroot.install import doctor
from cowroot.install.doctor import PROBLEM, WARNING, examine
from cowroot.install.installation import install
from cowroot.install.target import Choice
from tests.t3_install.debian import RELEASE, kernel, make_debian
from tests.t3_install.fake import Script, make_fake_tree, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the target's tools run in a sandbox, which needs root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With cowroot installed."""
    made = make_debian(tmp_path / "root")
    install(Choice(root=made), None, lambda _: None)
    return made


def findings(root: Path) -> list[tuple[str, str]]:
    before = snapshot(root)
    found = [(each.severity, each.what) for each in examine(Choice(root=root))]
    assert snapshot(root) == before
    return found


def test_all_is_well(root: Path) -> None:
    assert findings(root) == []
    assert main(["doctor", "--root", str(root)]) == 0


def test_what_is_not_installed(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", without=("/usr/lib/x86_64-linux-gnu/libfuse",))
    assert findings(root) == [(PROBLEM, "libfuse 2 is missing (libfuse.so.2)")]
    root = make_debian(tmp_path / "other")
    assert findings(root) == [(PROBLEM, "cowroot is not installed")]


def test_a_kernel_whose_initrd_lacks_the_union(root: Path) -> None:
    make_fake_tree(root, {**kernel("6.20"), "/boot/initrd.img-6.20": "init\n"})
    (severity, what), *others = findings(root)
    assert severity == PROBLEM
    assert what.startswith("/boot/initrd.img-6.20 lacks etc/cowroot.conf, scripts/")
    assert what.endswith("6.20 would boot onto the writable disk")
    assert others == []


def test_a_kernel_without_an_initrd(root: Path) -> None:
    (root / f"boot/initrd.img-{RELEASE}").unlink()
    assert findings(root) == [(PROBLEM, f"the kernel {RELEASE} has no initrd")]


def test_files_and_settings_that_were_changed(root: Path) -> None:
    (root / "etc/initramfs-tools/hooks/cowroot").write_text("#!/bin/sh\n")
    (root / "etc/cowroot/cowroot.yaml").write_text("upper: {size: 60%}\n")
    assert findings(root) == [
        (PROBLEM, "/etc/initramfs-tools/hooks/cowroot is not as this version and the settings want it"),
        (PROBLEM, "/etc/cowroot/cowroot.yaml was changed since it was last brought into force"),
    ]


def test_settings_that_cannot_be(root: Path) -> None:
    (root / "etc/cowroot/cowroot.yaml").write_text("upper: {size: 0}\n")
    assert findings(root) == [(PROBLEM, "/etc/cowroot/cowroot.yaml:1: upper.size is '0', less than 1M, too small to boot with")]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ("read_only: true", "upper.read_only is about an upper on a device, and upper.device is tmpfs"),
        (
            "read_only: true, device: LABEL=data, reset: true",
            "upper.read_only keeps what is in the upper, and upper.reset and upper.random_key do not",
        ),
    ],
)
def test_a_read_only_upper_that_cannot_be(root: Path, settings: str, what: str) -> None:
    (root / "etc/cowroot/cowroot.yaml").write_text(f"upper: {{{settings}}}\n")
    assert (PROBLEM, what) in findings(root)


def test_what_grub_would_say_to_the_kernel(root: Path) -> None:
    menu = root / "boot/grub/grub.cfg"
    entries = "".join(
        f"menuentry '{title}' {{\n\tlinux\t/boot/vmlinuz-{RELEASE} root=LABEL=fake ro {words}\n}}\n"
        for title, words in (("good", "quiet"), ("bad", "cowroot.size=banana"), ("off", "cowroot=off"))
    )
    menu.write_text(entries + "### BEGIN /etc/grub.d/99_cowroot ###\nmenuentry 'x' $id 'cowroot-off' {\n\tlinux /boot/v cowroot=off\n}\n")
    (root / "boot/grub/grubenv").write_text("# GRUB Environment Block\n")
    found = findings(root)
    assert (PROBLEM, "GRUB boots 'bad' with a bad parameter: kernel parameter cowroot.size is 'banana', not a size") in found
    assert (WARNING, "GRUB boots 'off' without a union (cowroot=off)") in found
    assert (WARNING, "/boot/grub/grubenv is not empty: GRUB may write to the disk") in found
    assert not any("'good'" in what or "'x'" in what for _, what in found)


def test_what_fstab_has(tmp_path: Path) -> None:
    table = (
        "LABEL=fake / ext4 x-systemd.growfs 0 1\nLABEL=changes /srv ext4 defaults 0 2\n/swap none swap sw 0 0\n"
        "LABEL=data /data ext4 defaults 0 2\nLABEL=ro /ro ext4 ro 0 2\ntmpfs /tmp tmpfs defaults 0 0\n"
        "LABEL=boot /boot ext4 defaults 0 2\nLABEL=home /home ext4 defaults 0 2\n"
    )
    settings = "upper: {device: LABEL=changes}\nmounts: {/home: union, LABEL=hoem: absent, type=xfs: absent}\n"
    root = make_debian(tmp_path / "root", {"/etc/fstab": table, "/etc/cowroot/cowroot.yaml": settings})
    install(Choice(root=root), None, lambda _: None)
    assert findings(root) == [
        (PROBLEM, "/etc/fstab mounts LABEL=changes at /srv, which is to hold the upper"),
        (PROBLEM, "the rule for LABEL=hoem in mounts decides about no line of /etc/fstab"),
        (WARNING, "/etc/fstab has the root file system grown at boot, which no longer happens"),
        (WARNING, "the swap file /swap is left out: it cannot lie on the union"),
        (WARNING, "/data is a file system of its own and stays writable"),
    ]


def test_layers_that_are_not_there(root: Path) -> None:
    settings = "lowers: [/opt/app.squashfs, /srv, LABEL=x:/y]\n"
    make_fake_tree(root, {"/etc/cowroot/cowroot.yaml": settings, "/srv/file": ""})
    assert (PROBLEM, "the layer /opt/app.squashfs of lowers is not there") in findings(root)
    assert not [what for _, what in findings(root) if "/srv" in what or "LABEL=x" in what]


def test_what_works_against_a_union(root: Path) -> None:
    make_fake_tree(root, {"/etc/overlayroot.conf": '#overlayroot="x"\noverlayroot="tmpfs"\n', "/usr/bin/unattended-upgrade": Script("")})
    assert findings(root) == [
        (PROBLEM, "/etc/overlayroot.conf: overlayroot makes an overlay of / as well"),
        (WARNING, "unattended-upgrades installs into the upper"),
    ]
    (root / "etc/overlayroot.conf").write_text('overlayroot=""\noverlayroot_cfgdisk="disabled"\n')
    assert findings(root) == [(WARNING, "unattended-upgrades installs into the upper")]


def test_what_is_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / f"boot/initrd.img-{RELEASE}").unlink()
    with pytest.raises(SystemExit, match=r"^4$"):
        main(["doctor", "--root", str(root)])
    assert capsys.readouterr().out == f"! the kernel {RELEASE} has no initrd\n    fix: cowroot install\n"
    with pytest.raises(SystemExit, match=r"^4$"):
        main(["doctor", "--root", str(root), "--json"])
    assert json.loads(capsys.readouterr().out) == [
        {"severity": "problem", "what": f"the kernel {RELEASE} has no initrd", "fix": "cowroot install"}
    ]


def test_each_finding_says_what_to_do() -> None:
    """In all of the module: a finding without a way to mend it does not help."""
    assert all(fix for *_, fix in (*doctor._RIVALS, *doctor._SELF_CHANGING))
