"""Build the Debian package where it is to be built, and use it: the command, a mount, an image, an appliance that upgrades itself.

``python -m tests.t6_boot.package [--suite bookworm]``, as root, with a Debian mirror in reach; a few minutes for each suite. In a root file
system of the suite that is thrown away:

- dpkg-buildpackage, without a network; lintian finds neither errors nor warnings
- the package is installed there, mounts a union through FUSE, completes a command line, installs cowroot into an image, and that boots
- the package is installed into an image, which boots; it is upgraded below the running union, and boots as the new version

What was built stays in dist/SUITE; the logs of a failure in .cache/package/.
"""
from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cowroot import __version__
from tests.t3_install.disks import mounted
from tests.t6_boot import disk, image, recipe, uml
from tests.t6_boot.carrier import make_debs_disk
from tests.t6_boot.image import CHECKOUT, Image, say
from tests.t6_boot.machine import attend, clean_up_on_sigterm

KEPT = CHECKOUT / ".cache/package"
SUITES = ("bookworm", "trixie")
NEXT = f"{__version__}+next"
# Beside what the package asks for.
_TOOLS = ("dpkg-dev", "build-essential", "lintian", "bash-completion", "initramfs-tools", "kmod", "man-db", "mount", "fdisk")
# In namespaces of its own: what it mounts, and what it starts, ends with it.
_INSIDE = r"""
root=$1; shift
mount --bind "$root" "$root" && cd /
for place in dev sys; do mount --rbind "/$place" "$root/$place"; done
mount -t proc proc "$root/proc"
mkdir -p "$root/images" && mount --bind "$IMAGES" "$root/images"
exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
"""
_USE = r"""
test "$(cowroot --version)" = "cowroot $1"
cd "$(mktemp --directory)"
mkdir lower upper work union
echo lower >lower/file
mount -t fuse.cowroot -o "lowerdir=$PWD/lower,upperdir=$PWD/upper,workdir=$PWD/work" cowroot union
test "$(findmnt --noheadings --output FSTYPE --mountpoint "$PWD/union")" = fuse.cowroot
echo more >>union/file
cowroot status union
umount union
printf 'lower\nmore\n' | cmp - upper/file
cowroot mount -o lowerdir=lower,engine=fusepy union
test "$(cat union/file)" = lower
umount union
man --where mount.fuse.cowroot cowroot-install cowroot.yaml
cowroot config check /usr/share/doc/cowroot/examples/cowroot.yaml
bash -c '. /usr/share/bash-completion/bash_completion
    _load_comp() { if declare -F __load_completion >/dev/null; then __load_completion "$1"; else _comp_load "$1"; fi; }
    _load_comp cowroot; complete -p cowroot'
cowroot install --image /images/packager.img
"""
_INTO_IMAGE = r"""
cp /etc/resolv.conf "$1/etc/resolv.conf"
cp "$2" "$1/cowroot.deb"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
chroot "$1" apt-get update
chroot "$1" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends /cowroot.deb
chroot "$1" apt-get clean
rm -r "$1/cowroot.deb" "$1"/var/lib/apt/lists/*
"""


def check(suite: str, work: Path, log: Path) -> None:
    """Do all of it for a suite. Raises BuildError, BootError or AssertionError where something is not as it should be."""
    root = work / "root"
    say(f"package: {suite}: a root file system to build in")
    _bootstrap(suite, root, log)
    say(f"package: {suite}: building, and lintian")
    deb = _build(root, work, log)
    shutil.rmtree(CHECKOUT / "dist" / suite, ignore_errors=True)
    shutil.copytree(root / "build", CHECKOUT / "dist" / suite, ignore=shutil.ignore_patterns("src"))
    say(f"package: {suite}: using it")
    plain = image.plain(recipe.RECIPES[suite])
    _copy(plain, work / "packager.img")
    _inside(root, work, log, "dpkg", "--install", f"/build/{deb.name}")
    _inside(root, work, log, "sh", "-exc", _USE, "sh", __version__)
    debs = make_debs_disk(plain, work)
    _boot(Image(work / "packager.img"), "union", work / "union", disks=[debs], parameters=["cowroot.engine=auto"])

    say(f"package: {suite}: in an image")
    _copy(plain, work / "image.img")
    with _writable(work / "image.img", work / "mounted") as place:
        disk.run(["unshare", "--mount", "sh", "-exc", _INTO_IMAGE, "sh", str(place), str(deb)], log)
    _inside(root, work, log, "cowroot", "install", "--image", "/images/image.img")
    carrier = disk.make_data_disk(work / "next.img", 8, recipe.DEBS_LABEL, _next_version(deb, work, log))
    changes = work / "changes"
    _boot(Image(work / "image.img"), "package", work / "package", disks=[carrier], read_only=False, changes=changes)
    _boot(Image(work / "image.img"), "package-upgraded", work / "upgraded", read_only=False, changes=changes)


