"""The Ansible role and the Puppet module on a real Debian: its own ansible-core and puppet-agent, kernel, initrds and GRUB, in a chroot.

``python -m tests.t3_install.managed [--suite bookworm] [--root DIR]`` makes the system with mmdebstrap, or takes the one at DIR, and prints
a line for each step. It takes some minutes, most of them for the initrds.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.t6_boot.image import CHECKOUT, debian_mirror

_PACKAGES = (
    "ansible-core", "grub-pc", "initramfs-tools", "linux-image-cloud-amd64", "puppet-agent", "python3-apt", "python3-venv", "systemd-sysv",
    "udev", "zstd",
)  # fmt: skip
_LIBFUSE = {"bookworm": "libfuse2", "trixie": "libfuse2t64"}
_PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
_SETTINGS = {"engine": "fusepy", "upper": {"size": "40%"}}
# What a run leaves that has nothing to do with the machine's state.
_NOISE = (
    "proc", "sys", "dev", "run", "tmp", "provisioning", "wheels", "root/.ansible", "etc/puppet", "var/cache/apt", "var/cache/puppet",
    "var/lib/puppet", "var/log",
)  # fmt: skip

_ENTER = """
mount --bind "$1" "$1"
for place in dev proc sys; do mount --rbind "/$place" "$1/$place"; done
mount -t tmpfs tmpfs "$1/run"
mkdir -p "$1/provisioning" "$1/wheels"
mount --bind "$2" "$1/provisioning"
mount --bind "$3" "$1/wheels"
root=$1
shift 3
exec chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
	ANSIBLE_ROLES_PATH=/provisioning/ansible "$@"
"""


class Failed(Exception):
    """A step ended otherwise than it should."""


class Managed:
    """The system at `root`, and the wheels that it takes cowroot from."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root, self.wheels = root, wheels
        (self.wheel,) = (each.name for each in wheels.glob("cowroot-*.whl"))

    def run(self, *command: str) -> tuple[int, str]:
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", _ENTER, "sh"]
        places = [self.root, CHECKOUT / "provisioning", self.wheels]
        done = subprocess.run(
            [*enter, *places, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.returncode, done.stdout

    def ansible(self, *options: str, state: str = "present") -> tuple[bool, str]:
        """Run the role; tells whether it changed something."""
        play = [{"hosts": "localhost", "connection": "local", "gather_facts": True, "roles": [{"role": "cowroot"}]}]
        (self.root / "playbook.yml").write_text(json.dumps(play))
        pip = ["--no-index", "--find-links", "/wheels"]
        given = {"state": state, "source": f"/wheels/{self.wheel}", "pip_arguments": pip, "settings": _SETTINGS}
        variables = json.dumps({f"cowroot_{name}": value for name, value in given.items()})
        code, text = self.run("ansible-playbook", "-i", "localhost,", "-e", variables, *options, "/playbook.yml")
        (self.root / "playbook.yml").unlink()
        if code:
            raise Failed(text)
        return "changed=0" not in text, text

    def puppet(self, *options: str, ensure: str = "present") -> tuple[bool, str]:
        """Apply the class; tells whether it changed something."""
        pip = "['--no-index', '--find-links', '/wheels']"
        settings = "{ 'engine' => 'fusepy', 'upper' => { 'size' => '40%' } }"
        parameters = f"ensure => {ensure}, source => '/wheels/{self.wheel}', pip_arguments => {pip}, settings => {settings}"
        apply = ["puppet", "apply", "--detailed-exitcodes", "--modulepath", "/provisioning/puppet"]
        code, text = self.run(*apply, *options, "-e", f"class {{ 'cowroot': {parameters} }}")
        if code not in (0, 2):
            raise Failed(text)
        return code == 2, text

    def state(self) -> dict[str, str]:
        """Every file and link by path, with a digest."""
        found = {}
        for folder, directories, names in os.walk(self.root):
            inside = os.path.relpath(folder, self.root)
            directories[:] = [each for each in directories if os.path.normpath(f"{inside}/{each}") not in _NOISE]
            for name in names:
                path = Path(folder, name)
                content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
                found[os.path.normpath(f"{inside}/{name}")] = hashlib.sha256(content).hexdigest()
        return found


def _bootstrap(suite: str, root: Path) -> None:
    mirror = debian_mirror()
    packages = ",".join((*_PACKAGES, _LIBFUSE[suite]))
    command = ["unshare", "--mount", "mmdebstrap", "--quiet", "--mode=root", "--variant=apt", f"--include={packages}"]
    options = ['--aptopt=Apt::Install-Recommends "false"', "--dpkgopt=path-exclude=/usr/share/doc/*"]
    subprocess.run([*command, *options, suite, str(root), *([mirror] if mirror else [])], check=True)


def _fetch_wheels(suite: str, place: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(place), str(CHECKOUT)]
    subprocess.run(build, stdout=subprocess.DEVNULL, check=True)
    fit = ["--python-version", _PYTHON[suite], "--only-binary=:all:"]
    subprocess.run([*pip, "download", "--quiet", *fit, "--dest", str(place), "click<8.2", "Jinja2", "MarkupSafe", "PyYAML"], check=True)
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), "fusepy==3.0.1"], check=True)


def _try(machine: Managed) -> None:
    """All of it, with both tools. Raises Failed."""
    tools: dict[str, tuple[Callable[..., tuple[bool, str]], str, str]] = {
        "Ansible": (machine.ansible, "--check", "state"),
        "Puppet": (machine.puppet, "--noop", "ensure"),
    }
    for name, (tool, dry, word) in tools.items():
        before = machine.state()
        _expect(f"{name}, dry", tool(dry), changed=name == "Ansible")  # Puppet's exit code does not count what it would do
        _compare(f"{name}, dry", before, machine.state())
        _expect(f"{name}, first run", tool(), changed=True)
        installed = machine.state()
        code, text = machine.run("cowroot", "doctor")
        if code:
            raise Failed(text)
        _expect(f"{name}, second run", tool(), changed=False)
        _compare(f"{name}, second run", installed, machine.state())
        _expect(f"{name}, dry after it", tool(dry), changed=False)
        _expect(f"{name}, taken out", tool(**{word: "absent"}), changed=True)
        _expect(f"{name}, taken out again", tool(**{word: "absent"}), changed=False)
        _compare(f"{name}, taken out", before, machine.state())


_began = time.monotonic()


def _expect(what: str, result: tuple[bool, str], *, changed: bool) -> None:
    if result[0] != changed:
        raise Failed(f"{what}: changed something: {result[0]}, wanted: {changed}\n{result[1]}")
    print(f"{time.monotonic() - _began:6.0f} s  {what}: {'changed' if changed else 'nothing changed'}", flush=True)


def _compare(what: str, before: dict[str, str], after: dict[str, str]) -> None:
    different = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if different:
        raise Failed(f"{what}: these are not as before: {' '.join(different[:20])}")


def main() -> int:
    """Make the system, try all of it, say how it went."""
    parser = argparse.ArgumentParser(description="Try the Ansible role and the Puppet module on a real Debian in a chroot.")
    parser.add_argument("--suite", choices=sorted(_PYTHON), default="bookworm")
    parser.add_argument("--root", type=Path, help="a system that is there already, as this makes it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowroot-managed-") as place:
        root, wheels = options.root or Path(place, "root"), Path(place, "wheels")
        wheels.mkdir()
        if not options.root:
            _bootstrap(options.suite, root)
        _fetch_wheels(options.suite, wheels)
        try:
            _try(Managed(root, wheels))
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
