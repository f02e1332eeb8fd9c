"""A disk that carries packages into a guest which has no network."""
from __future__ import annotations

import shutil
from pathlib import Path

from tests.t6_boot import disk, recipe
from tests.t6_boot.image import Image


def make_debs_disk(source: Image, place: Path) -> Path:
    """Make a disk with the packages that lie beside ``source``, in the directory ``place``, and return it. Raises BuildError."""
    tree = place / "debs"
    tree.mkdir()
    for deb in source.debs:
        shutil.copy(deb, tree)
    made = disk.make_data_disk(place / "debs.img", 8, recipe.DEBS_LABEL, tree)
    shutil.rmtree(tree)
    return made
