"""What `cowroot daemon restart` does: send this version's code to a running daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cowroot.errors import MountError
from cowroot.fuse import control
from cowroot.mountinfo import mounted_at

PACKAGE = Path(__file__).resolve().parents[1]
PARTS = (".", "fuse", "fuse/direct", "union")  # all that a daemon of the engine `direct` imports
SECONDS = 200.0  # longer than the keeper waits for anything


def restart(mountpoint: str) -> dict[str, Any]:
    """Have the daemon of the union at `mountpoint` go on as this version. Returns what it says of itself then.

    Raises MountError if it cannot, or if this version does not come up; then the daemon goes on as it was.
    """
    mount = mounted_at(os.path.realpath(mountpoint))
    if mount is None or mount.kind != "fuse.cowroot":
        raise MountError(f"{mountpoint}: no union of cowroot's daemons is mounted there", hint="see findmnt -t fuse.cowroot")
    socket = control.socket_for(mount.device)
    status = control.ask(socket)
    if status["engine"] != "direct":
        raise MountError(
            f"{mountpoint}: the daemon of the engine {status['engine']} cannot be restarted while it is mounted",
            hint="reboot, or unmount it and mount it again: libfuse keeps what it knows of open files to itself",
        )
    fd = os.memfd_create("cowroot-renewal", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(program())
        control.ask(socket, "restart", SECONDS, fd)
    finally:
        os.close(fd)
    return control.ask(socket)


def program() -> bytes:
    """The text that the daemon's keeper runs: renewal.py, with the sources of the package behind it."""
    sources = {}
    for part in PARTS:
        for path in sorted((PACKAGE / part).glob("*.py")):
            names = [PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts]
            is_package = names[-1] == "__init__"
            sources[".".join(names[:-1] if is_package else names)] = (os.fspath(path), is_package, path.read_text("utf-8"))
    text = Path(__file__).with_name("renewal.py").read_text("utf-8")
    return f"{text}\nSOURCES.update({sources!r})\n".encode()
