"""`cowroot status` over systems laid out in a directory: every verdict, what it says, and its exit code."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cowroot import status as module
from cowroot.cli.reset import command as reset
from cowroot.cli.status import _text, command
from cowroot.errors import CowrootError
from cowroot.install.manifest import GENERATED, RENDERED, Manifest, Record
from cowroot.install.state import look
from cowroot.install.tree import Tree
from cowroot.reset import kept_upper, mark, unmark
from cowroot.status import CopiedUp, Status, copied_up, status_of_system

UNION = "30 1 0:45 / / rw,relatime - fuse.cowroot /dev/vda1 rw,user_id=0,group_id=0,default_permissions,allow_other\n"
LOWER = "31 30 254:1 / /run/cowroot/lower ro,relatime - ext4 /dev/vda1 ro\n"
REAL = "30 1 254:1 / / {0},relatime - ext4 /dev/vda1 {0}\n"
GIB = 1 << 30

DAEMON: dict[str, Any] = {
    "engine": "fusepy",
    "version": "0.1.0",
    "pid": 312,
    "uptime": 65.2,
    "mountpoint": "/run/union",
    "device": "0:45",
    "layers": [
        {"kind": "lower", "path": "/run/lower", "filesystem": "ext4", "size": 2 * GIB, "free": GIB},
        {"kind": "upper", "path": "/run/upper/upper", "filesystem": "tmpfs", "size": GIB, "free": GIB // 2},
        {"kind": "work", "path": "/run/upper/work", "filesystem": "tmpfs", "size": GIB, "free": GIB // 2},
    ],
    "rss": 20 << 20,
    "open_files": 3,
    "nodes": 900,
    "protocol": "7.23",
    "kernel_protocol": "7.41",
    "features": ["big_writes"],
    "missing_features": {"passthrough": "libfuse 2 cannot", "max_pages": "not offered by the kernel", "readdirplus": "libfuse 2 cannot"},
    "requests": {"LOOKUP": 40, "READ": 2},
}


class System:
    """A system's root directory, booted copy-on-write as configured; a test then spoils it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = root / "run/cowroot/lower"
        self.upper = root / "run/cowroot/upper"
        for directory in ("proc/self", "run/cowroot/control", "run/cowroot/lower/boot/grub", "run/cowroot/upper/upper", "etc/cowroot"):
            (root / directory).mkdir(parents=True)
        self.mounts(UNION + LOWER)
        (root / "proc/cmdline").write_text("root=LABEL=root ro quiet\n")
        self.record()
        (self.disk / "boot/grub/grubenv").touch()
        (self.disk / "boot/grub/grub.cfg").write_text("### BEGIN /etc/grub.d/99_cowroot ###\n")
        (self.disk / "boot/initrd.img-6.12").write_text("initrd")
        (self.disk / "etc/cowroot").mkdir(parents=True)
        (self.disk / "etc/cowroot/cowroot.yaml").touch()
        self.install(self.disk, ["/boot/grub/grubenv", "/boot/grub/grub.cfg", "/boot/initrd.img-6.12", "/etc/cowroot/cowroot.yaml"])

    def mounts(self, text: str) -> None:
        (self.root / "proc/self/mountinfo").write_text(text)

    def record(self, **changes: Any) -> None:
        record = {
            "version": 1,
            "rung": "configured",
            "reasons": [],
            "settings": {"enabled": True, "engine": "auto", "upper.device": "tmpfs"},
            "engine": "auto",
            "root_device": "/dev/vda1",
            "upper_device": "tmpfs",
            "upper_directory": "/run/cowroot/upper",
            "mounts": ["union /srv", "read-only /boot"],
            "seconds": 3.21,
        }
        (self.root / "run/cowroot/boot.json").write_text(json.dumps({**record, **changes}))

    @staticmethod
    def install(where: Path, paths: list[str]) -> None:
        with Tree(where) as tree:
            origins = {path: GENERATED if path.startswith("/boot/initrd") else RENDERED for path in paths}
            records = {path: Record(path, origin, None, look(tree, path)) for path, origin in origins.items()}
        directory = where / "var/lib/cowroot"
        directory.mkdir(parents=True)
        (directory / "manifest.json").write_text(Manifest("0.1.0", ("6.12",), records, {}, 0).to_text())

    def status(self) -> Status:
        return status_of_system(self.root)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


