"""What is rendered, looked at by the tools of its own kind: shellcheck, the shells themselves, systemd-analyze, Python's compiler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cowroot.boot import mkinitcpio
from cowroot.boot.dracut import MODULE
from cowroot.boot.guard import INITRD_HOOK, KERNEL_HOOK
from cowroot.boot.render import render
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template
from cowroot.config import Config
from tests.t2_render.shells import SHELLS
from tests.t2_render.test_upstart import MOUNTALL_CONF

UBUNTU = Target(init="upstart", upstart="1.12.1", mountall_conf=MOUNTALL_CONF, runtime="/usr/lib/cowroot/runtime")
FILES = {
    each.path: each
    for target in (UBUNTU, Target(initramfs="dracut"), Target())
    for each in render(Config.default(), target)
    if isinstance(each, RenderedFile)
}
INITRAMFS = sorted(path for path in FILES if path.startswith("/etc/initramfs-tools/"))
DRACUT = [f"{MODULE}/boot", f"{MODULE}/functions"]
# In an Ubuntu with Upstart, /bin/sh is dash.
UPSTART = ["/usr/lib/cowroot/boot/functions", "/usr/lib/cowroot/boot/settings", "/usr/lib/cowroot/boot/upstart"]
# On a system that is up: /bin/sh is dash there, too.
RUNNING = [INITRD_HOOK, KERNEL_HOOK, "/etc/init.d/cowroot", "/etc/init.d/cowroot-umount", "/usr/lib/systemd/system-sleep/cowroot"]
UNITS = sorted(path for path in FILES if path.endswith(".service"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered files below a directory, at their paths."""
    root = tmp_path_factory.mktemp("rendered")
    for path, file in FILES.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content)
        place.chmod(file.mode)
    return root


def check(*command: str | Path) -> None:
    """Run a tool, and fail with all that it says if it says anything."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=120,
    )
    if done.returncode or done.stdout:
        pytest.fail(f"{command[0]}: exit code {done.returncode}\n{done.stdout.decode()}", pytrace=False)


@pytest.mark.parametrize("path", [*INITRAMFS, *UPSTART, *DRACUT, *RUNNING])
def test_shellcheck(root: Path, path: str) -> None:
    check("shellcheck", "--shell=sh", "--external-sources", root / path.lstrip("/"))


def test_shellcheck_of_the_dracut_module(root: Path) -> None:
    """dracut is a bash script that sources it."""
    check("shellcheck", "--shell=bash", root / f"{MODULE}/module-setup.sh".lstrip("/"))


@pytest.mark.parametrize("path", [*INITRAMFS, *UPSTART, *DRACUT, *RUNNING])
@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_can_read_it(root: Path, path: str, shell: str) -> None:
    check(*SHELLS[shell], "-n", root / path.lstrip("/"))


def test_shellcheck_of_the_mkinitcpio_hook(tmp_path: Path) -> None:
    """mkinitcpio is a bash script that sources one part; busybox's shell, which is near to dash, sources the other in the initrd."""
    files = {each.path: each for each in render(Config.default(), Target(initramfs="mkinitcpio")) if isinstance(each, RenderedFile)}
    (tmp_path / "functions").write_bytes(files[f"{mkinitcpio.HOME}/functions"].content)
    for path, shell in ((mkinitcpio.INSTALL, "bash"), (mkinitcpio.HOOK, "dash")):
        (tmp_path / "hook").write_bytes(files[path].content)
        check("shellcheck", f"--shell={shell}", "--external-sources", tmp_path / "hook")
    check(*SHELLS["busybox"], "-n", tmp_path / "hook")


@pytest.mark.parametrize("template", ["order", "carry", "ask"])
def test_shellcheck_of_the_rehearsal(tmp_path: Path, template: str) -> None:
    text = render_template("initramfs-hooks", f"rehearsal/{template}.j2", origin=ORIGIN, begin="BEGIN", end="END")
    (tmp_path / template).write_text(text)
    check("shellcheck", "--shell=sh", tmp_path / template)


@pytest.mark.parametrize("path", UNITS)
def test_systemd_analyze_verify(root: Path, path: str) -> None:
    check("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", root / path.lstrip("/"))


@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_the_drop_ins_of_the_layers(root: Path, tmp_path: Path, layer: str) -> None:
    """With a mount as systemd would find it, since a drop-in alone is no unit."""
    name = f"run-cowroot-{layer}.mount"
    (tmp_path / name).write_text(f"[Mount]\nWhat=/dev/null\nWhere=/run/cowroot/{layer}\n")
    (tmp_path / f"{name}.d").symlink_to(root / "etc/systemd/system" / f"{name}.d")
    check("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / name)


def test_the_drop_in_of_lvm_s_service(root: Path, tmp_path: Path) -> None:
    name = "blk-availability.service"
    (tmp_path / name).write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    (tmp_path / f"{name}.d").symlink_to(root / "etc/systemd/system" / f"{name}.d")
    check("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / name)


@pytest.mark.parametrize("path", [path for path in INITRAMFS if FILES[path].mode == 0o755])
def test_initramfs_tools_can_ask_for_prerequisites(root: Path, path: str) -> None:
    """mkinitramfs runs each script with `prereqs` to put them in order, outside of an initrd."""
    check_output = subprocess.run([root / path.lstrip("/"), "prereqs"], stdout=subprocess.PIPE, check=True, timeout=60).stdout
    assert check_output == b"\n"
