"""What hides names in lower layers: overlayfs's whiteouts in both forms, and, where a layer is said to have them, those of OCI images.

OCI and AUFS write a whiteout as an empty file `.wh.NAME` where NAME would be, and make a directory opaque by a file `.wh..wh..opq` in
it (image-spec, layer.md). They hide what lower layers have, never what the same layer has. All names that begin so are the format's own.
"""

from __future__ import annotations

import os
import stat

from cowroot.union.layers import Layer
from cowroot.union.marks import OCI_PREFIX, Marks


def is_whiteout(marks: Marks, layer: Layer, path: bytes, st: os.stat_result) -> bool:
    """True if the object that `st` describes, `path` in a lower layer, is a whiteout of overlayfs.

    From Linux 6.7 on that may be an empty file with an attribute, which, unlike a device, can be made in a layer that is itself a union.
    """
    if stat.S_ISREG(st.st_mode):
        return st.st_size == 0 and marks.whiteout in marks.read(layer.fd, path)
    return marks.is_whiteout(layer.fd, path, st)


def has_marked_files(marks: Marks, layer: Layer, directory: bytes) -> bool:
    """True if empty files in a directory of a lower layer may be whiteouts: overlayfs marks such directories, and so do their makers."""
    return marks.read(layer.fd, directory).get(marks.opaque) == b"x"


def hidden_by(name: bytes) -> bytes:
    """Which name a whiteout of OCI's, or another file of its own, hides; nothing for the latter."""
    return b"" if name.startswith(OCI_PREFIX * 2) else name[len(OCI_PREFIX) :]
