"""Which mode bits a file keeps when its content or owner changes."""

from __future__ import annotations

import stat

from cowroot.union.syscalls import groups_of


def without_privileges(mode: int, gid: int, caller: tuple[int, int, int]) -> int:
    """The permission bits of a file of group `gid` after the `caller` (user, group, thread) wrote to it, or gave it away.

    The set-user-ID bit goes. So does set-group-ID where the group may execute; without group execution (it used to mean locking) it stays
    for members of the group and the privileged, since Linux 6.2 (setattr_should_drop_sgid in fs/attr.c). That last question is left to the
    file system, and only the caller's process knows all its groups.
    """
    kept = stat.S_IMODE(mode) & ~stat.S_ISUID
    if kept & stat.S_ISGID and (kept & stat.S_IXGRP or not _may_keep(gid, *caller)):
        kept &= ~stat.S_ISGID
    return kept


def _may_keep(group: int, uid: int, gid: int, thread: int) -> bool:
    return uid == 0 or group == gid or group in groups_of(thread)
