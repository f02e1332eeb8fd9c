"""Where a backend can be told from the copy, and why. A test named here must fail: one that begins to pass has to be taken off the list.

Keys are test functions, or `function[parameter]` for one of its cases.
"""

from __future__ import annotations

OVERLAYFS: dict[str, str] = {}

CORE: dict[str, str] = {}

FUSEPY: dict[str, str] = {}

DIRECT: dict[str, str] = {}

KNOWN_GAPS = {"overlayfs": OVERLAYFS, "core": CORE, "fusepy": FUSEPY, "direct": DIRECT}
