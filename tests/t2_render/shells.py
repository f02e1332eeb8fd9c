"""The boot script's shared functions, run by each POSIX shell that an initrd may have."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cowroot.boot.initramfs_tools import render_initramfs_tools
from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.config import Config

SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "klibc": ["/usr/lib/klibc/bin/sh"]}
LIBRARY = "/etc/initramfs-tools/scripts/cowroot"


@functools.cache
def boot_files() -> dict[str, RenderedFile]:
    """The rendered files of initramfs-tools, by path."""
    return {each.path: each for each in render_initramfs_tools(Config.default(), Target()) if isinstance(each, RenderedFile)}


@dataclass(frozen=True)
class Shell:
    """One shell, with a directory that stands for /run/cowroot."""

    name: str
    state: Path

    def run(self, script: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Source the library and run `script`; the caller judges the exit code."""
        library = self.state / "library"
        if not library.exists():
            library.write_bytes(boot_files()[LIBRARY].content)
        program = f'. "{library}"\ncowroot_state="{self.state}"\n{script}\n'
        return subprocess.run(
            [*SHELLS[self.name], "-c", program, "sh", *arguments],
            input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=60,
        )

    def output(self, script: str, *arguments: str, stdin: bytes = b"") -> str:
        """What `script` prints; it must succeed and complain of nothing on stderr."""
        done = self.run(script, *arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout.decode()


def make_shell(name: str) -> Shell:
    """Return the shell called `name`; its program must be there (tests/packages.txt)."""
    program = SHELLS[name][0]
    assert shutil.which(program), f"{program} is missing: `make setup` installs it"
    return Shell(name, Path(tempfile.mkdtemp(prefix=f"cowroot-{name}-")))
