"""An image that means harm cannot read, write or run anything on the machine that installs into it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cowroot.errors import CowrootError
from cowroot.install.installation import install
from cowroot.install.manifest import FORMAT, MANIFEST, read_manifest
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from tests.t3_install.debian import RELEASE, make_debian
from tests.t3_install.fake import Link, Script, make_fake_tree, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installing mounts an overlay, which needs root")


def put_in(root: Path, said: list[str] | None = None) -> None:
    install(Choice(root=root), None, (said if said is not None else []).append)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return make_fake_tree(tmp_path / "outside", {"/cowroot.yaml": "enabled: [", "/cowroot/x": "", "/manifest.json": "{", "/file": "host"})


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../../../../..{outside}"])
@pytest.mark.parametrize(
    "path", ["/etc/cowroot", "/etc/initramfs-tools/hooks", "/usr/lib/cowroot", "/boot/grub/grubenv", "/usr/bin/cowroot", "/var/lib/cowroot"]
)
def test_links_out_of_the_image_lead_nowhere(tmp_path: Path, outside: Path, path: str, target: str) -> None:
    root = make_debian(tmp_path / "root", {path: Link(target.format(outside=outside))}, without=(path,))
    before, host_before = snapshot(root), snapshot(outside)
    try:
        put_in(root)
    except CowrootError:
        # The directory that the link names is not there as the image sees it: refusing is as good as going on.
        assert snapshot(root) == before
    else:
        uninstall(Choice(root=root), lambda _: None)
        assert snapshot(root) == before
    assert snapshot(outside) == host_before


def test_links_inside_the_image_are_followed(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", {"/etc/grub.d": Link("/opt/grub.d"), "/opt/grub.d/00_header": ""}, without=("/etc/grub.d",))
    before = snapshot(root)
    put_in(root)
    assert (root / "opt/grub.d/99_cowroot").is_file()
    uninstall(Choice(root=root), lambda _: None)
    assert snapshot(root) == before


@pytest.mark.parametrize("path", ["/etc/os-release", "/etc/fstab", "/boot/grub/grubenv", "/etc/cowroot/cowroot.yaml", "/usr/bin/cowroot"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_what_should_be_a_file_is_something_else(tmp_path: Path, path: str, kind: str) -> None:
    root = make_debian(tmp_path / "root", without=(path,))
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "device":
        os.mknod(place, 0o060600, os.makedev(254, 0))
    else:
        place.mkdir()
        (place / "inside").touch()
    before = snapshot(root)
    try:
        put_in(root)
    except CowrootError:
        assert snapshot(root) == before
    else:
        uninstall(Choice(root=root), lambda _: None)
        assert snapshot(root) == before


# What a tool of the image finds around itself; each line tries one way out and says "out" where there is one.
_ESCAPES = """\
#!/bin/sh
[ "$$" = 1 ] || echo "out: not process 1 but $$"
[ ! -e "{outside}" ] || echo "out: sees the host's files"
[ ! -e "/proc/1/root{outside}" ] || echo "out: sees the host through /proc"
for device in /dev/*; do
	case $device in
	/dev/null | /dev/zero | /dev/full | /dev/random | /dev/urandom | /dev/tty | /dev/fd | /dev/std* | /dev/shm) ;;
	*) echo "out: there is $device" ;;
	esac
done
while read -r key value; do
	case $key in
	CapBnd:) [ "$value" = 00000000800400ff ] || echo "out: it may have the capabilities $value" ;;
	NoNewPrivs:) [ "$value" = 1 ] || echo "out: it may gain rights" ;;
	esac
done </proc/self/status
{{ echo 1 >/proc/sys/kernel/sysrq; }} 2>/dev/null && echo "out: it may set kernel parameters"
{{ echo x >/sys/kernel/uevent_helper; }} 2>/dev/null && echo "out: it may write to /sys"
while read -r line; do
	case $line in *:*) case ${{line%%:*}} in *lo) ;; *face) ;; *) echo "out: it has the network ${{line%%:*}}" ;; esac ;; esac
done </proc/net/dev
echo tried
exit 1
"""


def test_a_tool_finds_no_way_out(tmp_path: Path, outside: Path) -> None:
    root = make_debian(tmp_path / "root", {"/usr/sbin/update-initramfs": Script(_ESCAPES.format(outside=outside))})
    before, said = snapshot(root), list[str]()
    with pytest.raises(CowrootError, match="exit code 1"):
        put_in(root, said)
    assert any("tried" in line for line in said)
    assert not [line for line in said if "out:" in line]
    assert snapshot(root) == before


def test_a_tool_that_replaces_the_world_is_undone(tmp_path: Path) -> None:
    """Whatever a tool does to the image is seen, recorded and undone."""
    vandal = Script(
        "#!/bin/sh\n"
        f"echo init >/boot/initrd.img-{RELEASE}; echo etc/cowroot.conf >>/boot/initrd.img-{RELEASE}\n"
        "cd /etc/initramfs-tools\n"
        f'for script in scripts/cowroot scripts/*/cowroot; do echo "$script"; done >>/boot/initrd.img-{RELEASE}\n'
        "echo new >/etc/shadow-new; echo changed >/etc/fstab\n"
    )
    root = make_debian(tmp_path / "root", {"/usr/sbin/update-initramfs": vandal})
    before = snapshot(root)
    put_in(root)
    assert (root / "etc/fstab").read_text() == "changed\n"
    uninstall(Choice(root=root), lambda _: None)
    assert snapshot(root) == before


_MANIFEST = {"format": FORMAT, "version": "1", "kernels": [], "directories": {}, "records": [], "var_lib_mtime_ns": 1}
_STATE = {"kind": "file", "mode": "0644", "uid": 0, "gid": 0, "mtime_ns": 1, "size": 0, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps(_MANIFEST | {"directories": {"/etc/\0": [1, 2]}}),
        json.dumps(_MANIFEST | {"directories": {"etc": [1, 2]}}),
        json.dumps(_MANIFEST | {"records": [{"path": "/etc/file", "origin": "rendered", "before": _STATE | {"gid": -1}, "after": None}]}),
        json.dumps(_MANIFEST | {"records": [{"path": 5, "origin": "rendered", "before": None, "after": None}]}),
    ],
)
def test_a_manifest_that_nobody_wrote_is_named_as_damaged(tmp_path: Path, text: str) -> None:
    root = make_fake_tree(tmp_path / "root", {MANIFEST: text})
    with pytest.raises(CowrootError, match="is damaged"):
        read_manifest(root)
