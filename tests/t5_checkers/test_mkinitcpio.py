"""mkinitcpio's hook: what it puts into an initrd, with mkinitcpio's functions stood in for, and the boot there, with real mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowroot.boot.mkinitcpio import HOME, HOOK, INSTALL, render_mkinitcpio
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from tests.t5_checkers.initramfs import PYTHON, Machine, build_machine, libfuse

FILES = {
    each.path: each.content.decode()
    for each in render_mkinitcpio(Target(initramfs="mkinitcpio", python=str(PYTHON), libfuse=str(libfuse())))
    if isinstance(each, RenderedFile)
}

_MKINITCPIO = """
error() { echo "error $*"; }
add_module() { echo "module $1"; }
add_binary() { echo "binary $1"; }
add_file() { echo "file $*"; }
add_symlink() { echo "link $*"; }
add_runscript() { echo runscript; }
export BUILDROOT=$2
. "$1"
build
echo goes on
"""

# What /init does with a hook, on a root that the machine has mounted.
_INIT = """\
#!/bin/sh
ln -s root /new_root
rwopt=rw
. /hooks/cowroot
run_hook
echo "rwopt=$rwopt fastboot=${fastboot-}"
unset run_latehook
. /hooks/cowroot
run_latehook
echo "resolve_device is $(command -v resolve_device || echo not defined)"
"""


def _build(tmp_path: Path, *, code: int = 0) -> subprocess.CompletedProcess[str]:
    (tmp_path / "etc").mkdir()
    program = tmp_path / "cowroot"
    program.write_text(f"#!/bin/sh\necho \"COWROOT_ENABLED=true # $*\"\nexit {code}\n")
    program.chmod(0o755)
    (tmp_path / "install").write_text(FILES[INSTALL].replace("/usr/bin/cowroot", str(program)))
    command = ["bash", "-c", _MKINITCPIO, "bash", str(tmp_path / "install"), str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_an_initrd_gets(tmp_path: Path) -> None:
    done = _build(tmp_path)
    said = done.stdout.splitlines()
    assert (tmp_path / "etc/cowroot.conf").read_text() == "COWROOT_ENABLED=true # config shell\n"
    assert said[:2] == ["module fuse?", "module overlay?"]
    assert {"binary chroot", "binary blkid", "binary blockdev", "binary mount", "binary umount"} <= set(said)
    assert said[-3:] == [f"file {HOME}/functions /usr/lib/cowroot-boot/functions 644", "runscript", "goes on"]
    assert (done.returncode, done.stderr) == (0, "")


def test_what_an_initrd_with_systemd_gets(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/systemd").mkdir(parents=True)
    (tmp_path / "usr/lib/systemd/systemd").touch()
    said = _build(tmp_path).stdout
    units = "/usr/lib/systemd/system"
    assert f"file {HOME}/boot /usr/lib/cowroot-boot/boot 755\n" in said
    assert f"file {HOME}/cowroot-root.service {units}/cowroot-root.service 644\n" in said
    assert f"link {units}/initrd-root-fs.target.requires/cowroot-root.service ../cowroot-root.service\n" in said


def test_wrong_settings_end_mkinitcpio(tmp_path: Path) -> None:
    done = _build(tmp_path, code=2)
    assert done.returncode == 1
    assert done.stdout == "error cowroot: the settings in /etc/cowroot/cowroot.yaml cannot be used, see above\n"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = build_machine(tmp_path_factory.mktemp("machine"), "busybox")
    tree = machine.tree
    shutil.rmtree(tree / "scripts")
    for path, content in {
        "hooks/cowroot": FILES[HOOK],
        "usr/lib/cowroot-boot/functions": FILES[f"{HOME}/functions"],
        "scripts/local-bottom/cowroot": _INIT,
        "bin/udevadm": "#!/bin/sh\n",
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(content)
        (tree / path).chmod(0o755)
    yield machine
    assert not machine.loops


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts as a boot does: only root can")
class TestBoot:
    def test_the_union_becomes_the_root(self, machine: Machine) -> None:
        booted = machine.boot("rw", after="echo new >root/etc/new && cat run/cowroot/upper/upper/etc/new")
        assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
        assert booted.mounts["/root"][0] == "fuse.cowroot"
        assert "ro" in booted.mounts["/run/cowroot/lower"][1]
        assert booted.after == "new"
        assert "rwopt=ro fastboot=y\n" in booted.console
        assert "resolve_device is not defined\n" in booted.console, "/init would go on with ours"

    def test_it_can_be_left_out(self, machine: Machine) -> None:
        booted = machine.boot("cowroot=off")
        assert booted.boot["rung"] == "off"
        assert booted.mounts["/root"][0] == "ext4"
        assert "rwopt=rw fastboot=\n" in booted.console

    def test_an_upper_that_is_missing(self, machine: Machine) -> None:
        booted = machine.boot("cowroot.upper=LABEL=no-such-disk cowroot.wait=0")
        assert booted.boot["rung"] == "tmpfs"
        assert booted.boot["reasons"] == ["LABEL=no-such-disk did not appear in 0 seconds"]
