"""An interpreter for images whose own is too old or missing: a directory that needs nothing of the image but a kernel.

It holds the interpreter that runs this installation, the modules of its standard library that cowroot uses, libfuse, and the C library
and dynamic loader that these were built for, laid out as in a root directory: chrooted there, as the boot does, everything is where it
was built to be. Programs that have to see the image itself (the cowroot command) start it through its loader by name.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
import os
import re
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from modulefinder import ModuleFinder
from pathlib import Path

from cowroot.errors import PreflightError
from cowroot.install.elf import machine_of, oldest_kernel
from cowroot.install.payload import HOME, PayloadFile, code

RUNTIME = f"{HOME}/runtime"
"""Where it is in an image."""

_LIBFUSE = "libfuse.so.2"
# Modules that nothing names at the top of a file: what starts an interpreter, and what reading and writing text takes.
_ALWAYS = ("encodings.utf_8", "encodings.ascii", "encodings.latin_1", "encodings.idna", "site", "_sitebuiltins", "runpy", "zipimport")
# What is imported only for uses that cowroot has none of, and would bring much with it (_hashlib: OpenSSL; hashlib does without).
_NEVER = (
    "_hashlib", "_ssl", "asyncio", "distutils", "doctest", "ensurepip", "idlelib", "lib2to3", "multiprocessing", "pdb", "pydoc", "sqlite3",
    "ssl", "test", "tkinter", "unittest",
)  # fmt: skip
# What libraries load by name when they need it: to end a thread, glibc.
_LOADED_LATE = ("libgcc_s.so.1",)
# Mount points of the boot, and one sentence for those who wonder.
_MOUNT_POINTS = ("run", "dev", "proc", "sys")

_WRAPPER = """\
#!/bin/sh
# {what}
# Put here by `cowroot install`; `cowroot uninstall` removes it. The Python of this system is too old: this one came along.
runtime={runtime}
exec "$runtime{loader}" --library-path "$runtime{libraries}" "$runtime{python}" -I -S -B "$runtime{program}" "$@"
"""


@dataclass(frozen=True)
class Host:
    """What there is to bundle on this machine. python, libfuse, loader: real paths; libraries: the directory of the C library."""

    python: str
    libfuse: str
    loader: str
    libraries: str
    machine: int
    kernel: tuple[int, ...]

    @property
    def libfuse_in_runtime(self) -> str:
        """Where libfuse is in the runtime: with all libraries in one directory, the loader finds them without a cache."""
        return f"{self.libraries}/{_LIBFUSE}"


@functools.cache
def host() -> Host:
    """Look at this machine. Raises PreflightError if something that a runtime needs is not here."""
    # That of a virtual environment is a link to it, or a copy that needs its pyvenv.cfg.
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    found = _libraries(python)
    loader = next((path for name, path in found.items() if name.startswith("ld")), "")
    libc = next((path for name, path in found.items() if name.startswith(("libc.so", "libc.musl"))), "")
    if not loader or not libc:
        raise PreflightError(
            f"{python} shows no C library that could be bundled (ldd)", hint="run cowroot with a dynamically linked Python"
        )
    places = [
        os.path.dirname(libc),
        "/usr/lib",
        "/usr/lib64",
        "/lib",
        "/lib64",
        *(str(path) for path in Path("/usr/lib").glob("*-linux-*")),
    ]
    libfuse = next((f"{place}/{_LIBFUSE}" for place in places if os.path.exists(f"{place}/{_LIBFUSE}")), "")
    if not libfuse:
        raise PreflightError(
            f"{_LIBFUSE} is missing on this machine: the image has none, and so it would come from here",
            hint="install libfuse 2 here: package libfuse2 (libfuse2t64 in newer releases)",
        )
    return Host(python, os.path.realpath(libfuse), loader, os.path.dirname(libc), machine_of(Path(python)), oldest_kernel(Path(libc)))


def _libraries(program: str) -> dict[str, str]:
    """Return what the dynamic loader would load for a program or library: name -> path."""
    said = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    return {os.path.basename(path): path for path in re.findall(r"(/\S+) \(0x", said)}


def runtime() -> list[PayloadFile]:
    """Return all files of the runtime, cowroot's own code included, and the programs that start it.

    Raises PreflightError or CowrootError if something that belongs to it is not on this machine.
    """
    here = host()
    wanted = list(code(f"{RUNTIME}{HOME}"))
    modules = _modules([_module_name(each.path) for each in wanted if each.path.endswith(".py")])
    files = [*wanted, *(_compiled(each) for each in wanted if each.path.endswith(".py"))]
    binaries = {here.python: here.python, here.libfuse: here.libfuse_in_runtime}
    for source in modules:
        if source.suffix == ".py":
            files.append(PayloadFile(f"{RUNTIME}{source.with_suffix('.pyc')}", _byte_code(source.read_bytes(), str(source)), 0o644))
        else:
            binaries[str(source)] = str(source)
    libraries = {name: path for binary in binaries for name, path in _libraries(binary).items()}
    for name in _LOADED_LATE:
        if os.path.exists(f"{here.libraries}/{name}"):
            libraries[name] = f"{here.libraries}/{name}"
    binaries.update({path: path if path == here.loader else f"{here.libraries}/{name}" for name, path in libraries.items()})
    files += [PayloadFile(f"{RUNTIME}{place}", Path(source).read_bytes(), 0o755) for source, place in binaries.items()]
    files += [PayloadFile(f"{RUNTIME}/{name}/README", b"Something is mounted here at boot.\n", 0o644) for name in _MOUNT_POINTS]
    return [*files, *_programs(here)]


def _module_name(path: str) -> str:
    """Return by what name a file of ours is imported here: Debian's fusepy has another one."""
    name = path[len(f"{RUNTIME}{HOME}/") : -len(".py")].replace("/", ".").removesuffix(".__init__")
    return "fusepy" if name == "fuse" and importlib.util.find_spec("fuse") is None else name


