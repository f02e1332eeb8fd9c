"""How the boot before this one went and ended, as the black box has it (the boot script's functions/boots, and
cowroot-stages.service): also of one that hung or lost its power, since each stage is written when it is reached.

Everything is read below one root directory, `/` on a running system.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cowroot.bootrecord import PATH, boot_record
from cowroot.errors import CowrootError

CLEAN, UNCLEAN, UNKNOWN = "clean", "unclean", "unknown"
PSTORE = "sys/fs/pstore"


@dataclass
class LastBoot:
    """The answer of `cowroot status --last-boot`; with --json, its fields in this order.

    ended: `clean`, if the upper was unmounted; `unclean`; `unknown`, where its record does not say. began: when the union came
    up, in seconds since 1970 by the clock that the machine had then. stages: each with the seconds since the kernel started: `initrd` (the
    union is up), `up` (so is the system), `shutdown` (it has begun). pstore: what a kernel that died may have left there.
    """

    ended: str
    boot_id: str
    began: float
    rung: str
    reasons: list[str]
    stages: dict[str, float]
    pstore: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return self.ended != UNCLEAN and self.rung == "configured"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def last_boot(root: Path = Path("/")) -> LastBoot:
    """Raises CowrootError where nothing is known of it: there is no black box, or no boot before this one had it."""
    directory = _box(root)
    try:
        record: dict[str, Any] = json.loads((directory / "last.json").read_text())
        lines = (directory / "last.stages").read_text().splitlines()
        began = (directory / "last.json").stat().st_mtime
    except FileNotFoundError:
        raise CowrootError("no boot before this one has left a record") from None
    except (OSError, ValueError) as e:
        raise CowrootError(f"the record of the last boot, {directory}/last.json, cannot be read: {e}") from None
    stages = {}
    for line in lines:
        stage, _, seconds = line.partition(" ")
        if seconds.replace(".", "", 1).isdigit():
            stages[stage] = float(seconds)
    ended = lines[-1] if lines and lines[-1] in (CLEAN, UNCLEAN) else UNKNOWN
    left = sorted(os.listdir(root / PSTORE)) if (root / PSTORE).is_dir() else []
    reasons = [str(each) for each in record.get("reasons", [])]
    return LastBoot(ended, str(record.get("boot_id", "")), began, str(record.get("rung", "")), reasons, stages, left)


def _box(root: Path) -> Path:
    """The directory of the black box."""
    boot = boot_record(root, "cowroot status --last-boot")
    if boot is None:
        raise CowrootError(f"this boot has no record ({PATH}), and so none of the last")
    if boot.get("upper_device") in ("", "tmpfs", None):
        box = root / "run/cowroot/box/cowroot/boots"
        if box.is_dir():
            return box
        raise CowrootError(
            "the upper is in memory: nothing of an earlier boot is kept with it",
            hint=f"name a file system that keeps it (black_box); a kernel that died may have left something in /{PSTORE}",
        )
    return root / str(boot["upper_directory"]).lstrip("/") / "boots"
