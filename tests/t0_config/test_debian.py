"""debian/ says what the rest says. That it builds and works is tried by `python -m tests.t6_boot.package`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cowroot import __version__
from tests.t6_boot.package import build_depends

TOP = Path(__file__).resolve().parents[2]
DEBIAN = TOP / "debian"
# What Debian 12 has of that.
HATCHLING = (1, 12)


def test_the_changelog_has_this_version() -> None:
    assert (DEBIAN / "changelog").read_text().startswith(f"cowroot ({__version__}) ")


def test_it_depends_on_what_the_wheel_depends_on() -> None:
    project = (TOP / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert block
    wanted = re.findall(r'"(\w+)[>=]=([\d.]+)', block[1])
    assert len(wanted) == 4
    control = (DEBIAN / "control").read_text()
    for name, oldest in wanted:
        package = {"PyYAML": "python3-yaml"}.get(name, f"python3-{name.lower()}")
        assert f"\n {package} (>= {oldest}),\n" in control


def test_its_build_asks_for_no_newer_backend_than_debian_has() -> None:
    oldest = re.search(r'requires = \["hatchling>=([\d.]+)"\]', (TOP / "pyproject.toml").read_text())
    assert oldest
    assert tuple(map(int, oldest[1].split("."))) <= HATCHLING
    assert {"python3-hatchling", "pybuild-plugin-pyproject", "debhelper", "libfuse2t64"} <= set(build_depends())


def test_rules_can_be_run() -> None:
    assert os.access(DEBIAN / "rules", os.X_OK)


def test_the_licence_is_said_to_be_missing() -> None:
    """Until there is one, which goes here, into pyproject.toml and into a file of its own."""
    assert not list(TOP.glob("LICEN[CS]E*"))
    assert "No licence has been granted yet" in (DEBIAN / "copyright").read_text()
