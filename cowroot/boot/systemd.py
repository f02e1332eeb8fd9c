"""Units and drop-ins for systemd."""

from __future__ import annotations

from cowroot.boot.rendered import Rendered, RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template
from cowroot.config import Config

_UNITS = "/etc/systemd/system"


def render_systemd(config: Config, target: Target) -> tuple[Rendered, ...]:
    """The unit that reports how the boot went, and what keeps the layers mounted until the end of a shutdown."""

    def file(template: str, path: str, why: str) -> RenderedFile:
        return RenderedFile(path, render_template("systemd", f"{template}.j2", origin=ORIGIN).encode(), 0o644, why)

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
