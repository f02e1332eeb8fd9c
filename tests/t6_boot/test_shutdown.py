"""Shutting down on a root that a process serves, again and again, by the image's own systemd-shutdown, while the root is busy.

Its kill spree stops every process, the daemon included, and then looks up paths on / (systemd's src/shared/killall.c). Without the
daemon's timer that wakes it up again, that is a deadlock each time. A whole boot takes long and shows it once (test_poweroffs.py); here
systemd-shutdown is the first process of a PID namespace, on a union that the boot script has brought up, and the namespace's end is the
power-off.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.t5_checkers.initramfs import attach, build_tree, detach
from tests.t6_boot.disk import OFFSET
from tests.t6_boot.image import Image

ROUNDS = int(os.environ.get("COWROOT_POWEROFFS", "100"))
LIMIT = 60.0  # seconds: one takes about two
# reboot(2) in a PID namespace ends its first process by this signal where the machine would be powered off.
POWERED_OFF = -signal.SIGINT

# With container= set systemd-shutdown leaves this machine's loop devices and swap alone. The kill spree is the same.
_RUN = """
set -e
tree=$1 root=$2 console=$3
test -b "$root"; test -d "$tree/scripts"
mount -t tmpfs -o size=256M,mode=0755 tmpfs "$tree.run"
cp -a "$tree/." "$tree.run/"
cd "$tree.run"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir run/initramfs
mount -o ro "$root" root
echo root=x >run/cmdline
mount --bind run/cmdline proc/cmdline
chroot . /bin/sh -c 'cd /; rootmnt=/root quiet=n panic= exec /scripts/local-bottom/cowroot'
grep -q '/root fuse.cowroot ' proc/mounts
mount -o move run root/run
mount -o move proc root/proc
mount --rbind /dev root/dev
mount --bind "$console" root/dev/console
cd root
chroot . /bin/bash -c 'while :; do find / -xdev -size +1M; done' </dev/null >/dev/null 2>&1 &
chroot . /bin/bash -c 'while :; do tar -cf /var/tmp/tar -C /usr/share .; rm -f /var/tmp/tar; done' </dev/null >/dev/null 2>&1 &
chroot . /bin/bash -c 'while :; do for n in 1 2 3 4; do echo $n >/var/tmp/n; mv /var/tmp/n /var/tmp/n.$n; done; done' </dev/null &
chroot . /bin/bash -c '{ rm /var/tmp/nameless; while :; do date; done; } >/var/tmp/nameless' </dev/null &
sleep "$4"
export container=other
exec chroot . /usr/lib/systemd/systemd-shutdown poweroff --log-level info --log-target console --timeout 20s
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = build_tree(tmp_path_factory.mktemp("shutdown") / "tree", "klibc")
    (tree / "etc/cowroot.conf").touch()
    tree.with_suffix(".run").mkdir()
    return tree


@pytest.mark.long
def test_every_power_off_under_load_is_clean(appliance: Image, tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", str(appliance.disk), str(copy)], check=True)
    device = attach(copy, OFFSET)
    try:
        longest = max(power_off(tree, device, tmp_path, number) for number in range(ROUNDS))
    finally:
        detach(device)
    print(f"{ROUNDS} power-offs under load, the longest {longest:.1f} s from the boot script's start")


def power_off(tree: Path, device: str, place: Path, number: int) -> float:
    """Bring a union up, make it busy, shut down; return the seconds that took."""
    console = place / f"console{number}"
    console.touch()
    began = time.monotonic()
    busy = f"0.{1 + number % 9}"  # another moment of the load each time
    done = subprocess.run(
        ["timeout", "--kill-after=5", str(LIMIT), "unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
         "sh", "-c", _RUN, "sh", str(tree), device, str(console), busy],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )
    said = done.stdout.decode(errors="replace") + console.read_text(errors="replace")
    assert done.returncode == POWERED_OFF, f"round {number} ended with {done.returncode} after {time.monotonic() - began:.0f} s:\n{said}"
    assert "Powering off." in said, said
    return time.monotonic() - began
