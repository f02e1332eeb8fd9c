"""What a boot would need and the target does not have: all of it at once, and how to get it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from cowroot.boot.upstart import MOUNTALL
from cowroot.errors import PreflightError
from cowroot.install.elf import MACHINES
from cowroot.install.inspection import OLDEST_PYTHON, Inspection
from cowroot.install.runtime import host


class Problem(NamedTuple):
    """What is missing, the Debian packages that would bring it, and other advice."""

    what: str
    packages: tuple[str, ...] = ()
    advice: str = ""


def check(inspection: Inspection, name: str, more: Sequence[Problem] = ()) -> None:
    """Raise PreflightError with everything that is missing from the target called `name`, and with what was found besides."""
    found = [*problems(inspection), *more]
    if not found:
        return
    packages = sorted({package for problem in found for package in problem.packages})
    advice = [f"run in it: apt-get install {' '.join(packages)}"] if packages else []
    advice += [problem.advice for problem in found if problem.advice]
    if len(found) == 1:
        raise PreflightError(f"{name}: {found[0].what}", hint="; ".join(advice))
    lines = "".join(f"\n  - {problem.what}" for problem in found)
    raise PreflightError(f"{name} lacks what its boot would need:{lines}", hint="; ".join(advice))


def problems(inspection: Inspection) -> list[Problem]:
    """Return everything that is missing."""
    return [*_kernel_problems(inspection), *_python_problems(inspection), *_tool_problems(inspection)]


def _kernel_problems(inspection: Inspection) -> list[Problem]:
    if not inspection.kernels:
        return [Problem("no kernel is installed: there is no /boot/vmlinuz-*", (_kernel_package(inspection),))]
    return [
        Problem(
            f"the kernel {kernel.release} has no FUSE, neither built in nor as a module", advice=_fuse_advice(inspection, kernel.release)
        )
        for kernel in inspection.kernels
        if not kernel.fuse
    ]


def _fuse_advice(inspection: Inspection, release: str) -> str:
    package = _kernel_package(inspection)
    return f"remove {release} and install one with CONFIG_FUSE_FS ({package} has it)"


def _kernel_package(inspection: Inspection) -> str:
    return "linux-image-generic" if inspection.target.os_id == "ubuntu" else "linux-image-amd64"


def _python_problems(inspection: Inspection) -> list[Problem]:
    if inspection.target.runtime:
        return _runtime_problems(inspection)
    problems = []
    oldest = ".".join(map(str, OLDEST_PYTHON))
    if inspection.python is None:
        problems.append(Problem(f"there is no Python {oldest} or newer at /usr/bin/python3, which serves the union", ("python3",)))
    elif inspection.python < OLDEST_PYTHON:
        version = ".".join(map(str, inspection.python))
        problems.append(Problem(f"its Python is {version}; {oldest} or newer is needed", advice="use a newer release of the distribution"))
    elif not inspection.ctypes:
        problems.append(Problem("its Python has no ctypes, by which libfuse is called", ("python3",)))
    if not inspection.libfuse:
        problems.append(Problem("libfuse 2 is missing (libfuse.so.2)", (_libfuse_package(inspection),)))
    return problems


def _runtime_problems(inspection: Inspection) -> list[Problem]:
    """What keeps the interpreter of this machine, which goes into the image, from running there."""
    here, problems = host(), []
    if inspection.machine and inspection.machine != here.machine:
        theirs, ours = (MACHINES.get(each, f"machine {each}") for each in (inspection.machine, here.machine))
        what = f"its programs are for {theirs}, and the Python that it would get is this machine's, for {ours}"
        problems.append(Problem(what, advice=f"install from a {theirs} machine"))
    for release in inspection.target.kernels:
        match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
        if match and tuple(int(part or 0) for part in match.groups()) < here.kernel:
            needed = ".".join(map(str, here.kernel))
            what = f"its kernel {release} is older than {needed}, the oldest that this machine's C library runs on, which would go into it"
            advice = "install from a machine with an older C library (glibc before 2.24: Linux 2.6.32), or a newer kernel in the image"
            problems.append(Problem(what, advice=advice))
    return problems


def _libfuse_package(inspection: Inspection) -> str:
    # Both renamed it when their 32-bit ports went to a 64-bit time_t.
    first_new = {"ubuntu": 24.04}.get(inspection.target.os_id, 13.0)
    try:
        version = float(inspection.target.os_version)
    except ValueError:
        version = first_new  # testing and unstable have no number
    return "libfuse2t64" if version >= first_new else "libfuse2"


def _tool_problems(inspection: Inspection) -> list[Problem]:
    problems = []
    tool, init = inspection.target.initramfs, inspection.target.init
    if init == "upstart":
        if not inspection.target.mountall_conf:
            problems.append(Problem(f"there is no {MOUNTALL}, before which the union could come up", ("mountall",)))
    elif not tool:
        problems.append(Problem("nothing that makes initrds is installed", ("initramfs-tools",)))
    elif tool not in ("initramfs-tools", "dracut", "mkinitcpio"):
        problems.append(Problem(f"its initrds are made by {tool}, which is not supported yet", ("initramfs-tools",)))
    if inspection.unified:
        what = f"it boots kernels that are one file with their initrd, which would stay without the union: {', '.join(inspection.unified)}"
        problems.append(Problem(what, advice="set layout=bls in /etc/kernel/install.conf, and have kernel-install make entries instead"))
    if inspection.own_usr:
        what = "its /etc/fstab puts /usr on a file system of its own; the union of the root would be without it"
        problems.append(Problem(what, advice="move /usr onto the root file system"))
    if init == "sysvinit" and not inspection.insserv:
        problems.append(Problem("its init scripts are put in order without insserv, and one of cowroot's has to be the last", ("insserv",)))
    if init not in ("systemd", "upstart", "sysvinit"):
        problems.append(Problem(f"its init system is {init or 'none that is known'}, not systemd, Upstart or sysvinit", ("systemd-sysv",)))
    return problems
