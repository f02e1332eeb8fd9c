"""cowroot's own code as an image carries it: pure Python in /usr/lib/cowroot, and two programs that run it with the image's Python.

It is copied from the running installation, with what it stands on (fusepy, click, PyYAML, Jinja2, MarkupSafe), so that the image needs
no package manager and no network. Compiled parts are left behind: they would fit one version of Python, and all do without.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cowroot
from cowroot.boot.templates import template_root
from cowroot.errors import CowrootError, PreflightError

HOME = "/usr/lib/cowroot"
_FAMILIES = ("initramfs-hooks", "systemd", "sysvinit", "grub", "upstart")
# Distribution and module.
_LIBRARIES = (("click", "click"), ("PyYAML", "yaml"), ("Jinja2", "jinja2"), ("MarkupSafe", "markupsafe"), ("fusepy", "fuse"))

_PROGRAM = '''\
#!/usr/bin/python3 -IB
"""{what}

{origin} The code is in {home}.
"""

import sys

sys.path.insert(0, "{home}")

from {module} import {function}  # noqa: E402

sys.exit({function}({arguments}))
'''
# Path, what it is, and the function that it calls: its module, name and arguments.
_PROGRAMS = (
    ("/usr/bin/cowroot", "The cowroot command.", "cowroot.cli.main", "main", ""),
    (
        "/usr/sbin/mount.fuse.cowroot",
        "Called by mount(8) for `-t fuse.cowroot`: mounts and remounts unions.",
        "cowroot.cli.mount",
        "mount_helper",
        "sys.argv[1:]",
    ),
    (
        "/usr/sbin/umount.fuse.cowroot",
        "Called by umount(8) for the type fuse.cowroot: unmounts, and waits until the layers are free.",
        "cowroot.cli.umount",
        "umount_helper",
        "sys.argv[1:]",
    ),
)


@dataclass(frozen=True)
class PayloadFile:
    """A file of the payload: absolute path in the target, content, permission bits."""

    path: str
    content: bytes
    mode: int


def payload(python: tuple[int, int]) -> list[PayloadFile]:
    """Return all files for an image with this version of Python.

    Raises PreflightError if a library as installed here needs a newer one, CowrootError if one is missing here.
    """
    for distribution, _ in _LIBRARIES:
        _check_version(distribution, python)
    files = list(code(HOME))
    files.extend(programs("Put here by `cowroot install`; `cowroot uninstall` removes it."))
    return files


def programs(origin: str) -> Iterator[PayloadFile]:
    """Yield what runs the code in HOME: the command, and the helpers of mount(8) and umount(8). `origin` says who put it there."""
    for path, what, module, function, arguments in _PROGRAMS:
        text = _PROGRAM.format(what=what, origin=origin, home=HOME, module=module, function=function, arguments=arguments)
        yield PayloadFile(path, text.encode(), 0o755)


def code(home: str) -> Iterator[PayloadFile]:
    """Yield cowroot and what it stands on, for the directory `home` of an image. Raises CowrootError if something is missing here."""
    yield from own_code(home)
    for distribution, module in _LIBRARIES:
        yield from _library(home, distribution, module)


def own_code(home: str) -> Iterator[PayloadFile]:
    """Yield cowroot alone, with its templates."""
    yield from _package(f"{home}/cowroot", Path(cowroot.__file__).parent)
    for family in _FAMILIES:
        directory = template_root(family)
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                yield PayloadFile(f"{home}/cowroot/templates/{family}/{path.relative_to(directory)}", path.read_bytes(), 0o644)


def _package(place: str, directory: Path) -> Iterator[PayloadFile]:
    for path in sorted(directory.rglob("*.py")):
        yield PayloadFile(f"{place}/{path.relative_to(directory)}", path.read_bytes(), 0o644)


def _library(home: str, distribution: str, module: str) -> Iterator[PayloadFile]:
    origin = _fusepy() if module == "fuse" else _origin(module)
    if origin is None:
        raise CowrootError(f"{distribution} is not installed beside this cowroot", hint=f"install {distribution} for this Python")
    if origin.name == "__init__.py":
        yield from _package(f"{home}/{module}", origin.parent)
    else:
        yield PayloadFile(f"{home}/{module}.py", origin.read_bytes(), 0o644)


def _origin(module: str) -> Path | None:
    found = importlib.util.find_spec(module)
    return Path(found.origin) if found and found.origin else None


def _fusepy() -> Path | None:
    """Where fusepy is: PyPI calls its module fuse, Debian fusepy, and there Debian's python3-fuse may be beside it, another library."""
    for origin in filter(None, map(_origin, ("fuse", "fusepy"))):
        if b"class FUSE(" in origin.read_bytes():
            return origin
    return None


def _check_version(distribution: str, python: tuple[int, int]) -> None:
    try:
        wanted = importlib.metadata.metadata(distribution)["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return
    match = re.search(r">=\s*3\.(\d+)", wanted)
    if match and python < (3, int(match.group(1))):
        raise PreflightError(
            f"{distribution} as installed here needs Python {wanted}, but the image has {python[0]}.{python[1]}",
            hint=f"install an older {distribution} for the Python that runs this cowroot",
        )
