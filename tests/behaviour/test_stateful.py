"""The same calls on a plain copy and on the union, chosen by hypothesis, which cuts a departure down to the calls that matter.

The calls, and what is compared, are those of the random sequences (generate.py, lockstep.py): hypothesis stands in for the dice, so that it
knows what to leave out. `COWROOT_EXAMPLES` in the environment says how many sequences; without it few are tried, the same each time.
"""

from __future__ import annotations

import itertools
import os
import random
from typing import Optional

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.behaviour import generate
from tests.behaviour.backends import Case, Core, Direct, Disk, Ours, Plain, fingerprint
from tests.behaviour.core_driver import CoreFileSystem
from tests.behaviour.filesystem import FileSystem
from tests.behaviour.lockstep import Departure, Lockstep, clock_of
from tests.behaviour.sequences import script
from tests.behaviour.session import Session

_numbers = itertools.count()
ASKED_FOR = int(os.environ.get("COWROOT_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=ASKED_FOR or 30,
    stateful_step_count=80,
    derandomize=not ASKED_FOR,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Copies(RuleBasedStateMachine):
    """A plain copy and a union of one set of layers, at the same point of a sequence of calls."""

    kind: type[Ours] = Core
    disk: Disk

    def __init__(self) -> None:
        super().__init__()
        self.lockstep: Optional[Lockstep] = None
        self.calls = 0  # since it was mounted

    @initialize(chance=st.randoms(use_true_random=False))
    def build(self, chance: random.Random) -> None:
        self.layers = generate.layers(chance)
        self.umask = os.umask(0o022)
        case = Case(os.path.join(self.disk.root, b"stateful%d" % next(_numbers)), self.layers)
        self.untouched = fingerprint(case.layers)
        self.lockstep = Lockstep(Session(Plain(case)), Session(self.kind(case)), clock_of(os.path.dirname(case.upper)))
        self.generator = generate.Generator(chance, self.kind.lacks | {"users", "locks"}, case.copy)

    @rule()
    def call(self) -> None:
        """Any system call, on a path, a descriptor or a mapping."""
        assert self.lockstep is not None
        self.calls += 1
        self.judge(self.lockstep.step(self.generator.next()))

    @precondition(lambda self: self.calls > 25)  # often enough; it takes as long as all of those calls
    @rule()
    def remount(self) -> None:
        assert self.lockstep is not None
        self.calls = 0
        self.judge(self.lockstep.step(("remount",)))

    def judge(self, found: Optional[Departure]) -> None:
        assert not found, f"{found}\n{script(self.layers, found)}"

    def teardown(self) -> None:
        if self.lockstep is None:
            return
        union = self.lockstep.union.backend
        try:
            self.judge(self.lockstep.finish())
        finally:
            for session in (self.lockstep.plain, self.lockstep.union):
                session.close_all()
            union.down()
            os.umask(self.umask)
            changed = fingerprint(union.case.layers) != self.untouched
            faults = union.faults()
            union.case.remove()
        assert not changed, "a lower layer was changed"
        assert faults == []


def machine(disk: Disk, kind: type[Ours]) -> type[Copies]:
    return type("Copies", (Copies,), {"disk": disk, "kind": kind})


def test_the_core_cannot_be_told_from_a_copy(disk: Disk) -> None:
    run_state_machine_as_test(machine(disk, Core), settings=SETTINGS)


def test_nor_can_a_mounted_union(disk: Disk) -> None:
    run_state_machine_as_test(machine(disk, Direct), settings=settings(SETTINGS, max_examples=ASKED_FOR or 4))


class Forgetful(Core):
    """A union that makes directories as it likes."""

    name = "forgetful"

    def _up(self) -> FileSystem:
        return ForgetfulFileSystem.of(self.case)


class ForgetfulFileSystem(CoreFileSystem):
    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        super().mkdir(path, mode)
        self.chmod(path, 0o7)


def test_a_departure_is_found_and_told_as_a_regression_test(disk: Disk) -> None:
    """The machine can fail. It is not cut down here, which takes a while."""
    found = settings(SETTINGS, phases=[Phase.generate])
    with pytest.raises(AssertionError, match=r"(?s)mode: copy 4\d+, union 40007.*layers = \[.*operations = \["):
        run_state_machine_as_test(machine(disk, Forgetful), settings=found)
