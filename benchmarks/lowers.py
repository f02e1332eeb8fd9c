"""What lies in the lower layers. Each function fills an empty directory, always in the same way, and returns the layers, topmost first."""

from __future__ import annotations

import compileall
import os
import random
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Callable

from benchmarks.stage import BenchError, run
from tests.t6_boot.image import debian_mirror

FILES, FILES_EACH = 12_000, 100
MANY = 200_000
BIG_BYTES = 200 << 20
LAYERED = 5_000
CHAINS = 50
SOURCES = 20
PACKAGE = "vim"  # with its dependencies: five packages, two thousand files
_PATIENCE = 900  # seconds
_CACHE = Path(__file__).resolve().parents[1] / ".cache/benchmarks"

Builder = Callable[[Path, float], list[Path]]


def count(full: int, scale: float) -> int:
    """How many of what would be `full` at scale 1."""
    return max(10, int(full * scale))


def tree(directory: Path, scale: float) -> list[Path]:
    """12,000 files of 500 bytes to 16 KiB, 100 in a directory."""
    source = random.Random(1)
    content = source.randbytes(16 << 10) if hasattr(source, "randbytes") else bytes(source.getrandbits(8) for _ in range(16 << 10))
    for number in range(count(FILES, scale)):
        place = directory / f"d{number // FILES_EACH:03}"
        if number % FILES_EACH == 0:
            place.mkdir()
        (place / f"file{number % FILES_EACH:02}").write_bytes(content[: source.randint(500, len(content))])
    return [directory]


def many(directory: Path, scale: float) -> list[Path]:
    """200,000 files without content, 200 in a directory."""
    for number in range(count(MANY, scale)):
        if number % 200 == 0:
            place = directory / f"d{number // 200:04}"
            place.mkdir()
        os.close(os.open(place / f"file{number % 200:03}", os.O_CREAT | os.O_WRONLY, 0o644))
    return [directory]


def big(directory: Path, scale: float) -> list[Path]:
    """One file of 200 MB."""
    block = random.Random(2).getrandbits(8 << 20).to_bytes(1 << 20, "little")
    with open(directory / "big", "wb") as file:
        for _ in range(max(1, int(BIG_BYTES * scale) >> 20)):
            file.write(block)
    return [directory]


def layered(layers: int) -> Builder:
    """A function that spreads the same 5,000 files over so many layers, each directory in all of them."""

    def build(directory: Path, scale: float) -> list[Path]:
        places = [directory / f"layer{number:02}" for number in range(layers)]
        for number in range(count(LAYERED, scale)):
            for place in places:
                (place / f"d{number // FILES_EACH:02}").mkdir(parents=True, exist_ok=True)
            (places[number % layers] / f"d{number // FILES_EACH:02}" / f"file{number % FILES_EACH:02}").write_bytes(b"x")
        return places

    return build


def wide(entries: int) -> Builder:
    """A function that makes one directory with so many files."""

    def build(directory: Path, scale: float) -> list[Path]:
        (directory / "wide").mkdir()
        for number in range(entries):
            os.close(os.open(directory / "wide" / f"file{number:06}", os.O_CREAT | os.O_WRONLY, 0o644))
        return [directory]

    return build


def deep(depth: int) -> Builder:
    """A function that makes 50 chains of so many directories, a file at the end of each."""

    def build(directory: Path, scale: float) -> list[Path]:
        for number in range(CHAINS):
            end = directory / deep_path(number, depth)
            end.parent.mkdir(parents=True, exist_ok=True)
            end.write_bytes(b"x")
        return [directory]

    return build


def deep_path(number: int, depth: int) -> str:
    """Where the chain `number` of `deep` ends."""
    return "/".join([f"chain{number:02}", *["level"] * (depth - 1), "file"])


def repository(directory: Path, scale: float) -> list[Path]:
    """A git repository with 3,000 files of three commits, checked out."""
    place = directory / "repository"
    place.mkdir()
    commits = 3
    git = ("git", "-C", place, "-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0")
    run("git", "init", "-q", "-b", "main", place)
    for commit in range(commits):
        for number in range(count(1000, scale)):
            source = place / f"part{commit}" / f"d{number // 50:02}" / f"module{number % 50:02}.py"
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text(
                f'"""Module {number} of commit {commit}."""\n' + "".join(f"x{line} = {line * number}\n" for line in range(60))
            )
        run(*git, "add", "-A")
        run(*git, "commit", "-q", "-m", f"Commit {commit}")
    return [directory]


def library(directory: Path, scale: float) -> list[Path]:
    """This Python's own library, compiled."""
    source = Path(sysconfig.get_paths()["stdlib"])
    place = directory / "python" / sysconfig.get_config_var("platlibdir") / source.name
    leave = shutil.ignore_patterns("test", "tests", "idlelib", "site-packages", "dist-packages", "config-*", "*.a", "__pycache__")
    shutil.copytree(source, place, ignore=leave, symlinks=True, ignore_dangling_symlinks=True)
    compileall.compile_dir(os.fspath(place), quiet=2)
    return [directory]


def project(directory: Path, scale: float) -> list[Path]:
    """Twenty C sources with a header and a makefile."""
    place = directory / "project"
    place.mkdir()
    numbers = range(max(3, int(SOURCES * scale)))
    (place / "all.h").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n" + "".join(f"int f{n}(int);\n" for n in numbers)
    )
    for n in numbers:
        body = "".join(f"    x = x * {line + 3} + (x >> {line % 7});\n" for line in range(40))
        (place / f"f{n}.c").write_text(f'#include "all.h"\nint f{n}(int x)\n{{\n{body}    return x;\n}}\n')
    (place / "main.c").write_text(
        '#include "all.h"\nint main(void)\n{\n    return ' + " + ".join(f"f{n}(1)" for n in numbers) + " == 1;\n}\n"
    )
    objects = " ".join(["main.o", *(f"f{n}.o" for n in numbers)])
    (place / "Makefile").write_text(f"program: {objects}\n\tcc -o $@ $^\n%.o: %.c all.h\n\tcc -O1 -c -o $@ $<\n")
    return [directory]


def debian(directory: Path, scale: float) -> list[Path]:
    """A minimal Debian 12 with a package in apt's cache that is yet to be installed; fetched once, and kept in .cache/."""
    archive = _CACHE / "debian.tar"
    if not archive.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(".part.tar")
        fetch = f'chroot "$1" apt-get install --yes --download-only --no-install-recommends {PACKAGE}'
        mirror = debian_mirror()
        try:
            run(
                "timeout", _PATIENCE, "unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--skip=cleanup/apt",
                f"--customize-hook={fetch}",
                '--aptopt=Acquire::Languages "none"', "bookworm", part, *([mirror] if mirror else []),
                DEBIAN_FRONTEND="noninteractive",
            )  # fmt: skip
        except OSError as e:
            part.unlink(missing_ok=True)
            raise BenchError(f"a minimal Debian could not be fetched ({e}); `--rows '!apt'` does without") from None
        part.rename(archive)
    subprocess.run(["tar", "-C", directory, "--numeric-owner", "-xpf", archive], check=True, timeout=_PATIENCE)
    return [directory]


BUILDERS: dict[str, Builder] = {
    builder.__name__: builder for builder in (tree, many, big, repository, library, project, debian)
}  # fmt: skip
BUILDERS.update({f"layered{number}": layered(number) for number in (1, 4, 16)})
BUILDERS.update({f"wide{number}": wide(number) for number in (10, 100, 1_000, 10_000, 100_000)})
BUILDERS.update({f"deep{number}": deep(number) for number in (1, 4, 16, 64)})
