"""What tools say about the sources, and which way the imports go."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PYTHON_FOLDERS = [name for name in ("benchmarks", "cowroot", "demo", "docs", "provisioning", "tests") if any((TOP / name).rglob("*.py"))]
PYTHON_FILES = ["hatch_build.py", "debian/programs.py"]


def _tracked(*patterns: str) -> list[Path]:
    """Files of the checkout, committed or about to be, without what git ignores."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns],
        cwd=TOP,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return [TOP / name.decode() for name in sorted(set(listing.stdout.split(b"\0"))) if name and (TOP / name.decode()).is_file()]


def _check(*command: str | Path) -> None:
    """Run a tool that exits with something other than 0 where it has a complaint, and fail with all that it says."""
    run = subprocess.run(
        [str(word) for word in command], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=600
    )
    if run.returncode:
        pytest.fail(f"{command[0]}: exit code {run.returncode}\n{run.stdout.decode()}", pytrace=False)


def test_ruff() -> None:
    _check(sys.executable, "-m", "ruff", "check", "--quiet", "--output-format=concise", *PYTHON_FOLDERS, *PYTHON_FILES)


def test_mypy_strict() -> None:
    _check(sys.executable, "-m", "mypy", "--no-error-summary", *PYTHON_FOLDERS, *PYTHON_FILES)


def test_shellcheck() -> None:
    """Scripts as they stand. What templates render is checked where they are rendered."""
    shells = ("/sh", "/bash")
    scripts = [file for file in _tracked() if file.suffix in (".sh", ".bash") or (_shebang(file).endswith(shells) and file.suffix != ".j2")]
    assert TOP / "tests/setup.sh" in scripts
    assert TOP / ".ci/run" in scripts
    _check("shellcheck", *scripts)


def _shebang(file: Path) -> str:
    with open(file, "rb") as stream:
        line = stream.readline(100)
    return line.decode("ascii", "replace").split()[0] if line.startswith(b"#!") and line.split() else ""


def _imports(module: Path) -> Iterator[str]:
    """Every module that a source file imports, at its top or in a function, unless only for type checking."""
    tree = ast.parse(module.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            skipped.update(each for part in node.body for each in ast.walk(part))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# What each part of the package may import of the others, besides errors and itself, and of what is not Python's own. The arrows:
# cli → install, layers, servicing, status → boot, config, union; fuse → union. The union serves any tree and knows none of the libraries.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "bootrecord": set(),
    "mountinfo": set(),
    "union": set(),
    "fuse": {"mountinfo", "union", "fuse", "fusepy"},
    "config": {"yaml"},
    "boot": {"config", "jinja2"},
    "install": {"boot", "config", "mountinfo", "union"},
    "lastboot": {"bootrecord"},
    "layers": {"config", "union"},
    "servicing": {"boot", "bootrecord", "install", "mountinfo"},
    # It asks the daemon through its control socket.
    "status": {"boot", "bootrecord", "config", "fuse.control", "install", "layers", "mountinfo", "reset", "servicing", "union", "watch"},
    "reset": {"bootrecord"},
    "watch": {"config"},
    "usage": {"bootrecord", "fuse.control", "mountinfo", "status"},
}
# Ours are known by their full name, so that cowroot.fuse is not the fuse of fusepy.
LIBRARIES = {"click", "fuse", "fusepy", "jinja2", "markupsafe", "yaml"}


def _sources(part: str) -> list[Path]:
    module = TOP / "cowroot" / f"{part}.py"
    return [module] if module.exists() else sorted((TOP / "cowroot" / part).rglob("*.py"))


@pytest.mark.parametrize("part", ALLOWED)
def test_the_arrows_between_the_parts(part: str) -> None:
    parts = {f"cowroot.{name}" for name in ALLOWED[part] | {"errors", part}} if part != "errors" else set()
    libraries = ALLOWED[part] & LIBRARIES
    wrong = []
    for file in _sources(part):
        for name in _imports(file):
            words = name.split(".")
            # The package itself: where it lies, and its version.
            itself = name in ("cowroot", "cowroot.__version__")
            allowed = itself or any(f"{name}.".startswith(f"{each}.") for each in parts)
            if (words[0] == "cowroot" and not allowed) or words[0] in LIBRARIES - libraries:
                wrong.append(f"{file.relative_to(TOP)} imports {name}")
    assert wrong == []


def test_the_arrows_are_about_every_part() -> None:
    names = {file.stem for file in (TOP / "cowroot").iterdir() if file.suffix == ".py" or (file / "__init__.py").exists()}
    assert names - set(ALLOWED) == {"__init__", "__main__", "cli"}


# Calls that change a file system, by the last name in the call.
_WRITING = {
    "chmod",
    "chown",
    "copy",
    "copy2",
    "copyfile",
    "copytree",
    "link",
    "makedirs",
    "mkdir",
    "mkfifo",
    "mknod",
    "move",
    "remove",
    "removedirs",
    "rename",
    "renames",
    "rmdir",
    "rmtree",
    "symlink",
    "symlink_to",
    "hardlink_to",
    "touch",
    "truncate",
    "unlink",
    "utime",
    "write_bytes",
    "write_text",
}


def test_what_renders_writes_nothing() -> None:
    wrong = []
    for file in sorted((TOP / "cowroot/boot").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            opens = name == "open" and any(mode in ast.unparse(node) for mode in ("'w", "'a", "'x", "'r+", "O_WRONLY", "O_RDWR", "O_CREAT"))
            if (name in _WRITING and owner not in ("dict", "copy")) or opens or owner == "subprocess":
                wrong.append(f"{file.relative_to(TOP)}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


def test_no_module_is_named_after_nothing() -> None:
    nothing = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    assert [file for file in _tracked("*.py") if file.stem in nothing] == []