def _modules(names: Iterable[str]) -> list[Path]:
    """Return the files of the standard library that the modules of these names need, directly or not."""
    library = Path(sysconfig.get_path("stdlib"))
    ours = {str(_home_of(name.split(".")[0])) for name in names}
    finder = ModuleFinder(path=[str(library), str(library / "lib-dynload"), *sorted(ours)], excludes=list(_NEVER))
    for name in (*names, *_ALWAYS):
        finder.import_hook(name)
    found = [Path(module.__file__) for module in finder.modules.values() if module.__file__]  # type: ignore[attr-defined]
    return [path for path in found if library in path.parents and "site-packages" not in path.parts]


def _home_of(package: str) -> Path:
    """Return the directory here from which a package or module of ours is imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1 if spec.submodule_search_locations else 0]


def _compiled(file: PayloadFile) -> PayloadFile:
    path = file.path[len(RUNTIME) :]
    cached = importlib.util.cache_from_source(path)
    return PayloadFile(f"{RUNTIME}{cached}", _byte_code(file.content, path), 0o644)


def _byte_code(source: bytes, path: str) -> bytes:
    """Compile a module, so that no boot has to. The form is one that is not compared with a source's time (PEP 552, unchecked hash)."""
    body = marshal.dumps(compile(source, path, "exec", dont_inherit=True, optimize=0))
    return importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + importlib.util.source_hash(source) + body


def _programs(here: Host) -> Iterator[PayloadFile]:
    for path, what, module, call in (
        ("/usr/bin/cowroot", "The cowroot command.", "cowroot.cli.main", "main()"),
        ("/usr/sbin/mount.fuse.cowroot", "mount(8) calls it for `-t fuse.cowroot`.", "cowroot.cli.mount", "mount_helper(sys.argv[1:])"),
        ("/usr/sbin/umount.fuse.cowroot", "umount(8) calls it for unions.", "cowroot.cli.umount", "umount_helper(sys.argv[1:])"),
    ):
        program = f"{HOME}/{os.path.basename(path)}.start"
        start = f"import sys\n\nsys.path.insert(0, {RUNTIME + HOME!r})\n\nfrom {module} import {call.split('(')[0]}\n\nsys.exit({call})\n"
        yield PayloadFile(f"{RUNTIME}{program}", start.encode(), 0o644)
        text = _WRAPPER.format(
            what=what, runtime=RUNTIME, loader=here.loader, libraries=here.libraries, python=here.python, program=program
        )
        yield PayloadFile(path, text.encode(), 0o755)
