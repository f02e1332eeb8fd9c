"""`cowroot thaw`: the next boots, or those in a window of time, have the real root writable, and then it is frozen again by itself.

The number of boots, or the window, is in a file on the real root, which every boot script finds, whatever holds the upper and whichever
boot loader there is. Of a number, each such boot takes one off before it goes on. A window is two times, in seconds since 1970.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cowroot.boot.initramfs_tools import THAW_PLAN
from cowroot.errors import TargetError
from cowroot.install.manifest import read_manifest
from cowroot.install.tree import Tree
from cowroot.servicing.real_root import is_union, writable
from cowroot.servicing.window import ENDERS, Window, check_clock

MOST_BOOTS = 99


def thawed_boots(root: Path) -> int:
    """How many boots more have the real root, which is at `root`, writable."""
    text = _plan(root)
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) <= MOST_BOOTS else 0


def thawed_window(root: Path) -> Window | None:
    """The window in which boots have the real root, which is at `root`, writable; also one that is over."""
    return Window.parse(_plan(root))


def _plan(root: Path) -> str:
    try:
        with Tree(root) as tree:
            return tree.read_text(THAW_PLAN).strip()
    except OSError:
        return ""


def thaw(plan: int | Window) -> None:
    """Have the next `plan` boots thawed, or those in a window; 0: none (any more).

    Raises CowrootError: TargetError where cowroot is not installed, the disk cannot be written or a window could not be kept to,
    ConflictError if somebody else is at work.
    """
    if isinstance(plan, Window):
        check_clock()
    if is_union():
        with writable() as real:
            set_plan(real.path, plan)
    else:
        set_plan(Path("/"), plan)


def set_plan(root: Path, plan: int | Window) -> None:
    """As `thaw`, for the real root at `root`."""
    with Tree(root) as tree:
        if plan and read_manifest(tree) is None:
            raise TargetError("cowroot is not installed here: / is writable in every boot", hint="see cowroot install --help")
        if isinstance(plan, Window) and not any(tree.is_file(path) for path in ENDERS):
            raise TargetError("nothing here would end the window: what does was not installed yet", hint="cowroot install")
        try:
            if plan:
                tree.write(THAW_PLAN, f"{plan}\n".encode(), mode=0o644, uid=0, gid=0, mtime_ns=None, xattrs={})
            else:
                with suppress(FileNotFoundError):
                    tree.remove(THAW_PLAN)
            tree.sync(["/etc"])
        except OSError as error:
            raise TargetError(f"which boots are thawed cannot be written to {THAW_PLAN}: {error.strerror}") from None