@pytest.fixture
def daemon(system: System) -> Iterator[Callable[..., None]]:
    """Let something answer on the control socket, with the daemon's usual answer and changes to it."""
    answer = dict(DAEMON)
    # by descriptor: the test's directory may have too long a path for a socket
    directory = os.open(system.root / "run/cowroot/control", os.O_RDONLY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{directory}/0:45.sock")
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield answer.update
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()
    os.close(directory)


@pytest.mark.usefixtures("daemon")
def test_all_as_configured(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    (system.upper / "upper/etc").mkdir()
    (system.upper / "upper/etc/motd").write_text("x")
    os.mknod(system.upper / "upper/gone", 0o020000, 0)
    status = system.status()
    assert (status.verdict, status.exit_code, status.problems) == ("ok", 0, [])
    assert status.installed == "0.1.0"
    assert status.recordfail == module.Recordfail("empty", True)
    assert status.copied_up is not None
    assert (status.copied_up.files, status.copied_up.directories, status.copied_up.whiteouts) == (1, 1, 1)
    assert status.lower_writable is False
    monkeypatch.setattr("cowroot.cli.status.status_of_system", system.status)
    result = CliRunner().invoke(command)
    assert result.exit_code == 0
    assert result.output.startswith("/ is a copy-on-write union, and all is as configured\n")
    assert "lower       /dev/vda1, ext4 of 2.0 GiB, 1.0 GiB free, read-only" in result.output
    assert "boot        rung `configured`, 3.21 s after the kernel started" in result.output
    assert "mounts      /srv union, /boot read-only" in result.output
    told = json.loads(CliRunner().invoke(command, ["--json"]).output)
    assert (told["exit_code"], told["verdict"], told["daemon"]["engine"]) == (0, "ok", "fusepy")


def one_problem(status: Status) -> str:
    assert (status.verdict, status.exit_code) == ("degraded", 12)
    assert len(status.problems) == 1
    return status.problems[0]


@pytest.mark.usefixtures("daemon")
class TestDegraded:
    def test_another_rung(self, system: System) -> None:
        system.record(rung="tmpfs", reasons=["LABEL=data did not appear in 30 seconds"])
        status = system.status()
        assert status.verdict == "degraded"
        assert status.problems == ["LABEL=data did not appear in 30 seconds", "the boot ended on the rung `tmpfs`, not as configured"]

    def test_writable_lower(self, system: System) -> None:
        system.mounts(UNION + LOWER.replace("ro,", "rw,").replace("vda1 ro", "vda1 rw"))
        assert "mounted writable at /run/cowroot/lower" in one_problem(system.status())

    def test_changed_file(self, system: System) -> None:
        (system.disk / "boot/grub/grubenv").write_text("# GRUB Environment Block\nrecordfail=1\n")
        status = system.status()
        assert "/boot/grub/grubenv has other content" in one_problem(status)
        assert status.recordfail == module.Recordfail("set", True)

    def test_menu_without_our_part(self, system: System) -> None:
        (system.disk / "boot/grub/grub.cfg").write_text("menuentry x {}\n")
        assert "without cowroot's part" in one_problem(system.status())

    @pytest.mark.parametrize(("listed", "fine"), [("scripts/local-bottom/cowroot", True), ("init", False)])
    def test_initrd_made_anew(self, system: System, monkeypatch: pytest.MonkeyPatch, listed: str, fine: bool) -> None:
        """As every kernel upgrade does: no problem, if the hook was in it."""
        tools = system.root / "tools"
        tools.mkdir()
        (tools / "lsinitramfs").write_text(f"#!/bin/sh\necho {listed}\n")
        (tools / "lsinitramfs").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        (system.disk / "boot/initrd.img-6.12").write_text("anew")
        assert (system.status().verdict == "ok") == fine
        assert [each.path for each in system.status().drift] == ["/boot/initrd.img-6.12"]

    def test_edited_settings_that_change_nothing(self, system: System) -> None:
        (system.disk / "etc/cowroot/cowroot.yaml").write_text("# a comment\n")
        status = system.status()
        assert (status.verdict, [each.path for each in status.drift]) == ("ok", ["/etc/cowroot/cowroot.yaml"])

    def test_changed_settings(self, system: System) -> None:
        (system.root / "etc/cowroot/cowroot.yaml").write_text("upper:\n  device: LABEL=data\n")
        assert "upper.device changed in /etc/cowroot/cowroot.yaml since this boot's initrd" in one_problem(system.status())

    def test_broken_settings(self, system: System) -> None:
        (system.root / "etc/cowroot/cowroot.yaml").write_text("uper: 1\n")
        assert "cowroot.yaml:1" in one_problem(system.status())

    def test_other_engine(self, system: System) -> None:
        (system.root / "proc/cmdline").write_text("cowroot.engine=direct\n")
        system.record(settings={"enabled": True, "engine": "direct", "upper.device": "tmpfs"})
        assert one_problem(system.status()) == "the engine is fusepy, not direct as configured"

    def test_no_record_of_the_boot(self, system: System) -> None:
        (system.root / "run/cowroot/boot.json").unlink()
        assert "record of this boot, is missing" in one_problem(system.status())

    def test_damaged_record(self, system: System) -> None:
        (system.root / "run/cowroot/boot.json").write_text("{")
        assert "cannot be read" in system.status().problems[0]

    def test_damaged_manifest(self, system: System) -> None:
        (system.disk / "var/lib/cowroot/manifest.json").write_text("{}")
        assert "manifest.json is damaged" in one_problem(system.status())


def test_nearly_full(system: System, daemon: Callable[..., None]) -> None:
    layers = [dict(layer, free=GIB // 100) for layer in DAEMON["layers"]]
    daemon(layers=layers)
    assert one_problem(system.status()) == "the upper is nearly full: 10 of 1024 MiB are free; see cowroot usage"


def test_engine_overlayfs_has_no_daemon(system: System) -> None:
    system.mounts("30 1 0:45 / / rw,relatime - overlay cowroot rw,lowerdir=/run/lower,upperdir=/run/upper/upper\n" + LOWER)
    (system.root / "proc/cmdline").write_text("cowroot.engine=overlayfs\n")
    system.record(engine="overlayfs", settings={"enabled": True, "engine": "overlayfs", "upper.device": "tmpfs"})
    assert (system.status().verdict, system.status().daemon) == ("ok", None)
    system.record(engine="auto")
    (system.root / "proc/cmdline").write_text("quiet\n")
    assert system.status().verdict == "not-active", "an overlay that is not ours"


def test_silent_daemon(system: System) -> None:
    assert "no answer from the daemon" in one_problem(system.status())


def inactive(system: System, options: str) -> Status:
    system.mounts(REAL.format(options))
    for name in ("boot", "var"):
        (system.disk / name).rename(system.root / name)
    return system.status()


def test_switched_off(system: System) -> None:
    system.record(rung="off")
    status = inactive(system, "rw")
    assert (status.verdict, status.exit_code) == ("not-active", 11)
    assert status.problems == ["this boot was asked not to use cowroot (cowroot=off, or enabled: false)"]


def test_thawed(system: System, daemon: Callable[..., None]) -> None:
    daemon()
    (system.disk / "etc/cowroot/thaw").write_text("2\n")
    assert (system.status().verdict, system.status().thaw) == ("ok", 2)
    system.record(rung="thawed")
    status = inactive(system, "rw")
    assert (status.verdict, status.exit_code) == ("not-active", 11)
    assert status.problems == ["this boot was asked to have / writable (cowroot thaw)"]


def test_a_lower_that_could_not_be_protected_again(system: System, daemon: Callable[..., None]) -> None:
    daemon()
    opened = LOWER.replace("/dev/vda1 ro", "/dev/vda1 rw")
    system.mounts(UNION + opened)
    assert "files in use were removed" in one_problem(system.status())
    with (system.root / "run/cowroot/servicing.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert system.status().verdict == "ok", "somebody is servicing it"
    system.mounts(UNION + opened + "40 30 254:1 /@home /home rw,relatime - ext4 /dev/vda1 rw\n")
    assert system.status().verdict == "ok", "it is shared with what shall be writable"


def test_read_only_rung(system: System) -> None:
    system.record(rung="read-only", reasons=["the daemon could not be started"])
    status = inactive(system, "ro")
    assert status.exit_code == 11
    assert status.problems[0] == "the daemon could not be started"


def test_initrd_without_cowroot(system: System) -> None:
    (system.root / "run/cowroot/boot.json").unlink()
    status = inactive(system, "rw")
    assert status.exit_code == 11
    assert "update-initramfs" in status.problems[0]


def test_not_installed(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(REAL.format("rw"))
    (tmp_path / "proc/cmdline").write_text("quiet\n")
    status = status_of_system(tmp_path)
    assert (status.verdict, status.exit_code, status.problems) == ("not-installed", 10, [])


def test_not_a_union(tmp_path: Path) -> None:
    with pytest.raises(CowrootError, match="not where a cowroot union is mounted"):
        module.status_of_mount(str(tmp_path))


def test_nothing_copied_up(tmp_path: Path) -> None:
    assert copied_up(tmp_path) == CopiedUp()
    assert copied_up(tmp_path / "missing") == CopiedUp()


def test_further_lowers_have_their_names(system: System, daemon: Callable[..., None]) -> None:
    lower = DAEMON["layers"][0]
    daemon(layers=[{**lower, "path": "/run/layers/1", "filesystem": "squashfs"}, *(dict(each) for each in DAEMON["layers"])])
    system.record(settings={"enabled": True, "engine": "auto", "upper.device": "tmpfs", "lowers": ["/opt/app.squashfs"]})
    rows = [line for line in _text(system.status()) if line.startswith("  lower ")]
    assert [row.split(",")[0].split() for row in rows] == [["lower", "/opt/app.squashfs"], ["lower", "/dev/vda1"]]


def test_an_upper_that_is_only_read_is_a_lower(system: System, daemon: Callable[..., None]) -> None:
    lower = DAEMON["layers"][0]
    daemon(layers=[{**lower, "path": "/run/layers/saved/upper", "filesystem": "ext4"}, *(dict(each) for each in DAEMON["layers"])])
    settings = {"enabled": True, "engine": "auto", "upper.device": "LABEL=data", "upper.read_only": True}
    system.record(saved_device="/dev/vdb1", settings=settings)
    rows = [line for line in _text(system.status()) if line.startswith("  lower ")]
    assert [row.split(",")[0].split() for row in rows] == [["lower", "/dev/vdb1"], ["lower", "/dev/vda1"]]


@pytest.mark.usefixtures("daemon")
def test_an_upper_that_will_be_emptied(system: System) -> None:
    on_disk = {"upper_device": "/dev/vdb1", "upper_directory": "/run/cowroot/upper/a"}
    (system.upper / "a/upper").mkdir(parents=True)
    system.record(**on_disk)
    kept = kept_upper(system.root)
    assert not system.status().reset
    mark(kept)
    mark(kept)
    assert system.status().reset
    assert "  reset       the upper will be emptied at the next boot" in _text(system.status())
    assert [unmark(kept), unmark(kept)] == [True, False]
    assert not system.status().reset
    system.record(**on_disk, settings={"upper.reset": True})
    assert system.status().reset


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upper_device": "tmpfs"}, "the upper is in memory: each boot begins with an empty one"),
        ({"upper_device": "tmpfs", "saved_device": "/dev/vdb1"}, "the upper on /dev/vdb1 is only read in this boot (upper.read_only)"),
        ({"upper_device": "", "upper_directory": ""}, "/ is no union in this boot, so no upper is mounted"),
        (None, "this system was not booted with cowroot"),
    ],
)
def test_what_cannot_be_emptied(system: System, changes: dict[str, Any] | None, message: str) -> None:
    if changes is None:
        (system.root / "run/cowroot/boot.json").unlink()
    else:
        system.record(**changes)
    with pytest.raises(CowrootError) as caught:
        kept_upper(system.root)
    assert caught.value.message == message
    assert caught.value.hint


def test_reset_from_the_command_line(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    (system.upper / "a").mkdir()
    system.record(upper_device="/dev/vdb1", upper_directory="/run/cowroot/upper/a")
    monkeypatch.setattr("cowroot.cli.reset.kept_upper", lambda: kept_upper(system.root))
    assert CliRunner().invoke(reset).output == "at the next boot the upper on /dev/vdb1 is emptied; cowroot reset --undo takes that back\n"
    assert (system.upper / "a/reset").exists()
    assert CliRunner().invoke(reset, ["--undo"]).output == "the upper on /dev/vdb1 is kept\n"
    assert CliRunner().invoke(reset, ["--undo"]).output == "the upper on /dev/vdb1 was not to be emptied\n"


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(("kind", "place"), [("ext4", "boot"), ("fuse.cowroot", "run/cowroot/mounts/boot")])
def test_a_boot_partition_is_looked_at_where_it_is(system: System, kind: str, place: str) -> None:
    system.mounts(f"{UNION}{LOWER}32 30 254:17 / /boot ro,relatime - {kind} /dev/vdb1 ro\n")
    (system.root / place).parent.mkdir(parents=True, exist_ok=True)
    (system.disk / "boot").rename(system.root / place)
    (system.disk / "boot").mkdir()
    status = system.status()
    assert (status.problems, status.drift) == ([], [])
    (system.root / place / "grub/grub.cfg").write_text("changed\n")
    (problem,) = system.status().problems
    assert problem.startswith("/boot/grub/grub.cfg is without cowroot's part")
