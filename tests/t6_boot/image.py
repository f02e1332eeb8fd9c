"""Appliance images, built once and cached: ``plain`` is Debian as it comes, ``installed`` the same with cowroot in it.

``python -m tests.t6_boot.image [--suite bookworm] [--plain]`` builds one and prints its path.

The cache is .cache/images/ in the checkout (COWROOT_CACHE names another place). A plain image is named after its recipe, an
installed one also after cowroot's own sources, so that neither is ever stale; images in the cache are never written to.
"""
from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.t6_boot import disk, recipe
from tests.t6_boot.disk import BuildError
from tests.t6_boot.recipe import Recipe

CHECKOUT = Path(__file__).resolve().parents[2]
# What `cowroot install` puts into an image comes from here.
_SOURCES = ("cowroot", "initramfs-hooks", "systemd", "sysvinit", "upstart", "grub", "loaders")
# Generations of one kind of image that are kept, besides those in use: going back to other sources should not cost a build.
_KEPT = 3
_BUILDER = b"3"  # raise when the way of building changes the result
# What is installed with cowroot. The engine is the one that works on every kernel; boots with another ask for it by kernel parameter. What
# makes an upper is in the initrds, and does nothing to those that there are.
_SETTINGS = b"engine: fusepy\nupper: {create: true}\n"


@dataclass(frozen=True)
class Image:
    """A raw disk file and what lies beside it in the cache."""

    disk: Path

    @property
    def debs(self) -> list[Path]:
        """Packages for the guest to install without a network."""
        return sorted((self.disk.parent / "debs").glob("*.deb"))

    def sha256(self) -> str:
        """Return the checksum of the disk file."""
        digest = hashlib.sha256()
        with self.disk.open("rb") as file:
            while block := file.read(4 << 20):
                digest.update(block)
        return digest.hexdigest()


def plain(wanted: Recipe = recipe.TRIXIE) -> Image:
    """Return Debian as ``wanted`` describes it, from the cache or built now (root only). Raises BuildError."""
    name = f"plain-{wanted.suite}{wanted.variant}"
    return Image(_cached(name, wanted.key(_BUILDER), lambda place: _build_plain(wanted, place)) / "disk.img")


def installed(wanted: Recipe = recipe.TRIXIE) -> Image:
    """Return the plain image with cowroot installed into it by ``cowroot install --image``. Raises BuildError."""
    base = plain(wanted)
    key = wanted.key(_BUILDER, _SETTINGS, _sources_digest())
    return Image(_cached(f"cowroot-{wanted.suite}{wanted.variant}", key, lambda place: _build_installed(base, place)) / "disk.img")


def _cache() -> Path:
    return Path(os.environ.get("COWROOT_CACHE") or CHECKOUT / ".cache") / "images"


def say(text: str) -> None:
    """Tell the user how far things are."""
    print(text, file=sys.stderr, flush=True)


def _cached(kind: str, key: str, build: object) -> Path:
    assert callable(build)
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / f"{kind}-{key}"
    with _locked(cache / f"{kind}.lock"):
        if not place.is_dir():
            if os.geteuid() != 0:
                raise BuildError(f"there is no image {kind} in {cache} yet, and only root can build one")
            growing = cache / f"{kind}.growing"
            shutil.rmtree(growing, ignore_errors=True)
            growing.mkdir()
            began = time.monotonic()
            try:
                build(growing)
            except KeyboardInterrupt:
                shutil.rmtree(growing)  # a failure's log is kept, this one says nothing
                raise
            growing.rename(place)
            _prune(cache, kind)
            say(f"image: {place.name} is ready after {time.monotonic() - began:.0f} s")
        os.utime(place)
        _keep(place)
    return place


_in_use: list[IO[bytes]] = []


