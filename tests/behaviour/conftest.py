"""Every scenario runs on every backend.

All scenarios share one union for each backend: the layers that a test asks for with `@lower(…)` lie in a directory of its own, and its
`fs` begins there. So a backend is mounted once, and a scenario costs what its calls cost.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.behaviour import trees
from tests.behaviour.backends import BACKENDS, Backend, Case, Disk, Watchdog, fingerprint
from tests.behaviour.filesystem import FileSystem
from tests.behaviour.known_gaps import KNOWN_GAPS

TEST_SECONDS = 60
SHARED_LAYERS = 3
_numbers = itertools.count()
HERE = Path(__file__).parent
DEFAULT_BACKENDS = ("plain", "overlayfs", "core", "fusepy", "direct")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backends", default=",".join(DEFAULT_BACKENDS), help=f"which of {', '.join(BACKENDS)} to test, comma-separated")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lower(*layers): the lower layers that the test begins with, topmost first")
    config.addinivalue_line("markers", "mounted: needs locks, other users or other processes, so not for the core without a mount")
    config.addinivalue_line("markers", "union: about the union's own doings, so not for the plain copy")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = metafunc.config.getoption("--backends").split(",")
    if "against_copy" in metafunc.fixturenames:  # what is held against the plain copy call by call; a second copy proves the comparison
        metafunc.parametrize("against_copy", ["twin", *(name for name in chosen if name not in ("plain", "overlayfs"))])
    if "backend_name" not in metafunc.fixturenames:
        return
    if metafunc.definition.get_closest_marker("mounted"):
        chosen = [name for name in chosen if BACKENDS[name].mounted]
    if metafunc.definition.get_closest_marker("union"):
        chosen = [name for name in chosen if name != "plain"]
    metafunc.parametrize("backend_name", chosen, scope="session")


def backend_of(item: pytest.Item) -> str:
    """The backend that a test runs on, or "" where it is not about one."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return ""
    return str(item.callspec.params.get("backend_name") or item.callspec.params.get("against_copy", ""))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the known gaps, and bring together what runs on one backend, so that each union is mounted once."""
    ours = [number for number, item in enumerate(items) if item.path.is_relative_to(HERE)]
    for number, item in zip(ours, sorted((items[number] for number in ours), key=lambda item: order_of(backend_of(item)))):
        items[number] = item
        gaps = KNOWN_GAPS.get(backend_of(item), {})
        if gaps and isinstance(item, pytest.Function):
            others = item.callspec.id.replace(backend_of(item), "", 1).replace("--", "-").strip("-")
            reason = gaps.get(item.originalname) or gaps.get(f"{item.originalname}[{others}]")
            if reason:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=not reason.startswith("sometimes")))


def order_of(backend: str) -> int:
    return ["", *BACKENDS].index(backend)


def home(item: pytest.Item) -> bytes:
    """The directory of a test in the shared union: the same for each backend, for each has a union of its own."""
    assert isinstance(item, pytest.Function)
    name = re.sub(r"[^A-Za-z0-9_]+", ".", item.nodeid.split("/")[-1].replace(backend_of(item), ""))
    return os.fsencode(name)


@pytest.fixture(scope="session")
def disk() -> Iterator[Disk]:
    directory = tempfile.mkdtemp(prefix="behaviour-", dir="/dev/shm").encode()
    ground = Disk(directory)
    yield ground
    ground.remove()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def shared(backend_name: str, disk: Disk, request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The union in which all scenarios of one backend have their directories."""
    layers: list[dict[bytes, trees.Spec]] = [{} for _ in range(SHARED_LAYERS)]
    for item in request.session.items:
        if isinstance(item, pytest.Function) and "fs" in item.fixturenames and backend_of(item) == backend_name:
            marker = item.get_closest_marker("lower")
            asked = marker.args if marker else ({},)
            for layer, tree in zip(layers[-len(asked) :], asked):
                top = home(item)
                layer[top] = trees.Dir()
                for path, spec in tree.items():
                    moved = trees.Hardlink(top + b"/" + spec.to) if isinstance(spec, trees.Hardlink) else spec
                    layer[top + b"/" + path if path else top] = moved
    case = Case(os.path.join(disk.root, backend_name.encode()), layers)
    before = fingerprint(case.layers)
    backend = BACKENDS[backend_name](case)
    yield backend
    backend.down()
    assert fingerprint(case.layers) == before, "a lower layer was changed"
    assert backend.faults() == []
    case.remove()


@pytest.fixture
def union(shared: Backend) -> Iterator[Backend]:
    """The shared union, brought up again if the test before took it down, and watched for calls that hang."""
    try:
        shared.fs.statvfs()
    except OSError:
        shared.revive()
    watchdog = Watchdog(shared.case.mount, TEST_SECONDS) if shared.mounted else None
    before = shared.fs.umask(0o022)
    yield shared
    shared.fs.close_all()  # what a failing test has left open would keep the union from being unmounted
    shared.fs.umask(before)
    if watchdog:
        watchdog.stop()


@pytest.fixture
def fs(union: Backend, request: pytest.FixtureRequest) -> FileSystem:
    """System calls in the test's own directory."""
    return union.fs.below(home(request.node))


@pytest.fixture
def remounted(union: Backend, request: pytest.FixtureRequest) -> Callable[[], FileSystem]:
    """Call it to remount the union; it returns the `fs` from then on. Descriptors must be closed before."""

    def remount() -> FileSystem:
        union.remount()
        return union.fs.below(home(request.node))

    return remount


@pytest.fixture
def upper(union: Backend, request: pytest.FixtureRequest) -> bytes:
    """The test's directory in the upper layer."""
    return os.path.join(union.case.upper, home(request.node))


@pytest.fixture
def own(backend_name: str, disk: Disk) -> Iterator[Callable[..., Backend]]:
    """Call it with layers (topmost first) for a union that belongs to the test alone; `frozen`, `upper_on`: see Case."""
    made: list[Backend] = []

    def make(*layers: trees.Tree, frozen: Sequence[str] = (), upper_on: str = "") -> Backend:
        case = Case(os.path.join(disk.root, b"own%d" % next(_numbers)), layers, upper_on, frozen)
        made.append(BACKENDS[backend_name](case))
        return made[-1]

    yield make
    for backend in made:
        backend.down()
        assert backend.faults() == []
        backend.case.remove()
