"""A newer version of this package in the place of an older one, in the process of that one's keeper.

Nobody imports this: `cowroot daemon restart` sends its text to the keeper, with the package's sources behind it (see restarting.py), and
the keeper runs it (see keeper.py). So nothing is read from any file system meanwhile, and whatever the older version is like, it is the
newer one that says how it is to be loaded.
"""

from __future__ import annotations

import sys
from types import CodeType, ModuleType
from typing import Any, Callable, Optional

# By the module's name: the path of its file, whether it is a package, its text.
SOURCES: dict[str, tuple[str, bool, str]] = {}
PACKAGE = "cowroot"
_ModuleSpec: Any = type(sys.__spec__)  # of importlib, which a daemon does not otherwise need


class _Finder:
    """Finds and loads what is in SOURCES."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> Optional[Any]:
        if name not in SOURCES:
            return None
        file, is_package, _ = SOURCES[name]
        return _ModuleSpec(name, _Finder, origin=file, is_package=is_package)

    @staticmethod
    def create_module(spec: object) -> None:
        """An ordinary module will do."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        file, _, text = SOURCES[module.__name__]
        module.__file__ = file
        code: CodeType = compile(text, file, "exec", dont_inherit=True)
        exec(code, module.__dict__)


def _take_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    return {name: sys.modules.pop(name) for name in names}


def take_over(state: dict[str, Any]) -> tuple[Callable[[int, dict[int, int]], str], Callable[[], Any], Callable[[], None]]:
    """Load the newer version and have it make ready with what the older says in Daemon.hand_over.

    Returns how it is begun, how it is kept going, and how to have the older version's modules back. Raises whatever goes wrong; then those
    are back already.
    """
    old = _take_out()

    def undo() -> None:
        _take_out()
        sys.modules.update(old)

    finder: Any = _Finder
    sys.meta_path.insert(0, finder)
    try:
        from cowroot.fuse.daemon import Daemon

        daemon = Daemon.inherit(state)
    except BaseException:
        undo()
        raise
    finally:
        sys.meta_path.remove(finder)
    return daemon.begin, daemon.go_on, undo
