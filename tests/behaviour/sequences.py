"""Run random sequences against a backend, or replay and shrink one.

python -m tests.behaviour.sequences --backend core --count 2000 --length 300
python -m tests.behaviour.sequences --backend core --seed 17 --count 1      # one of them again
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Optional

from tests.behaviour import generate, generate_data, lockstep
from tests.behaviour.backends import BACKENDS, MKFS, Backend, Disk
from tests.behaviour.lockstep import Departure
from tests.behaviour.session import Operation
from tests.behaviour.shrink import smallest
from tests.behaviour.trees import Hardlink, Spec, Tree


class Laboratory:
    """A disk on which one run follows the other."""

    def __init__(self, kind: type[Backend], upper_on: str = "", profile: str = "tree", freezes: int = 0) -> None:
        self.kind = kind
        self._freezes = freezes
        self._upper_on = upper_on
        self._profile = profile
        self._directory = tempfile.mkdtemp(prefix="behaviour-", dir="/dev/shm").encode()
        self._disk = Disk(self._directory)
        self._runs = 0

    def run(self, layers: Sequence[Tree], operations: Optional[list[Operation]], seed: int = 0, length: int = 0) -> Optional[Departure]:
        self._runs += 1
        base = os.path.join(self._disk.root, b"run%d" % self._runs)
        return lockstep.run(base, self.kind, layers, operations, seed, length, self._upper_on, self._profile, freezes=self._freezes)

    def shrink(self, layers: Sequence[Tree], found: Departure) -> tuple[list[Tree], Departure]:
        """The shortest sequence over the smallest layers that departs in the same way."""
        best = found

        def fails(trial: Sequence[Tree], operations: list[Operation]) -> bool:
            nonlocal best
            try:
                again = self.run(trial, operations)
            except (OSError, RuntimeError):  # layers that cannot be built or mounted any more
                return False
            if again is None or again.sort != found.sort:
                return False
            best = again
            return True

        operations = smallest(found.operations, lambda some: fails(layers, some))
        flat = [(number, path, spec) for number, tree in enumerate(layers) for path, spec in tree.items()]
        kept = smallest(flat, lambda some: fails(unflatten(some, len(layers)), operations)) if flat else []
        trees: list[Tree] = unflatten(kept, len(layers))
        if not fails(trees, operations):
            return list(layers), best
        full = [tree for tree in trees if tree] or trees[:1]
        if fails(full, operations):
            trees = full
        operations = smallest(operations, lambda some: fails(trees, some))
        fails(trees, operations)
        return trees, best

    def close(self) -> None:
        self._disk.remove()
        os.rmdir(self._directory)


def unflatten(flat: Sequence[tuple[int, bytes, Spec]], count: int) -> list[Tree]:
    """The layers again, without hard links whose file is gone."""
    trees: list[dict[bytes, Spec]] = [{} for _ in range(count)]
    for number, path, spec in flat:
        if not isinstance(spec, Hardlink) or spec.to in trees[number]:
            trees[number][path] = spec
    return list(trees)


def script(layers: Sequence[Tree], departure: Departure) -> str:
    """A regression test's body: paste it into test_regressions.py."""
    lines = ["    layers = ["]
    for tree in layers:
        lines.append("        {" + ", ".join(f"{path!r}: {spec!r}" for path, spec in tree.items()) + "},")
    lines += ["    ]", "    operations = ["]
    lines += [f"        {operation!r}," for operation in departure.operations]
    lines += ["    ]", *(f"    # {line}" for line in str(departure).splitlines())]
    return "\n".join(lines)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Random sequences of system calls, on a union and on a plain copy in lockstep.")
    parser.add_argument("--backend", choices=sorted(BACKENDS), default="core")
    parser.add_argument("--count", type=int, default=100, help="how many sequences")
    parser.add_argument("--length", type=int, default=300, help="calls in each")
    parser.add_argument("--seed", type=int, default=0, help="the first sequence's seed; the others follow")
    parser.add_argument("--profile", choices=("tree", "data"), default="tree", help="calls all over a tree, or on one large file's content")
    parser.add_argument("--upper-on", choices=("", "tmpfs", *MKFS), default="", help="a file system of its own for what is written")
    parser.add_argument("--freezes", type=int, default=0, help="how many times the upper becomes a lower, below a new one")
    parser.add_argument("--no-shrink", action="store_true", help="report departures as they are")
    parser.add_argument("--stop-after", type=int, default=0, help="end after this many departures")
    options = parser.parse_args(arguments)
    laboratory = Laboratory(BACKENDS[options.backend], options.upper_on, options.profile, options.freezes)
    sorts: collections.Counter[str] = collections.Counter()
    began = last = time.monotonic()
    done = 0
    try:
        for seed in range(options.seed, options.seed + options.count):
            layers = generate_data.layers(seed) if options.profile == "data" else generate.layers(seed)
            found = laboratory.run(layers, None, seed, options.length)
            done += 1
            if found:
                fresh = found.sort not in sorts
                sorts[found.sort] += 1
                print(f"seed {seed}: {found}", flush=True)
                if fresh and not options.no_shrink:
                    print(script(*laboratory.shrink(layers, found)), flush=True)
            if time.monotonic() - last > 10:
                last = time.monotonic()
                print(f"{done} of {options.count}, {sum(sorts.values())} departures, {last - began:.0f} s", file=sys.stderr, flush=True)
            if options.stop_after and sum(sorts.values()) >= options.stop_after:
                break
    finally:
        laboratory.close()
    print(f"{options.backend}: {done} sequences of {options.length} calls, {sum(sorts.values())} departures")
    for sort, count in sorts.most_common():
        print(f"  {count:5}  {sort}")
    return 1 if sorts else 0


if __name__ == "__main__":
    sys.exit(main())
