"""What the boots have in common that are run by hand: a place for one, and its console if it goes wrong."""
from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.t6_boot.image import CHECKOUT
from tests.t6_boot.machine import Ended, clean_up_on_sigterm


def run(name: str, boot: Callable[[Path], Ended], shown: str) -> int:
    """Have ``boot`` use a directory and say how the machine ended; print the console's lines with ``shown``. Returns an exit code.

    The console of a boot that went wrong stays in .cache/``name``/.
    """
    clean_up_on_sigterm()
    kept = CHECKOUT / ".cache" / name
    with tempfile.TemporaryDirectory(prefix=f"cowroot-{name}-") as directory:
        place = Path(directory)
        try:
            ended = boot(place)
            failed = "" if ended.passed else ended.reason
            failed = failed or "; ".join(ended.complaints())
            print("\n".join(ended.lines_with(shown)))
        except Exception as error:
            failed = str(error)
        if failed:
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            shutil.copy(place / "console.log", kept)
            print(f"{failed}\nthe console is in {kept}", file=sys.stderr)
    return 1 if failed else 0
