"""Entries after the Boot Loader Specification: files in loader/entries, which systemd-boot reads on the EFI system partition, and Fedora's
GRUB in /boot (https://uapi-group.org/specifications/specs/boot_loader_specification/).

The union needs no kernel parameter, so the entries stay as they are. What is looked after:

- a plugin of kernel-install, which runs it for every kernel that comes or goes, makes the entry for one boot of the real root, and takes
  away by what systemd-boot would write to the disk: the numbers by which it counts boots, and its random seed;
- /etc/kernel/cmdline. Without one, kernel-install takes the parameters of the *running* system for those of the next: in a boot of the real
  root that is `cowroot=off`, in a sandbox it is what another machine was booted with;
- masks on the services that would make a random seed anew.
"""

from __future__ import annotations

from cowroot.boot.rendered import Rendered, RenderedFile, RenderedLink
from cowroot.boot.target import Target
from cowroot.boot.templates import ORIGIN, render_template
from cowroot.config import Config

PLUGIN = "/etc/kernel/install.d/95-cowroot.install"
COMMAND_LINE = "/etc/kernel/cmdline"
PLACES = ("/efi", "/boot", "/boot/efi")
"""Where the EFI system partition, or the one for entries beside it, is mounted (kernel-install(8), bootctl(1))."""
RANDOM_SEED = "/loader/random-seed"
OWN_ENTRY = "-0-cowrootoff.conf"
TITLE = "The real root, without cowroot: changes stay (cowroot=off)"

SEED_WRITERS = ("systemd-boot-random-seed.service", "systemd-boot-system-token.service")
"""They write loader/random-seed, for systemd-boot to rewrite at each boot; named after the system token up to systemd 253."""


def render_bls(config: Config, target: Target) -> tuple[Rendered, ...]:
    """Return what keeps the entries of `target` right; nothing for an image without such entries."""
    if not target.bls:
        return ()
    rendered: list[Rendered] = []
    values = {"recordfail": config.grub.recordfail, "off_entry": config.grub.off_entry, "title": TITLE, "plugin": PLUGIN}
    if config.grub.recordfail or config.grub.off_entry:
        plugin = render_template("loaders", "95-cowroot.install.j2", origin=ORIGIN, **values).encode()
        rendered.append(RenderedFile(PLUGIN, plugin, 0o755, "adds the entry that boots the real root; has no boots counted"))
    if target.kernel_cmdline:
        why = "has new kernels booted with these parameters, not with those of the boot in which they are installed"
        rendered.append(RenderedFile(COMMAND_LINE, f"{target.kernel_cmdline}\n".encode(), 0o644, why))
    if config.grub.recordfail and target.init == "systemd":
        why = "keeps systemd-boot from writing a random seed to the disk at each boot"
        rendered += [RenderedLink(f"/etc/systemd/system/{unit}", "/dev/null", why) for unit in SEED_WRITERS]
    return tuple(rendered)
