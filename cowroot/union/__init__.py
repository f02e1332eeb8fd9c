"""The union itself: layers held by descriptor, nodes, whiteouts, copy-up. It knows nothing of FUSE.

Start reading at `union.py` (the interface that engines translate to), then `tree.py` (nodes) and `lowers.py` (look-up). The format on disk,
`marks.py`, is the kernel overlayfs's own, described in the kernel's Documentation/filesystems/overlayfs.rst.
"""

from cowroot.union.layers import LayerSpec
from cowroot.union.node import Attr, Caller, DirHandle, Entry, Handle, Node
from cowroot.union.union import NOW, Union
from cowroot.union.waiting import Wait

__all__ = ["NOW", "Attr", "Caller", "DirHandle", "Entry", "Handle", "LayerSpec", "Node", "Union", "Wait"]