def build_depends() -> list[str]:
    """Return the packages that debian/control asks for, to build and to run, the first of alternatives."""
    text = (CHECKOUT / "debian/control").read_text()
    fields = re.findall(r"^(?:Build-Depends|Depends):\n((?: .*\n)+)", text, re.MULTILINE)
    names = [re.split(r"[ (|,]", line.strip())[0] for each in fields for line in each.splitlines()]
    return [name.replace("debhelper-compat", "debhelper") for name in names if not name.startswith("${")]


def _bootstrap(suite: str, root: Path, log: Path) -> None:
    libfuse = "libfuse2" if suite == "bookworm" else "libfuse2t64"
    packages = {libfuse if name.startswith("libfuse2") else name for name in (*build_depends(), *_TOOLS)}
    packages.add("dh-python")  # dh-sequence-python3
    packages.discard("dh-sequence-python3")
    mirror = image.debian_mirror()
    options = ['--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"', "--aptopt=Acquire::Retries 3"]
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(sorted(packages))}", *options, suite, str(root)]
    disk.run(["unshare", "--mount", *command, *([mirror] if mirror else [])], log, TMPDIR=str(root.parent))


def _build(root: Path, work: Path, log: Path) -> Path:
    source = root / "build/src"
    source.mkdir(parents=True)
    listing = ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (CHECKOUT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, source / name)
    _inside(root, work, log, "sh", "-c", "cd /build/src && dpkg-buildpackage --unsigned-changes --build=binary", network=False)
    shutil.rmtree(source)
    lintian = "lintian --allow-root --pedantic --display-info --fail-on error,warning /build/*.changes"
    _inside(root, work, log, "sh", "-c", lintian)
    (deb,) = (root / "build").glob("*.deb")
    return deb


def _inside(root: Path, work: Path, log: Path, *command: str, network: bool = True) -> None:
    namespaces = ["--mount", "--pid", "--fork", "--kill-child", *([] if network else ["--net"])]
    disk.run(["unshare", *namespaces, "sh", "-euc", _INSIDE, "sh", str(root), *command], log, IMAGES=str(work))


def _copy(plain: Image, place: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(plain.disk), str(place)], check=True)


@contextlib.contextmanager
def _writable(path: Path, place: Path) -> Iterator[Path]:
    with mounted(path, place, offset=disk.OFFSET, size=path.stat().st_size - disk.OFFSET, options="rw"):
        yield place


def _next_version(deb: Path, work: Path, log: Path) -> Path:
    """Return a directory with the same package as a version that comes after it."""
    tree, place = work / "next", work / "next-debs"
    place.mkdir()
    disk.run(["dpkg-deb", "--raw-extract", str(deb), str(tree)], log)
    for path, old, new in (
        (tree / "DEBIAN/control", f"\nVersion: {__version__}\n", f"\nVersion: {NEXT}\n"),
        (tree / "usr/lib/cowroot/cowroot/__init__.py", f'"{__version__}"', f'"{NEXT}"'),
    ):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    disk.run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(place)], log)
    return place


def _boot(booted: Image, wanted: str, work: Path, **options: object) -> None:
    with uml.start(booted, wanted, work, **options) as machine:  # type: ignore[arg-type]
        ended = attend(machine, 300, 80)
    assert ended.passed, f"{ended.reason}\n{machine.console.tail()}"
    assert ended.complaints() == []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--suite", choices=SUITES, action="append", help="only this one")
    options = parser.parse_args(arguments)
    clean_up_on_sigterm()
    for suite in options.suite or SUITES:
        with tempfile.TemporaryDirectory(prefix="cowroot-package-") as directory:
            work = Path(directory)
            try:
                check(suite, work, work / "log")
            except Exception as error:
                shutil.rmtree(KEPT, ignore_errors=True)
                KEPT.mkdir(parents=True)
                for kept in (work / "log", *work.glob("*/console.log")):
                    if kept.exists():
                        shutil.copy(kept, KEPT / f"{kept.parent.name}-{kept.name}")
                print(f"{suite}: {error}\nlogs are in {KEPT}", file=sys.stderr)
                return 1
        say(f"package: {suite}: all is well; what was built is in {CHECKOUT / 'dist' / suite}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
