"""Boot the appliance, kill the server of its / again and again while it works, restart the daemon, power off, check the upper.

``python -m tests.t6_boot.kills --kills 50``. The console of a boot that went wrong stays in .cache/kills/.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.t6_boot import by_hand, disk, image, uml
from tests.t6_boot.image import Image
from tests.t6_boot.machine import Ended, attend

# In a mount namespace of its own, which ends with it.
_CHECK = """
mount -o ro,loop "$1" "$2"
exec "$3" -c 'import sys; from cowroot.cli.main import main; sys.exit(main())' check "$2/cowroot/upper" --work "$2/cowroot/work"
"""


def kill(appliance: Image, kills: int, place: Path, limit: float, ending_limit: float) -> Ended:
    """Boot with an upper on a disk, with ``kills`` in it; return how it ended. Raises BootError, and AssertionError for a damaged upper."""
    upper = disk.make_data_disk(place / "upper.img", 256, "upper")
    parameters = ["cowroot.engine=direct", "cowroot.upper=LABEL=upper", f"test.kills={kills}"]
    with uml.start(appliance, "killed", place, writable=[upper], parameters=parameters) as machine:
        ended = attend(machine, limit, ending_limit)
    mounted = place / "mounted"
    mounted.mkdir()
    command = ["unshare", "--mount", "sh", "-e", "-c", _CHECK, "sh", str(upper), str(mounted), sys.executable]
    checked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    return ended


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args(arguments)
    return by_hand.run("kills", lambda place: kill(image.installed(), options.kills, place, 300, 80), "longest pause")


if __name__ == "__main__":
    sys.exit(main())
