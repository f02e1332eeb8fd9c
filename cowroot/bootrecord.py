"""The record that the boot scripts leave: boot.json (docs/reference/boot-record.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cowroot.errors import CowrootError

PATH = "/run/cowroot/boot.json"


class RecordError(CowrootError):
    """The record is there, but nothing can be made of it."""


def boot_record(root: Path, command: str) -> dict[str, Any] | None:
    """Return the record of the running system below `root`; None if it was not booted with cowroot.

    Raises RecordError, and CowrootError where only root may read it; `command` is what root is to run then.
    """
    try:
        record = json.loads((root / PATH.lstrip("/")).read_text())
    except FileNotFoundError:
        return None
    except PermissionError:
        raise CowrootError("/run/cowroot is closed to all but root", hint=f"run this as root: sudo {command}") from None
    except (OSError, ValueError) as e:
        raise RecordError(f"{PATH}, the record of this boot, cannot be read: {e}") from None
    if not isinstance(record, dict):
        raise RecordError(f"{PATH}, the record of this boot, cannot be read: it holds no object")
    return record
