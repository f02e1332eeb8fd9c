"""The engine without a daemon: the kernel's own overlayfs over the same layers."""

from __future__ import annotations

import errno

from cowroot.errors import MountError
from cowroot.fuse import kernel
from cowroot.fuse.options import MountOptions
from cowroot.union.layers import Layers


def mount_overlayfs(options: MountOptions, point: str) -> None:
    """Mount at `point`, with the features that come nearest to a plain copy. Raises MountError, or LayerError for unfit layers.

    Which those are is found out as for the other engines: the kernel mounts a union with a damaged work directory too, for reading alone.
    """
    if "oci" in options.whiteouts:
        raise MountError(f"{point}: the kernel's overlayfs reads no whiteouts of OCI layers", hint="use another engine")
    Layers(options.layers()).close()
    words = ["lowerdir=" + ":".join(_escaped(path) for path in options.lower)]
    if options.upper is not None and options.work is not None:
        words += ["upperdir=" + _escaped(options.upper), "workdir=" + _escaped(options.work)]
    words += ["userxattr"] if options.userxattr else ["redirect_dir=on", "index=on", "xino=auto"] if options.upper else []
    try:
        kernel.mount(options.fsname or "cowroot", point, "overlay", options.flags, ",".join(words))
    except OSError as e:
        missing = e.errno == errno.ENODEV
        hint = "load the kernel's overlay module: modprobe overlay" if missing else "the kernel's log says more: dmesg | tail"
        raise MountError(f"{point}: overlayfs does not mount: {e.strerror}", hint=hint) from None


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
