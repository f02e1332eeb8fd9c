"""Upstart (Ubuntu 9.10 to 14.10): the script that makes / a union before mountall mounts anything, and the stanza that has it run.

Two forms. As `pre-start` of the job mountall a failure of the script is a failure of that job: nothing is mounted. As a job of its own
that mountall waits for, a failure is over when the job is, and mountall goes on.

A pre-start process is added by /etc/init/mountall.override. Upstart knows such files from 1.3 on, Ubuntu's from 0.9.0 on; before that a
marked block goes into mountall.conf itself. An override that does not parse is ignored without a word, so what is written is checked first.
"""

from __future__ import annotations

import re

from cowroot.boot.initramfs_tools import render_functions
from cowroot.boot.rendered import Rendered, RenderedFile
from cowroot.boot.sysvinit import numbered_links, render_sysvinit
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template
from cowroot.boot.upstart_syntax import check_stanzas, stanzas_of
from cowroot.config import Config
from cowroot.errors import PreflightError

HOME = "/usr/lib/cowroot/boot"
SCRIPT = f"{HOME}/upstart"
JOB = "/etc/init/cowroot.conf"
OMIT_JOB = "/etc/init/cowroot-omit.conf"
MOUNTALL = "/etc/init/mountall.conf"
OVERRIDE = "/etc/init/mountall.override"
FIRST_WITH_OVERRIDES = (0, 9, 0)

_BEGIN, _END = "# BEGIN cowroot\n", "# END cowroot\n"
_BLOCK = re.compile(rf"(?:^|(?<=\n))\n?{_BEGIN}.*?{_END}", re.DOTALL)


def render_upstart(config: Config, target: Target) -> tuple[Rendered, ...]:
    """The files for a target whose init system is Upstart.

    Raises PreflightError if its mountall is none that is known, or does something before it starts already.
    """
    if not target.mountall_conf:
        raise PreflightError(f"the image has no {MOUNTALL}, before which the union could come up", hint="install the package mountall")
    check_stanzas(target.mountall_conf, MOUNTALL)

    def file(path: str, template: str, why: str, mode: int = 0o644, **values: object) -> RenderedFile:
        text = render_template("upstart", f"{template}.j2", origin=ORIGIN, home=HOME, script=SCRIPT, **values)
        return RenderedFile(path, text.encode(), mode, why)

    rendered: list[Rendered] = [
        RenderedFile(f"{HOME}/functions", render_functions(target).encode(), 0o644, "what boot scripts share"),
        file(f"{HOME}/settings", "settings", "the settings, as the boot reads them", settings=config.to_shell().strip()),
        file(SCRIPT, "boot", "brings up the union and makes it the root of all processes", 0o755),
        file(OMIT_JOB, "cowroot-omit.conf", "keeps the shutdown from killing what serves /"),
        *render_sysvinit(),
        *numbered_links(),
    ]
    if config.upstart.form == "job":
        return (*rendered, file(JOB, "cowroot.conf", "runs that before mountall; the boot goes on if it fails"))
    path, text = (OVERRIDE, target.mountall_override) if knows_overrides(target.upstart) else (MOUNTALL, target.mountall_conf)
    block = render_template("upstart", "mountall.block.j2", origin=ORIGIN, script=SCRIPT)
    why = "runs that before mountall, which does not start if it fails"
    return (*rendered, RenderedFile(path, with_block(text, block, path).encode(), 0o644, why))


def knows_overrides(version: str) -> bool:
    """Tell whether Upstart of this version, as Debian writes it (`0.6.3-11`), reads override files; False for none that can be read."""
    match = re.match(r"(?:\d+:)?(\d+)\.(\d+)(?:\.(\d+))?", version)
    return match is not None and tuple(int(part or 0) for part in match.groups()) >= FIRST_WITH_OVERRIDES


def with_block(text: str, block: str, path: str) -> str:
    """Return a job's file with `block` at its end, marked, in the place of one from before.

    Raises PreflightError if the file has a pre-start of its own (Upstart would run only the last one), or would not parse.
    """
    own = _BLOCK.sub("", text)
    check_stanzas(own, path)
    if "pre-start" in stanzas_of(own):
        raise PreflightError(
            f"{path} has a pre-start process of its own, and Upstart runs but one", hint="set `form: job` below `upstart:`, or move it"
        )
    if own and not own.endswith("\n"):
        own += "\n"
    result = f"{own}\n{_BEGIN}{block}{_END}" if own else f"{_BEGIN}{block}{_END}"
    check_stanzas(result, path)
    return result