def _keep(place: Path) -> None:
    """Have other processes not prune an image as long as this one lives."""
    handle = (place / "in-use").open("ab")
    fcntl.flock(handle, fcntl.LOCK_SH)
    _in_use.append(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prune(cache: Path, kind: str) -> None:
    ages = sorted(cache.glob(f"{kind}-*/"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in ages[_KEPT:]:
        with (old / "in-use").open("ab") as handle, contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)


def _sources_digest() -> bytes:
    digest = hashlib.sha256()
    for top in _SOURCES:
        for path in sorted((CHECKOUT / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(CHECKOUT)}\0".encode() + path.read_bytes())
    return digest.digest()


def _build_plain(wanted: Recipe, place: Path) -> None:
    log, tree, debs = place / "build.log", place / "tree", place / "debs"
    debs.mkdir()
    say(f"image: bootstrapping Debian {wanted.suite} (under a minute with a mirror nearby; log {log})")
    bootstrap(wanted, tree, debs, log)
    for name, text in wanted.files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    say("image: writing the disk and GRUB's menu")
    disk.write_disk(tree, place / "disk.img", wanted.mib, recipe.ROOT_LABEL, log)
    shutil.rmtree(tree)
    _update_grub(place / "disk.img", log)


def debian_mirror() -> str | None:
    """Return the Debian mirror of this machine's apt sources, None if it has none (mmdebstrap then takes Debian's usual one)."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(REPO_URI) $(RELEASE) $(ORIGIN)", "Created-By: Packages"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
    ).stdout
    for line in targets.splitlines():
        uri = line.split()[1]
        if re.search(r"/debian/?$", uri):
            return uri.rstrip("/")
    return None


def bootstrap(wanted: Recipe, tree: Path, debs: Path, log: Path) -> None:
    """Make `tree` that system, and put the packages that are only downloaded into `debs`. Raises BuildError."""
    accounts = (
        f"useradd --root \"$1\" --create-home --shell /bin/bash --groups sudo {recipe.PLAIN_USER}; "
        f"printf '%s\\n' root:{recipe.PASSWORD} {recipe.PLAIN_USER}:{recipe.PASSWORD} | chroot \"$1\" chpasswd"
    )
    download = f'cd "$1"/var/cache && chroot "$1" sh -c "cd /var/cache && apt-get download {" ".join(wanted.debs)}" && mv ./*.deb "$DEBS"'
    mirror = debian_mirror()
    try:
        disk.run(
            [
                # What it mounts vanishes with its namespace, even if it is killed.
                "unshare", "--mount", "nice", "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(wanted.packages)}",
                '--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"', "--aptopt=Acquire::Retries 3",
                "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/info/*",
                f"--customize-hook={accounts}", f"--customize-hook={download}",
                wanted.suite, str(tree), *([mirror] if mirror else []),
            ],
            log, DEBS=str(debs), TMPDIR=str(tree.parent), DEBIAN_FRONTEND="noninteractive",
        )
    except BuildError as error:
        raise BuildError(
            f"Debian {wanted.suite} could not be fetched from {mirror or 'its usual mirror'}: is it reachable from this machine? {error}"
        ) from None


# Two things of a build machine would end up in the menu. Where /dev/disk/by-uuid lacks the root, 10_linux writes root=DEVICE. And on a
# root that sits on /dev/loop0 to 9 it gives up without a word and leaves a menu without a single entry ("can't cope with devices
# loop-mounted from files"). So the loop device appears as /dev/appliance in a /dev of its own, in a mount namespace of its own.
_UPDATE_GRUB = """
root=$1.root
mkdir "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
for node in null zero random urandom tty; do cp -a "/dev/$node" "$root/$node"; done
cp -a "$2" "$root/appliance"
mkdir -p "$root/disk/by-uuid"
ln -s ../../appliance "$root/disk/by-uuid/$(blkid --probe --output value --match-tag UUID "$2")"
mount --move "$root" /dev
mount -t ext4 /dev/appliance "$root"
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
chroot "$root" grub-editenv /boot/grub/grubenv create
chroot "$root" update-grub
grep -q '^[[:space:]]*linux' "$root/boot/grub/grub.cfg"
umount -R "$root/dev" "$root/proc" "$root/sys"
umount "$root"
rmdir "$root"
"""


def _update_grub(path: Path, log: Path) -> None:
    loop = subprocess.run(
        ["losetup", "--find", "--show", "--offset", str(disk.OFFSET), str(path)], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()
    if not loop:
        raise BuildError("there is no loop device to be had (losetup failed): GRUB's menu cannot be written")
    try:
        disk.run(["unshare", "--mount", "--propagation", "private", "sh", "-euc", _UPDATE_GRUB, "sh", str(path), loop], log)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


def _build_installed(base: Image, place: Path) -> None:
    say("image: installing cowroot into a copy of the plain image")
    target = place / "disk.img"
    disk.run(["cp", "--sparse=always", "--reflink=auto", str(base.disk), str(target)], place / "build.log")
    (place / "debs").symlink_to(os.path.relpath(base.disk.parent / "debs", _cache() / "place"))
    settings = place / "cowroot.yaml"
    settings.write_bytes(_SETTINGS)
    command = [sys.executable, "-m", "cowroot", "install", "--image", str(target), "--config", str(settings)]
    disk.run(command, place / "build.log", PYTHONPATH=str(CHECKOUT))


def main() -> int:
    """Build the image that the command line asks for and print where it is."""
    parser = argparse.ArgumentParser(description="Build an appliance image, or find it in the cache.")
    parser.add_argument("--suite", choices=sorted(recipe.RECIPES), default="trixie")
    parser.add_argument("--plain", action="store_true", help="Debian as it comes, without cowroot")
    options = parser.parse_args()
    try:
        print((plain if options.plain else installed)(recipe.RECIPES[options.suite]).disk)
    except BuildError as error:
        say(f"image: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
