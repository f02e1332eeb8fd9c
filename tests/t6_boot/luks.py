"""Uppers on encrypted disks, booted: one that Debian's cryptsetup-initramfs opens with a key file, and one with a key of one boot.

The first is there again the next time, the second is empty then. ``python -m tests.t6_boot.luks``: five
boots in User Mode Linux, of an image of their own. Exit code 0 if all went as they should. The consoles stay in .cache/luks/.
"""
from __future__ import annotations

import shutil
import sys

from tests.t6_boot import image, recipe, uml
from tests.t6_boot.disk import BuildError
from tests.t6_boot.image import CHECKOUT
from tests.t6_boot.machine import BootError, attend, clean_up_on_sigterm

PLACE = CHECKOUT / ".cache/luks"
UPPER = ("cowroot.upper=/dev/mapper/kept", "cowroot.create=on")
RANDOM_KEY = ("cowroot.upper=/dev/ubdc", "cowroot.random_key=on")
BOOTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("luks-format", ()),
    ("upper-write", UPPER),
    ("upper-read", UPPER),
    ("random-key", RANDOM_KEY),
    ("random-key", RANDOM_KEY),
)


def main() -> int:
    """Boot, one check after the other, on one disk."""
    clean_up_on_sigterm()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    disks = [PLACE / "kept.img", PLACE / "random.img"]
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(128 << 20)
    try:
        appliance = image.installed(recipe.TRIXIE_LUKS)
        for check, parameters in BOOTS:
            with uml.start(appliance, check, PLACE / check, writable=disks, parameters=parameters) as machine:
                ended = attend(machine, limit=300, ending_limit=80)
            complaints = "; ".join(ended.complaints())
            print(f"{check}: {'passed' if ended.passed else ended.reason}{'; ' + complaints if complaints else ''}", flush=True)
            if not ended.passed or complaints:
                return 1
    except (BuildError, BootError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
