"""Uppers on logical volumes and encrypted disks, booted, as the distribution's own tools open them: in User Mode Linux.

With initramfs-tools: a disk that cryptsetup-initramfs opens with a key file, one that is encrypted with a key of one boot, a logical volume
by each of its names, and an encrypted one whose passphrase is typed at the console. With dracut: a logical volume. What the first boot
leaves on the upper is there in those after it. ``python -m tests.t6_boot.volumes [PART…]``: an image and a disk of their own for each part.
Exit code 0 if all went as they should. The consoles stay in .cache/volumes/.
"""
from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.t6_boot import image, recipe, uml
from tests.t6_boot.disk import BuildError
from tests.t6_boot.image import CHECKOUT
from tests.t6_boot.machine import BootError, attend, clean_up_on_sigterm
from tests.t6_boot.recipe import Recipe

PLACE = CHECKOUT / ".cache/volumes"


@dataclass(frozen=True)
class Boot:
    """A check, the kernel parameters that it takes, and whether the passphrase is asked for."""

    check: str
    parameters: tuple[str, ...] = ()
    asked: bool = False


KEPT = ("cowroot.upper=/dev/mapper/kept", "cowroot.create=on")
RANDOM_KEY = ("cowroot.upper=/dev/ubdc", "cowroot.random_key=on")
# What /etc/crypttab says is left out: the disk with the key file is not there.
NOT_THAT = ("cryptopts=", "luks=no")
ASKING = ("cryptopts=target=kept,source=/dev/appliance/locked,luks", "luks=no", *KEPT)
PARTS: dict[str, tuple[Recipe, tuple[Boot, ...]]] = {
    "encrypted": (
        recipe.TRIXIE_LUKS,
        (
            Boot("luks-format"), Boot("upper-write", KEPT), Boot("upper-read", KEPT), Boot("random-key", RANDOM_KEY),
            Boot("random-key", RANDOM_KEY),
        ),
    ),
    "volumes": (
        recipe.TRIXIE_LUKS,
        (
            Boot("volume-format", NOT_THAT),
            Boot("upper-write", (*NOT_THAT, "cowroot.upper=/dev/appliance/upper")),
            Boot("upper-read", (*NOT_THAT, "cowroot.upper=/dev/mapper/appliance-upper")),
            Boot("upper-read", (*NOT_THAT, f"cowroot.upper=UUID={recipe.VOLUME_UUID}")),
            Boot("upper-read", (*NOT_THAT, "cowroot.upper=LABEL=volume")),
            Boot("upper-write", ASKING, asked=True),
            Boot("upper-read", ASKING, asked=True),
        ),
    ),
    "dracut": (
        recipe.TRIXIE_DRACUT_LVM,
        (
            Boot("volume-format"),
            Boot("upper-write", ("cowroot.upper=/dev/appliance/upper",)),
            Boot("upper-read", (f"cowroot.upper=UUID={recipe.VOLUME_UUID}",)),
        ),
    ),
}  # fmt: skip


def run(appliance: image.Image, boots: tuple[Boot, ...], place: Path) -> bool:
    """Boot, one check after the other, on the same disks; tell whether all went well."""
    disks = [place / "one.img", place / "other.img"]
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(256 << 20)
    for number, boot in enumerate(boots, 1):
        with uml.start(appliance, boot.check, place / f"{number}-{boot.check}", writable=disks, parameters=boot.parameters) as machine:
            if boot.asked:
                machine.wait_for("Please unlock disk kept", 300)
                machine.send(recipe.PASSPHRASE)
            ended = attend(machine, limit=300, ending_limit=80)
        complaints = "; ".join(ended.complaints())
        how = "passed" if ended.passed else ended.reason
        print(f"{place.name} {number} {boot.check}: {how}{'; ' + complaints if complaints else ''}", flush=True)
        if not ended.passed or complaints:
            return False
    return True


def main() -> int:
    """Run the parts that the command line names, or all."""
    parser = argparse.ArgumentParser(description="Boot with uppers on logical volumes and encrypted disks.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: {', '.join(PARTS)}")
    clean_up_on_sigterm()
    well = True
    try:
        for part in parts:
            wanted, boots = PARTS[part]
            place = PLACE / part
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            well = run(image.installed(wanted), boots, place) and well
    except (BuildError, BootError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
