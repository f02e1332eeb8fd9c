"""Layers that are not there yet, as the mount option `create` has them made."""

from __future__ import annotations

import contextlib
import os

from cowroot.errors import MountError

_LISTS = ("system.posix_acl_access", "system.posix_acl_default")


def create_layers(lower: str, upper: str, work: str) -> None:
    """Make the directories `upper` and `work` where they are not there, and those that lead to them, closed to all but their owner.

    The top of a union has owner, permissions and access lists of the upper's: a new one gets those of `lower`. Raises MountError.
    """
    try:
        if not os.path.isdir(upper):
            os.makedirs(os.path.dirname(os.path.abspath(upper)), mode=0o700, exist_ok=True)
            _make_like(lower, upper)
        os.makedirs(work, mode=0o700, exist_ok=True)
    except OSError as e:
        raise MountError(f"the layers cannot be made: {e.filename}: {e.strerror}", hint="can the upper be written?") from None


def _make_like(model: str, path: str) -> None:
    """Make a directory like `model`, whole or not at all."""
    growing = f"{path}.new"
    with contextlib.suppress(FileExistsError):
        os.mkdir(growing, 0o700)
    st = os.stat(model)
    os.chown(growing, st.st_uid, st.st_gid)
    os.chmod(growing, st.st_mode & 0o7777)
    for name in _LISTS:
        with contextlib.suppress(OSError):  # there is none, or one of the two file systems has no such lists
            os.setxattr(growing, name, os.getxattr(model, name))
    os.rename(growing, path)
