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

Put here by `cowroot install`; the code is in {home}, `cowroot uninstall` removes it.
"""

import sys

sys.path.insert(0, "{home}")

from {module} import {function}  # noqa: E402

sys.exit({call})
'''


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
    files.append(_program("/usr/bin/cowroot", "The cowroot command.", "cowroot.cli.main", "main", "main()"))
    files.append(
        _program(
            "/usr/sbin/mount.fuse.cowroot",
            "Called by mount(8) for `-t fuse.cowroot`: mounts and remounts unions.",
            "cowroot.cli.mount",
            "mount_helper",
            "mount_helper(sys.argv[1:])",
        )
    )
    files.append(
        _program(
            "/usr/sbin/umount.fuse.cowroot",
            "Called by umount(8) for the type fuse.cowroot: unmounts, and waits until the layers are free.",
            "cowroot.cli.umount",
            "umount_helper",
            "umount_helper(sys.argv[1:])",
        )
    )
    return files


def code(home: str) -> Iterator[PayloadFile]:
    """Yield cowroot and what it stands on, for the directory `home` of an image. Raises CowrootError if something is missing here."""
    yield from _package(f"{home}/cowroot", Path(cowroot.__file__).parent)
    for family in _FAMILIES:
        directory = template_root(family)
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                yield PayloadFile(f"{home}/cowroot/templates/{family}/{path.relative_to(directory)}", path.read_bytes(), 0o644)
    for distribution, module in _LIBRARIES:
        yield from _library(home, distribution, module)


def _program(path: str, what: str, module: str, function: str, call: str) -> PayloadFile:
    text = _PROGRAM.format(what=what, home=HOME, module=module, function=function, call=call)
    return PayloadFile(path, text.encode(), 0o755)


def _package(place: str, directory: Path) -> Iterator[PayloadFile]:
    for path in sorted(directory.rglob("*.py")):
        yield PayloadFile(f"{place}/{path.relative_to(directory)}", path.read_bytes(), 0o644)


def _library(home: str, distribution: str, module: str) -> Iterator[PayloadFile]:
    found = importlib.util.find_spec(module)
    if found is None and module == "fuse":
        found = importlib.util.find_spec("fusepy")  # as Debian's python3-fusepy calls it
    if found is None or found.origin is None:
        raise CowrootError(f"{distribution} is not installed beside this cowroot", hint=f"install {distribution} for this Python")
    origin = Path(found.origin)
    if found.submodule_search_locations:
        yield from _package(f"{home}/{module}", origin.parent)
        return
    content = origin.read_bytes()
    if module == "fuse" and b"class FUSE(" not in content:
        # Debian's python3-fuse is another library of that name.
        raise CowrootError(f"{origin} is not fusepy", hint="install fusepy for this Python, or run cowroot from an environment of its own")
    yield PayloadFile(f"{home}/{module}.py", content, 0o644)


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
