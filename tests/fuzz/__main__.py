"""Try random cases of one target after the other, or of one, for so many seconds each.

python -m tests.fuzz --seconds 600 --target requests

A case that fails is named by its seed; `--seed N` tries that one alone.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Optional

from tests.fuzz.targets import TARGETS


def succeeds(name: str, seed: int) -> bool:
    """Try one case, in a process of its own: what it leaves open goes with it, and a crash is seen as one."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            TARGETS[name](random.Random(f"{name} {seed}"))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append")
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args(arguments)
    failed = 0
    for name in chosen.target or sorted(TARGETS):
        cases, deadline = 0, time.monotonic() + chosen.seconds
        seed = chosen.seed if chosen.seed is not None else time.time_ns() // 1000
        while cases == 0 or (chosen.seed is None and time.monotonic() < deadline):
            if not succeeds(name, seed):
                failed += 1
                print(f"failed: python -m tests.fuzz --target {name} --seed {seed}", flush=True)
            cases, seed = cases + 1, seed + 1
        print(f"{name}: {cases} cases, {failed} failures so far", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
