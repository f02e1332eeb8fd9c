"""What rendering yields: files and symbolic links, as data, for somebody else to install."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class RenderedFile:
    """A file as it shall be in the target. `path` is absolute there, `mode` holds permission bits, `why` is one sentence for people."""

    path: str
    content: bytes
    mode: int
    why: str


@dataclass(frozen=True)
class RenderedLink:
    """A symbolic link as it shall be in the target. `path` is absolute there, `target` is what the link holds."""

    path: str
    target: str
    why: str


Rendered = Union[RenderedFile, RenderedLink]
