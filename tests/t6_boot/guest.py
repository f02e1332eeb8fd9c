"""What goes into a guest and comes out of it: checks on the way in, one verdict on the way out, the image itself untouched.

A check is a bash script in checks/. An archive appended to the image's initrd carries it: a late initramfs script copies it to /run,
which moves into the booted system, together with a unit that runs it. Nothing of it is on the disk, and the boot is otherwise
the image's own, default target included. The kernel command line says which check to run (``boot-test=NAME``), the guest asserts
and ends itself, and the host reads the console, on which the guest has written

    COWROOT-STATE: running 8.31               what `systemctl is-system-running --wait` said, and the seconds since the kernel's start
    COWROOT-VERDICT: pass|fail NAME reason
    COWROOT-ENDING: poweroff|reboot           right before the request
"""
from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.t6_boot import cpio, disk, recipe
from tests.t6_boot.disk import BuildError
from tests.t6_boot.image import Image

CHECKS = Path(__file__).resolve().parent / "checks"

_UNIT = b"""\
[Unit]
Description=Boot test
After=multi-user.target

[Service]
Type=exec
ExecStart=/bin/sh -c 'exec /bin/bash /run/cowroot-checks/run >/dev/console 2>&1'
KillMode=process
"""

_FACTS = f"""\
root_label={recipe.ROOT_LABEL}
debs_label={recipe.DEBS_LABEL}
plain_user={recipe.PLAIN_USER}
password={recipe.PASSWORD}
luks_uuid={recipe.LUKS_UUID}
luks_key={recipe.LUKS_KEY}
volume_uuid={recipe.VOLUME_UUID}
passphrase='{recipe.PASSPHRASE}'
""".encode()

# /init reads conf.d before it runs any script, and every scripts directory's ORDER file when it comes to it.
_HOOK = b"""\
echo '/scripts/init-bottom/cowroot-checks "$@"' >>/scripts/init-bottom/ORDER
"""

# Where there is systemd in the initrd (dracut), this runs shortly before the root is switched.
_DROP_IN = b"[Service]\nExecStartPre=/bin/sh /scripts/init-bottom/cowroot-checks\n"

# The initrd of an image without busybox has neither cp nor install.
_SCRIPT = b"""\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
mkdir -p /run/cowroot-checks
# User Mode Linux has modules in the initrd only.
read -r words </proc/cmdline
case $words in
*boot-test=luks* | *boot-test=volume*) modprobe -q -a dm-crypt xts ecb algif_skcipher ;;
esac
for file in /cowroot-checks/*; do cat "$file" >"/run/cowroot-checks/${file##*/}"; done
# What User Mode Linux has as a module, and no image has for it: `cowroot doctor` works on an overlay.
modprobe -q overlay
# With another init system its own tables run it; and to have this directory would be to say that systemd runs.
[ -e "${rootmnt:-/sysroot}/usr/lib/systemd/systemd" ] || exit 0
units=/run/systemd/system
mkdir -p $units/multi-user.target.wants
cat /cowroot-checks/cowroot-check.service >$units/cowroot-check.service
ln -s ../cowroot-check.service $units/multi-user.target.wants/cowroot-check.service
"""


@dataclass(frozen=True)
class BootFiles:
    """A kernel and an initrd to boot an image with, without its boot loader."""

    kernel: Path
    initrd: Path


def checks_archive() -> bytes:
    """Return the archive that makes a guest run the check that its kernel command line names."""
    files: dict[str, bytes | Path] = {f"cowroot-checks/{path.name}": path for path in sorted(CHECKS.iterdir()) if path.is_file()}
    files["cowroot-checks/cowroot-check.service"] = _UNIT
    files["cowroot-checks/facts"] = _FACTS
    files["conf/conf.d/cowroot-checks"] = _HOOK
    files["scripts/init-bottom/cowroot-checks"] = _SCRIPT
    files["etc/systemd/system/initrd-cleanup.service.d/cowroot-checks.conf"] = _DROP_IN
    return cpio.archive(files, frozenset({"scripts/init-bottom/cowroot-checks"}))


def boot_cache(image: Image) -> Path:
    """Return the directory beside ``image`` for what is taken out of it."""
    place = image.disk.parent / "boot"
    place.mkdir(exist_ok=True)
    return place


def boot_files(image: Image, place: Path, extra: bytes = b"") -> BootFiles:
    """Take the kernel and initrd out of ``image`` into ``place``, the initrd with the checks (and ``extra`` archives) appended.

    Raises BuildError if the image has none.
    """
    kernel = _extract(image, "/vmlinuz", place)
    original = _extract(image, "/initrd.img", place)
    added = extra + checks_archive()
    initrd = place / f"initrd-{hashlib.sha256(added + original.name.encode()).hexdigest()[:12]}"
    if not initrd.exists():
        growing = initrd.with_suffix(f".{os.getpid()}")
        growing.write_bytes(cpio.uncompressed(original.read_bytes()) + added)
        growing.rename(initrd)
    return BootFiles(kernel, initrd)


def read_file(image: Image, path: str) -> bytes:
    """Return a file of ``image``, read without mounting it; symlinks are followed. Raises BuildError if there is none."""
    for _ in range(8):
        target = _debugfs(image, f'stat "{path}"')
        link = [line.split('"')[1] for line in target.splitlines() if line.startswith("Fast link dest:")]
        if not link:
            break
        path = os.path.join(os.path.dirname(path), link[0])
    with subprocess.Popen(_command(image, f'cat "{path}"'), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        content = process.stdout.read()
    if not content:
        raise BuildError(f"{image.disk} has no file {path}")
    return content


def _extract(image: Image, path: str, place: Path) -> Path:
    content = read_file(image, path)
    target = place / f"{path.strip('/')}-{hashlib.sha256(content).hexdigest()[:12]}"
    if not target.exists():
        growing = target.with_suffix(f".{os.getpid()}")
        growing.write_bytes(content)
        growing.rename(target)
    return target


def _command(image: Image, request: str) -> list[str]:
    return ["debugfs", "-R", request, f"{image.disk}?offset={disk.OFFSET}"]


def _debugfs(image: Image, request: str) -> str:
    return subprocess.run(
        _command(image, request), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace", check=True
    ).stdout
