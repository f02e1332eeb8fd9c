"""`cowroot thaw`: the next boots have the real root writable, and then it is frozen again by itself.

The number of such boots is in a file on the real root, which every boot script finds, whatever holds the upper and whichever boot loader
there is. Each such boot takes one off before it goes on.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cowroot.boot.initramfs_tools import THAW_COUNTER
from cowroot.errors import TargetError
from cowroot.install.manifest import read_manifest
from cowroot.install.tree import Tree
from cowroot.servicing.real_root import is_union, writable

MOST_BOOTS = 99


def thawed_boots(root: Path) -> int:
    """How many boots more have the real root, which is at `root`, writable."""
    try:
        with Tree(root) as tree:
            text = tree.read_text(THAW_COUNTER).strip()
    except OSError:
        return 0
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) <= MOST_BOOTS else 0


def thaw(boots: int) -> None:
    """Have the next `boots` boots thawed; 0: none (any more).

    Raises CowrootError: TargetError where cowroot is not installed or the disk cannot be written, ConflictError if it is in use.
    """
    if is_union():
        with writable() as real:
            set_boots(real.path, boots)
    else:
        set_boots(Path("/"), boots)


def set_boots(root: Path, boots: int) -> None:
    """As `thaw`, for the real root at `root`."""
    with Tree(root) as tree:
        if boots and read_manifest(tree) is None:
            raise TargetError("cowroot is not installed here: / is writable in every boot", hint="see cowroot install --help")
        try:
            if boots:
                tree.write(THAW_COUNTER, f"{boots}\n".encode(), mode=0o644, uid=0, gid=0, mtime_ns=None, xattrs={})
            else:
                with suppress(FileNotFoundError):
                    tree.remove(THAW_COUNTER)
            tree.sync(["/etc"])
        except OSError as error:
            raise TargetError(f"the number of boots cannot be written to {THAW_COUNTER}: {error.strerror}") from None
