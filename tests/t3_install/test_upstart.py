"""Installing into an Ubuntu that boots with Upstart: what is found, what goes in, and that all of it comes out again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cowroot import __version__
from cowroot.errors import PreflightError
from cowroot.install import preflight
from cowroot.install.elf import machine_in, machine_of, oldest_kernel
from cowroot.install.inspection import Inspection, inspect
from cowroot.install.installation import install
from cowroot.install.manifest import drift, read_manifest
from cowroot.install.removal import uninstall
from cowroot.install.runtime import RUNTIME, host, runtime
from cowroot.install.staging import ToolError
from cowroot.install.target import Choice
from cowroot.install.tree import Tree
from tests.t2_render.test_upstart import VERSIONS
from tests.t3_install.fake import Content, Link, Script, snapshot
from tests.t3_install.ubuntu import RELEASE, make_ubuntu

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="installing mounts an overlay, which needs root")


def look_into(place: Path, release: str = "14.04", changed: dict[str, Content] | None = None, kernel: str = RELEASE) -> Inspection:
    with Tree(make_ubuntu(place / "root", release, changed, kernel=kernel)) as tree:
        return inspect(tree)


@pytest.mark.parametrize("release", VERSIONS)
def test_upstart_and_its_version_are_found(tmp_path: Path, release: str) -> None:
    found = look_into(tmp_path, release)
    assert (found.target.init, found.target.upstart) == ("upstart", VERSIONS[release])
    assert "start on startup" in found.target.mountall_conf
    assert found.target.runtime == RUNTIME
    assert found.target.python == host().python
    preflight.check(found, "it")


def test_a_python_that_is_new_enough_is_used(tmp_path: Path) -> None:
    changed: dict[str, Content] = {
        "/usr/bin/python3": Link("python3.12"), "/usr/bin/python3.12": b"\x7fELF", "/usr/lib/python3.12/ctypes/__init__.py": "",
        "/usr/lib/python3.12/lib-dynload/_ctypes.so": "", "/usr/lib/libfuse.so.2": b"\x7fELF",
    }  # fmt: skip
    found = look_into(tmp_path, changed=changed)
    assert (found.target.runtime, found.target.python, found.target.libfuse) == ("", "/usr/bin/python3", "/usr/lib/libfuse.so.2")


@pytest.mark.parametrize(
    ("changed", "kernel", "problem"),
    [
        ({"/etc/init/mountall.conf": None}, RELEASE, "there is no /etc/init/mountall.conf"),
        ({}, "2.6.31-14-generic", "its kernel 2.6.31-14-generic is older than"),
        ({"/usr/sbin/init": b"\x7fELF\2\1\1" + bytes(11) + b"\xb7\0" + bytes(44)}, RELEASE, "its programs are for aarch64"),
    ],
)
def test_what_the_boot_would_lack(tmp_path: Path, changed: dict[str, Content], kernel: str, problem: str) -> None:
    found = look_into(tmp_path, changed=changed, kernel=kernel)
    with pytest.raises(PreflightError, match=problem) as caught:
        preflight.check(found, "it")
    assert caught.value.hint


def test_what_programs_are_built_for() -> None:
    assert machine_of(Path("/bin/sh")) == host().machine != 0
    assert machine_in(b"#!/bin/sh\n") == 0
    assert machine_in(b"") == 0
    # Debian 12's says 3.2.0; no glibc that has a Python 3.9 beside it says less than 2.6.16.
    assert (2, 6) < oldest_kernel(Path(host().libraries) / "libc.so.6") < (7,)
    assert oldest_kernel(Path("/bin/sh")) == oldest_kernel(Path("/bin/cat"))


@root_only
def test_the_runtime_starts_where_there_is_nothing_else(tmp_path: Path) -> None:
    """In a directory with nothing but it: all of the daemon is imported, libfuse loaded, threads started and ended."""
    files = runtime()
    for file in files:
        if file.path.startswith(RUNTIME):
            place = tmp_path / file.path[len(RUNTIME) + 1 :]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.content)
            place.chmod(file.mode)
    program = (
        "import sys, threading; sys.path.insert(0, '/usr/lib/cowroot')\n"
        "import cowroot.fuse.daemon, cowroot.fuse.fusepy_engine, cowroot.fuse.direct.engine, cowroot.cli.main, cowroot.cli.status\n"
        "from cowroot.fuse import libfuse\n"
        "assert libfuse.load()._libfuse.fuse_version() >= 29\n"
        "thread = threading.Thread(target=print, args=('served',)); thread.start(); thread.join()\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "chroot", str(tmp_path), host().python, "-I", "-S", "-B", "-W", "error", "-c", program],
        env={"FUSE_LIBRARY_PATH": host().libfuse_in_runtime, "PATH": "/usr/sbin:/usr/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("served\n", "", 0)
    assert len({file.path for file in files}) == len(files)


@root_only
@pytest.mark.parametrize("release", ["10.04", "14.04"])
def test_in_and_out(tmp_path: Path, release: str) -> None:
    root = make_ubuntu(tmp_path / "root", release)
    before = snapshot(root)
    said: list[str] = []
    result = install(Choice(root=root), None, said.append)
    assert result.done == "installed"
    changed = root / "etc/init" / ("mountall.conf" if release == "10.04" else "mountall.override")
    assert "pre-start exec /bin/sh /usr/lib/cowroot/boot/upstart" in changed.read_text()
    assert (root / "usr/lib/cowroot/boot/upstart").is_file()
    # The command runs there, by the interpreter that came along, and nothing has looked for one of the image's.
    assert f"cowroot: cowroot {__version__}" in said
    assert not any("update-initramfs" in line for line in said)
    assert (root / f"boot/initrd.img-{RELEASE}").read_text() == "init\n"
    manifest = read_manifest(root)
    assert manifest
    assert drift(root, manifest) == []
    assert install(Choice(root=root), None, said.append).done == "unchanged"
    assert uninstall(Choice(root=root), said.append).done == "uninstalled"
    assert snapshot(root) == before


@root_only
def test_a_change_of_form_takes_the_other_one_back(tmp_path: Path) -> None:
    root = make_ubuntu(tmp_path / "root", "10.04")
    before = (root / "etc/init/mountall.conf").read_text()
    install(Choice(root=root), None, lambda _: None)
    settings = tmp_path / "job.yaml"
    settings.write_text("upstart:\n  form: job\n")
    install(Choice(root=root), settings, lambda _: None)
    assert (root / "etc/init/mountall.conf").read_text() == before
    assert (root / "etc/init/cowroot.conf").is_file()


@root_only
def test_an_interpreter_that_does_not_run_there_changes_nothing(tmp_path: Path) -> None:
    root = make_ubuntu(tmp_path / "root", changed={"/usr/sbin/chroot": Script("#!/bin/sh\necho 'FATAL: kernel too old'; exit 127\n")})
    before = snapshot(root)
    with pytest.raises(ToolError, match="kernel too old"):
        install(Choice(root=root), None, lambda _: None)
    assert snapshot(root) == before
