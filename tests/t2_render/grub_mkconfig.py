"""The machine's real grub-mkconfig, run over a made-up /boot, /etc/grub.d and /etc/default.

They are bind-mounted over the machine's own in a mount namespace, where grub-probe and grub-mkrelpath are stand-ins that describe the
test's disk. All that ends up in grub.cfg is written by the real scripts: Debian's 00_header, 10_linux and 30_os-prober hold Ubuntu's
code too, and which of the two speaks is a handful of variables at their top.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from cowroot.boot.rendered import Rendered, RenderedFile

UUID = "c0a9e9e4-5f0e-4a7b-9a52-0d2f4b6c8e10"
DEVICE = "/dev/vda1"
FORMS = ("debian", "ubuntu")

_SCRIPTS = ("00_header", "05_debian_theme", "10_linux", "30_os-prober", "40_custom")
_UBUNTU_SWITCHES = re.compile(r'^(ubuntu_recovery|quiet_boot|quick_boot|gfxpayload_dynamic|vt_handoff)="[01]"', re.MULTILINE)

_GRUB_PROBE = f"""#!/bin/sh
# A PC partition table with one file system, that GRUB calls FS.
while [ $# -gt 0 ]; do
    case $1 in
        --target=*) target=${{1#--target=}} ;;
        -t | --target) target=$2; shift ;;
    esac
    shift
done
case $target in
    device) echo "$DEVICE" ;;
    fs) echo FS ;;
    fs_uuid) echo {UUID} ;;
    partmap) echo msdos ;;
    abstraction) ;;
    compatibility_hint) echo hd0,msdos1 ;;
    hints_string) echo --hint-bios=hd0,msdos1 ;;
    *) echo "grub-probe: no answer for $target" >&2; exit 1 ;;
esac
"""
_GRUB_MKRELPATH = "#!/bin/sh\nprintf '%s\\n' \"$1\"\n"

_IN_NAMESPACE = """
mount --bind "$1/etc/grub.d" /etc/grub.d
mount --bind "$1/etc/default" /etc/default
mount --bind "$1/boot" /boot
mount --bind "$1/stand-in/grub-probe" /usr/sbin/grub-probe
mount --bind "$1/stand-in/grub-mkrelpath" /usr/bin/grub-mkrelpath
if [ -n "$MOUNTS" ]; then
    mount -t tmpfs tmpfs /proc
    printf '%s' "$MOUNTS" >/proc/mounts
fi
exec grub-mkconfig -o /boot/grub/grub.cfg
"""


def lay_out(root: Path, *, form: str, settings: str = "", rendered: Iterable[Rendered] = (), file_system: str = "ext2") -> None:
    """Make `root` an image's GRUB configuration: of Debian's or Ubuntu's form, with `settings` in /etc/default/grub, plus what cowroot
    rendered. The kernels are the caller's business. `file_system` is what GRUB calls that of /boot."""
    for name in ("etc/grub.d", "etc/default/grub.d", "boot/grub", "stand-in"):
        (root / name).mkdir(parents=True)
    for name in _SCRIPTS:
        text = Path("/etc/grub.d", name).read_text()
        text = _UBUNTU_SWITCHES.sub(lambda match: f'{match[1]}="{int(form == "ubuntu")}"', text)
        _write(root / "etc/grub.d" / name, text.encode(), 0o755)
    distributor = {"debian": "Debian", "ubuntu": "Ubuntu"}[form]
    _write(root / "etc/default/grub", f'GRUB_DISTRIBUTOR={distributor}\n{settings}'.encode())
    _write(root / "stand-in/grub-probe", _GRUB_PROBE.replace("FS", file_system).encode(), 0o755)
    _write(root / "stand-in/grub-mkrelpath", _GRUB_MKRELPATH.encode(), 0o755)
    for file in rendered:
        if isinstance(file, RenderedFile):
            _write(root / file.path.lstrip("/"), file.content, file.mode)


def mkconfig(root: Path, *, device: str = DEVICE, mounts: str = "") -> subprocess.CompletedProcess[str]:
    """Run grub-mkconfig over `root`; the menu is then in boot/grub/grub.cfg.

    `device` is what grub-probe finds below /, `mounts` what /proc/mounts says (empty: what is true)."""
    identity = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *identity, "sh", "-euc", _IN_NAMESPACE, "sh", str(root)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEVICE": device, "MOUNTS": mounts},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )


def generate(root: Path) -> str:
    """Run grub-mkconfig over `root`, which must succeed, and return the menu."""
    done = mkconfig(root)
    assert done.returncode == 0, done.stderr
    return (root / "boot/grub/grub.cfg").read_text()


def script_check(text: str) -> str:
    """Return what grub-script-check has against a piece of a menu; empty if nothing."""
    checker = shutil.which("grub-script-check")
    assert checker, "grub-script-check is missing: install grub-common"
    done = subprocess.run([checker], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20, check=False)
    return done.stdout if done.returncode else ""


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
