"""Fixtures of the boot tests: images from the cache, and a boot that keeps its console where it fails and leaves the image as it was."""
from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.t6_boot import disk, image, recipe, uml
from tests.t6_boot.carrier import make_debs_disk
from tests.t6_boot.image import CHECKOUT, Image
from tests.t6_boot.machine import Ended, Machine, attend, clean_up_on_sigterm

# Limits for what hangs, in seconds; what is measured is printed, never asserted.
BOOT_LIMIT = 300
ENDING_LIMIT = 80

HERE = Path(__file__).parent
Boot = Callable[..., Ended]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes, with a new image or without: begins before the others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the long tests begin, so that two processes end together.

    A process is given two tests at first (pytest-xdist): the first and the third need different images, which are then built side by side.
    """
    ours = [number for number, item in enumerate(items) if item.path.is_relative_to(HERE)]
    for number, item in zip(ours, sorted((items[number] for number in ours), key=lambda item: item.get_closest_marker("long") is None)):
        items[number] = item


@pytest.fixture(scope="session", autouse=True)
def _no_machine_is_left() -> None:
    clean_up_on_sigterm()


@pytest.fixture(scope="session")
def plain() -> Image:
    """Debian 13 as it comes."""
    return image.plain()


@pytest.fixture(scope="session")
def appliance() -> Image:
    """Debian 13 with cowroot installed."""
    return image.installed()


@pytest.fixture(scope="session")
def older_appliance() -> Image:
    """Debian 12 with cowroot installed: an older kernel, systemd and Python, and an initrd without busybox."""
    return image.installed(recipe.BOOKWORM)


@pytest.fixture(scope="session")
def dracut_appliance() -> Image:
    """Debian 13 whose initrds are made by dracut, with cowroot installed."""
    return image.installed(recipe.TRIXIE_DRACUT)


@pytest.fixture(scope="session")
def sysvinit_appliance() -> Image:
    """Debian 12 with sysvinit instead of systemd, with cowroot installed."""
    return image.installed(recipe.BOOKWORM_SYSVINIT)


@pytest.fixture
def work(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory for one test's consoles and disks: .cache/boots/MODULE-TEST, kept only where the test fails."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{request.path.stem}-{request.node.name}".replace("test_", "")).strip("-")
    place = CHECKOUT / ".cache/boots" / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    failures = request.session.testsfailed
    yield place
    if request.session.testsfailed == failures:
        shutil.rmtree(place)


@pytest.fixture(scope="session")
def checksums() -> dict[Path, str]:
    """Of images, before their first boot: what each boot leaves has to be the same, so that none needs them anew."""
    return {}


@pytest.fixture
def boot(work: Path, checksums: dict[Path, str]) -> Boot:
    """A function that boots an image with a check, follows it to its end, and asserts what holds for every such boot."""

    def do(booted: Image, check: str, *, start: Callable[..., Machine] = uml.start, **options: object) -> Ended:
        if booted.disk not in checksums:
            checksums[booted.disk] = booted.sha256()
        with start(booted, check, work / check, **options) as machine:
            ended = attend(machine, BOOT_LIMIT, ENDING_LIMIT)
        print(f"{check}: running after {ended.running:.1f} s, ended after {ended.ending:.1f} s")
        assert ended.passed, f"{ended.reason}\n{machine.console.tail()}"
        assert ended.complaints() == []
        assert booted.sha256() == checksums[booted.disk], "the image has been written to"
        return ended

    return do


@pytest.fixture(scope="session")
def debs_disk(appliance: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with packages that a guest can install without a network."""
    return make_debs_disk(appliance, tmp_path_factory.mktemp("debs"))


@pytest.fixture
def upper_disk(work: Path) -> Path:
    """An empty disk for an upper, LABEL=upper."""
    return disk.make_data_disk(work / "upper.img", 256, "upper")
