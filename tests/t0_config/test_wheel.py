"""What is built to be installed elsewhere: the sdist, the wheel made from it, and the templates inside."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cowroot import __version__
from cowroot.boot.templates import template_root
from hatch_build import FAMILIES

TOP = Path(__file__).resolve().parents[2]


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it."""
    dist = tmp_path_factory.mktemp("dist")
    # Without isolation: the build needs nothing from outside then.
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, TOP], stdout=subprocess.DEVNULL, check=True, timeout=300
    )
    return dist


@pytest.fixture(scope="module")
def site(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the wheel."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", folder, wheel], check=True, timeout=300)
    return folder


def test_every_folder_of_templates_is_known_to_the_build() -> None:
    folders = {path.relative_to(TOP).parts[0] for path in TOP.glob("*/**/*.j2") if path.relative_to(TOP).parts[0][0] not in "._"}
    assert folders - {"cowroot", "tests", "demo", "build", "dist"} == set(FAMILIES)


def test_the_wheel_holds_the_package_templates_and_manual_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"cowroot/{name}" for name in _files(TOP / "cowroot")}
    expected |= {f"cowroot/templates/{family}/{name}" for family in FAMILIES for name in _files(TOP / family)}
    data = f"cowroot-{__version__}.data/data/share/man"
    expected |= {f"{data}/man{page[-1]}/{page}" for page in _files(TOP / "man")}
    assert names == expected


def test_the_sdist_holds_what_a_build_needs_and_no_leftovers(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert {"cowroot", "hatch_build.py", "pyproject.toml", "README.md", "tests", *FAMILIES} <= tops
    assert not tops & {".venv", ".cache", ".git", "dist"}


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_are_found_in_a_checkout(family: str) -> None:
    assert template_root(family) == TOP / family


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_are_found_where_the_wheel_is_installed(family: str, site: Path) -> None:
    script = f"from cowroot.boot.templates import template_root; print(template_root({family!r}))"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=site, env={"PYTHONPATH": str(site)}, capture_output=True, check=True, timeout=60
    )
    root = Path(run.stdout.decode().strip())
    assert root == site / "cowroot/templates" / family
    assert _files(root) == _files(TOP / family)


def test_the_installed_command_runs(site: Path) -> None:
    run = subprocess.run([site / "bin/cowroot", "--version"], env={"PYTHONPATH": str(site)}, capture_output=True, check=True, timeout=60)
    assert run.stdout.startswith(b"cowroot ")
