"""Units and drop-ins for systemd."""

from __future__ import annotations

from cowroot.boot.rendered import Rendered, RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template
from cowroot.config import Config

_UNITS = "/etc/systemd/system"


def render_systemd(config: Config, target: Target) -> tuple[Rendered, ...]:
    """The units around the boot's and the shutdown's ends, and what has the machine sleep."""

    def file(template: str, path: str, why: str, mode: int = 0o644) -> RenderedFile:
        return RenderedFile(path, render_template("systemd", f"{template}.j2", origin=ORIGIN).encode(), mode, why)

    lib = "/usr/lib" if target.merged_usr else "/lib"
    return (
        file("cowroot.service", f"{_UNITS}/cowroot.service", "puts what the boot said into the journal; fails if it is degraded"),
        RenderedLink(f"{_UNITS}/multi-user.target.wants/cowroot.service", "../cowroot.service", "starts it with the system"),
        file("cowroot-stages.service", f"{_UNITS}/cowroot-stages.service", "keeps beside the upper how far boot and shutdown come"),
        RenderedLink(f"{_UNITS}/multi-user.target.wants/cowroot-stages.service", "../cowroot-stages.service", "starts it with the system"),
        file("cowroot-window.service", f"{_UNITS}/cowroot-window.service", "ends a boot that is thawed with its maintenance window"),
        RenderedLink(f"{_UNITS}/multi-user.target.wants/cowroot-window.service", "../cowroot-window.service", "starts it with the system"),
        file("cowroot-watch.service", f"{_UNITS}/cowroot-watch.service", "tells in time when the upper gets full"),
        file("cowroot-watch.timer", f"{_UNITS}/cowroot-watch.timer", "starts that, a minute after the system"),
        RenderedLink(f"{_UNITS}/timers.target.wants/cowroot-watch.timer", "../cowroot-watch.timer", "has the timer run"),
        file("sleep", f"{lib}/systemd/system-sleep/cowroot", "stops what may wait for / before the machine sleeps", 0o755),
        *(
            file("layer.conf", f"{_UNITS}/run-cowroot-{layer}.mount.d/cowroot.conf", f"keeps the {layer} mounted until systemd-shutdown")
            for layer in ("lower", "upper", "box")
        ),
        file("blk-availability.conf", f"{_UNITS}/blk-availability.service.d/cowroot.conf", "keeps LVM from unmounting the upper before"),
        # systemd.unit(5), ConditionNeedsUpdate=
        *(
            file("updated", f"/{place}/.updated", f"spares each boot the updates of /{place} that packages have made")
            for place in ("etc", "var")
        ),
    )
