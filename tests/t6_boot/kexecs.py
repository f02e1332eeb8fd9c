"""Boot the appliance with an upper on a disk, have it start its kernel once more by kexec, and see whether the upper was left in order.

``python -m tests.t6_boot.kexecs --engine direct``: QEMU. The console of a boot that went wrong stays in .cache/kexecs/.
"""
from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.t6_boot import by_hand, disk, guest, image, qemu, recipe
from tests.t6_boot.image import Image
from tests.t6_boot.machine import STATE, VERDICT, Ended, attend

LIMIT = 900.0


def kexec(appliance: Image, place: Path, engine: str) -> Ended:
    """Boot twice, the second time by kexec; return how that ended. Raises BootError."""
    files = guest.boot_files(appliance, guest.boot_cache(appliance))
    parameters = [f"cowroot.engine={engine}", "cowroot.upper=LABEL=upper"]
    line = ["console=ttyS0,115200", f"root=LABEL={recipe.ROOT_LABEL}", "ro", "boot-test=kexec-after", *parameters]
    tree = place / "tree"
    tree.mkdir()
    shutil.copy(files.kernel, tree / "kernel")
    shutil.copy(files.initrd, tree / "initrd")
    (tree / "cmdline").write_text(" ".join(line))
    second = disk.make_data_disk(place / "kexec.img", 160, "kexec", tree)
    upper = disk.make_data_disk(place / "upper.img", 256, "upper")
    with qemu.start_kernel(appliance, "kexec", place, parameters=parameters, disks=[second], writable=[upper]) as machine:
        machine.wait_for(STATE, LIMIT, "end of the first start-up")
        verdict = machine.wait_for(VERDICT, LIMIT, "first verdict")
        if verdict.group(1) != "pass":
            raise machine.error(verdict.group(3))
        return attend(machine, LIMIT, 300)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--engine", choices=("direct", "fusepy"), default="direct")
    options = parser.parse_args(arguments)
    return by_hand.run("kexecs", lambda place: kexec(image.installed(), place, options.engine), "how the last boot ended")


if __name__ == "__main__":
    sys.exit(main())
