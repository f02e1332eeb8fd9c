"""cowroot's Debian package in a target: its files are dpkg's to replace and to remove, and no payload goes in beside them.

The package has cowroot where the payload would, and what it stands on comes as packages too. So its files are neither written nor
recorded: `uninstall` leaves them, and an upgrade of the package is no drift.
"""

from __future__ import annotations

import re

from cowroot import __version__
from cowroot.errors import ConflictError
from cowroot.install.payload import HOME, own_code
from cowroot.install.tree import Tree

_LIST = "/var/lib/dpkg/info/cowroot.list"
_INIT = f"{HOME}/cowroot/__init__.py"


def packaged(tree: Tree) -> frozenset[str]:
    """Return the paths that the package has brought; none where it is not installed."""
    if not tree.is_file(_LIST):
        return frozenset()
    paths = [line for line in tree.read_text(_LIST).splitlines() if line.startswith("/") and line != "/."]
    # Of a removed package with configuration left, the list is still there.
    return frozenset(map(tree.canonical, paths)) if _INIT in paths else frozenset()


def belongs(path: str, brought: frozenset[str]) -> bool:
    """Tell whether a path is one of the package's, or compiled from one of them."""
    compiled = re.fullmatch(r"(.*)/__pycache__/([^/.]+)\.[^/]+\.pyc", path)
    return path in brought or (compiled is not None and f"{compiled[1]}/{compiled[2]}.py" in brought)


def check_same(tree: Tree, name: str = "the target") -> None:
    """Raise ConflictError unless the code that the package brought is that which runs here: a boot takes the package's."""
    for file in own_code(HOME):
        if not tree.is_file(file.path) or tree.read(file.path) != file.content:
            break
    else:
        return
    found = re.search(r'__version__ = "(.*)"', tree.read_text(_INIT)) if tree.is_file(_INIT) else None
    theirs = found[1] if found else "?"
    version = f"cowroot {theirs}" if theirs != __version__ else f"another cowroot {theirs}"
    raise ConflictError(
        f"{name} has {version} as a Debian package, and this is {__version__}",
        hint="upgrade the package in it, or run the `cowroot install` that is in it",
    )
