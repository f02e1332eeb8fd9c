"""`cowroot install` and `cowroot uninstall` on directories: what changes, what does not, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cowroot import mountinfo
from cowroot.cli.main import main
from cowroot.errors import ConfigError, ConflictError, CowrootError, PreflightError, TargetError
from cowroot.install import target
from cowroot.install.doctor import examine
from cowroot.install.installation import Result, install
from cowroot.install.manifest import MANIFEST, drift, read_manifest
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from tests.t3_install.debian import RELEASE, kernel, make_debian
from tests.t3_install.fake import Link, Script, make_fake_tree, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installing mounts an overlay, which needs root")

HOOK = "etc/initramfs-tools/hooks/cowroot"


class Said(list[str]):
    """What was told as progress."""

    def __call__(self, text: str) -> None:
        self.append(text)

    def tools(self) -> set[str]:
        return {match.group(1) for text in self if (match := re.match(r"(update-\w+|python3|cowroot): ", text))}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_debian(tmp_path / "root")


def put_in(root: Path, say: Said | None = None, config: Path | None = None, *, dry_run: bool = False, force: bool = False) -> Result:
    return install(Choice(root=root), config, say if say is not None else Said(), dry_run=dry_run, force=force)


def take_out(root: Path, say: Said | None = None, *, dry_run: bool = False, force: bool = False) -> Result:
    return uninstall(Choice(root=root), say if say is not None else Said(), dry_run=dry_run, force=force)


def test_installs_everything_that_a_boot_needs(root: Path) -> None:
    assert put_in(root).done == "installed"
    for path in (HOOK, "usr/bin/cowroot", "usr/sbin/mount.fuse.cowroot", "etc/grub.d/99_cowroot", "usr/lib/cowroot/cowroot/union/union.py"):
        assert (root / path).is_file(), path
    assert os.access(root / HOOK, os.X_OK)
    for module in ("click/__init__.py", "yaml/__init__.py", "jinja2/__init__.py", "markupsafe/__init__.py", "fuse.py"):
        assert (root / "usr/lib/cowroot" / module).is_file(), module
    assert (root / "usr/lib/cowroot/cowroot/templates/initramfs-hooks").is_dir()
    assert "scripts/local-bottom/cowroot" in (root / f"boot/initrd.img-{RELEASE}").read_text()
    assert "/etc/grub.d/99_cowroot" in (root / "boot/grub/grub.cfg").read_text()
    assert (root / "boot/grub/grubenv").read_bytes() == b""
    manifest = read_manifest(root)
    assert manifest
    assert drift(root, manifest) == []
    assert manifest.kernels == (RELEASE,)
    assert {record.origin for record in manifest.records.values()} == {"rendered", "payload", "generated"}


def test_no_compiled_code_of_this_machine_goes_into_the_image(root: Path) -> None:
    put_in(root)
    files = [path for path in (root / "usr/lib/cowroot").rglob("*") if path.is_file() and "templates" not in path.parts]
    assert {path.suffix for path in files} <= {".py", ""}


def test_the_second_run_changes_nothing(root: Path) -> None:
    put_in(root)
    before, said = snapshot(root), Said()
    assert put_in(root, said).done == "unchanged"
    assert snapshot(root) == before
    assert said == []


def test_uninstall_restores_every_byte(root: Path) -> None:
    os.setxattr(root / "boot/grub/grub.cfg", "user.note", b"kept")
    (root / "boot/grub/grub.cfg").chmod(0o600)
    os.chown(root / f"boot/initrd.img-{RELEASE}", 5, 6)
    before = snapshot(root)
    put_in(root)
    assert snapshot(root) != before
    assert take_out(root).done == "uninstalled"
    assert snapshot(root) == before


def test_uninstall_without_an_installation_does_nothing(root: Path) -> None:
    before = snapshot(root)
    assert take_out(root).done == "not installed"
    assert snapshot(root) == before


def test_what_was_there_under_our_names_comes_back(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", {"/usr/bin/cowroot": Script("#!/bin/sh\necho theirs\n"), f"/{HOOK}": Link("/nowhere")})
    before = snapshot(root)
    put_in(root)
    assert "theirs" not in (root / "usr/bin/cowroot").read_text()
    assert (root / HOOK).is_file()
    take_out(root)
    assert snapshot(root) == before


def test_directories_changed_since_keep_their_time(root: Path) -> None:
    put_in(root)
    (root / "etc/new").write_text("somebody's")
    changed = (root / "etc").stat().st_mtime_ns
    take_out(root)
    assert (root / "etc").stat().st_mtime_ns > changed  # our own directory went from it


def test_dry_run_shows_a_diff_and_changes_nothing(root: Path) -> None:
    before, said = snapshot(root), Said()
    result = put_in(root, said, dry_run=True)
    assert result.done == "planned"
    assert snapshot(root) == before
    assert "+++ b/etc/grub.d/99_cowroot" in result.text
    assert f"run in the image: update-initramfs -u -k {RELEASE}" in result.text
    assert re.search(r"new file /usr/bin/cowroot, \d+ bytes", result.text)
    assert "--- a/boot/grub/grubenv" in result.text
    assert {"action": "run", "command": ["update-grub"], "why": "writes /boot/grub/grub.cfg"} in result.to_json()["actions"]
    json.dumps(result.to_json())


def test_dry_run_of_uninstall(root: Path) -> None:
    put_in(root)
    before = snapshot(root)
    result = take_out(root, dry_run=True)
    assert "restore /boot/grub/grub.cfg" in result.text
    assert f"remove /{HOOK}" in result.text
    assert snapshot(root) == before


# Settings


def test_settings_of_the_target_are_taken_and_kept(tmp_path: Path) -> None:
    text = "# mine\nupper:\n  size: 128M\n"
    root = make_debian(tmp_path / "root", {"/etc/cowroot/cowroot.yaml": text})
    before = snapshot(root)
    put_in(root)
    assert (root / "etc/cowroot/cowroot.yaml").read_text() == text
    take_out(root)
    assert snapshot(root) == before


def test_given_settings_are_installed_as_they_are(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("grub:\n  timeout: 7  # seconds\n")
    put_in(root, config=tmp_path / "mine.yaml")
    assert (root / "etc/cowroot/cowroot.yaml").read_text() == "grub:\n  timeout: 7  # seconds\n"
    assert put_in(root, config=tmp_path / "mine.yaml").done == "unchanged"
    assert put_in(root).done == "unchanged"


@pytest.mark.parametrize("text", ["upper: {size: 200%}", "uper: 1", "enabled: [", "grub: {timeout: soon}"])
def test_bad_settings_change_nothing(root: Path, tmp_path: Path, text: str) -> None:
    before = snapshot(root)
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml:1"):
        put_in(root, config=tmp_path / "bad.yaml")
    assert snapshot(root) == before


def test_bad_settings_in_the_target_change_nothing(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", {"/etc/cowroot/cowroot.yaml": "\nenbled: true\n"})
    before = snapshot(root)
    with pytest.raises(ConfigError, match=r"/etc/cowroot/cowroot\.yaml:2"):
        put_in(root)
    assert snapshot(root) == before


def test_edited_settings_are_taken_by_the_next_install(root: Path) -> None:
    before = snapshot(root)
    put_in(root)
    (root / "etc/cowroot/cowroot.yaml").write_text("upper: {size: 64M}\n")
    said = Said()
    assert put_in(root, said).done == "installed"
    assert "update-initramfs" in said.tools()
    assert "64M" in (root / f"boot/initrd.img-{RELEASE}").read_text()
    assert put_in(root).done == "unchanged"
    take_out(root)
    assert snapshot(root) == before


# What goes wrong while it is tried out


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("/etc/fail", "ended with exit code 7"),
        ("/etc/no-initrd", "was made without"),
        ("/etc/no-scripts", "was made without scripts/cowroot"),
        ("/etc/no-entries", f"without an entry for the kernel {RELEASE}"),
        ("/etc/no-ctypes", "no ctypes"),
    ],
)
def test_a_tool_that_fails_changes_nothing(tmp_path: Path, marker: str, message: str) -> None:
    root = make_debian(tmp_path / "root", {marker: ""})
    before = snapshot(root)
    with pytest.raises(CowrootError, match=message):
        put_in(root)
    assert snapshot(root) == before


def test_grub_that_cannot_tell_the_device_is_given_a_hint(tmp_path: Path) -> None:
    failing = Script("#!/bin/sh\necho 'grub-probe: error: failed to get canonical path' >&2\nexit 1\n")
    root = make_debian(tmp_path / "root", {"/usr/sbin/update-grub": failing})
    with pytest.raises(CowrootError, match="failed to get canonical path") as caught:
        put_in(root)
    assert "--image" in caught.value.hint


def test_a_kernel_without_an_initrd_gets_one_and_loses_it_again(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", without=("/boot/initrd",))
    before = snapshot(root)
    put_in(root)
    assert (root / f"boot/initrd.img-{RELEASE}").is_file()
    take_out(root)
    assert snapshot(root) == before


def test_every_kernel_gets_the_hook(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", {**kernel("6.1.0-1-amd64"), **kernel("6.13-rc1")})
    put_in(root)
    for release in (RELEASE, "6.1.0-1-amd64", "6.13-rc1"):
        assert "scripts/local-bottom/cowroot" in (root / f"boot/initrd.img-{release}").read_text()


def test_without_grub_only_grub_is_left_out(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", without=("/boot/grub", "/usr/sbin/grub", "/usr/sbin/update-grub", "/etc/grub.d", "/etc/default"))
    before = snapshot(root)
    assert put_in(root).done == "installed"
    assert not (root / "etc/grub.d").exists()
    take_out(root)
    assert snapshot(root) == before


def test_where_usr_is_not_merged_mount_finds_its_helper_too(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", {"/sbin/init": Link("/lib/systemd/systemd")}, without=("/sbin", "/usr/sbin/init"))
    before = snapshot(root)
    put_in(root)
    for helper in ("mount.fuse.cowroot", "umount.fuse.cowroot"):
        assert os.readlink(root / "sbin" / helper) == f"/usr/sbin/{helper}"
        assert (root / "usr/sbin" / helper).stat().st_mode & 0o777 == 0o755
    take_out(root)
    assert snapshot(root) == before


def test_the_menu_entry_remembered_in_grubenv_survives_the_second_run(tmp_path: Path) -> None:
    grubenv = "# GRUB Environment Block\nsaved_entry=third\n".ljust(1024, "#")
    root = make_debian(tmp_path / "root", {"/boot/grub/grubenv": grubenv})
    put_in(root)
    assert put_in(root).done == "unchanged"


# What happened since


def test_a_kernel_installed_since_is_noticed_by_install(root: Path) -> None:
    put_in(root)
    make_fake_tree(root, kernel("6.20"))
    said = Said()
    assert put_in(root, said).done == "installed"
    assert any("6.20" in text for text in said)
    assert put_in(root).done == "unchanged"


def test_uninstall_makes_the_initrd_of_a_later_kernel_anew(root: Path) -> None:
    put_in(root)
    make_fake_tree(root, {**kernel("6.20"), "/boot/initrd.img-6.20": "init\nscripts/local-bottom/cowroot\netc/cowroot.conf\n"})
    take_out(root)
    assert (root / "boot/initrd.img-6.20").read_text() == "init\n"
    assert (root / f"boot/initrd.img-{RELEASE}").read_text() == "init\n"


def test_a_later_initrd_without_cowroot_is_left_alone(root: Path) -> None:
    put_in(root)
    make_fake_tree(root, {**kernel("6.20"), "/boot/initrd.img-6.20": "init\nother\n"})
    take_out(root)
    assert (root / "boot/initrd.img-6.20").read_text() == "init\nother\n"


def test_uninstall_refuses_where_a_file_was_changed_since(root: Path) -> None:
    before = snapshot(root)
    put_in(root)
    (root / HOOK).write_text("#!/bin/sh\n# improved\n")
    (root / "etc/grub.d/99_cowroot").unlink()
    installed = snapshot(root)
    with pytest.raises(ConflictError) as caught:
        take_out(root)
    assert f"/{HOOK} has other content" in str(caught.value)
    assert "/etc/grub.d/99_cowroot is gone" in str(caught.value)
    assert "--force" in caught.value.hint
    assert snapshot(root) == installed
    assert take_out(root, force=True).done == "uninstalled"
    # But the times of the two directories in which somebody else was at work.
    after = snapshot(root)
    for path in ("etc/grub.d",):
        before[path][3] = after[path][3]
    assert after == before


def test_uninstall_makes_initrds_anew_that_were_made_since(root: Path) -> None:
    """As every update-initramfs does: that is nobody's work to be asked about."""
    put_in(root)
    (root / f"boot/initrd.img-{RELEASE}").write_text("init\nnewer-driver\netc/cowroot.conf\n")
    said = Said()
    take_out(root, said)
    assert said.tools() == {"update-initramfs"}
    assert (root / f"boot/initrd.img-{RELEASE}").read_text() == "init\n"
    assert not (root / HOOK).exists()
    assert not (root / "var/lib/cowroot").exists()


def test_compiled_code_that_was_made_anew_goes_too(tmp_path: Path) -> None:
    compiling = Script('#!/bin/sh\n[ "$3" != compileall ] || echo code >/usr/lib/cowroot/fuse.pyc\n')
    root = make_debian(tmp_path / "root", {"/usr/bin/python3.13": compiling})
    put_in(root)
    (root / "usr/lib/cowroot/fuse.pyc").write_text("other code\n")
    with pytest.raises(ConflictError, match=r"fuse\.pyc has other content"):
        take_out(root)
    take_out(root, force=True)
    assert not (root / "usr/lib/cowroot").exists()


def test_uninstall_does_not_bring_back_the_initrd_of_a_removed_kernel(tmp_path: Path) -> None:
    root = make_debian(tmp_path / "root", kernel("6.1"))
    put_in(root)
    for path in (f"boot/vmlinuz-{RELEASE}", f"boot/initrd.img-{RELEASE}"):
        (root / path).unlink()
    take_out(root)
    assert not (root / f"boot/initrd.img-{RELEASE}").exists()
    assert (root / "boot/initrd.img-6.1").read_text() == "init\n"


def test_install_refuses_to_overwrite_what_was_changed_since(root: Path) -> None:
    put_in(root)
    (root / HOOK).write_text("#!/bin/sh\n# improved\n")
    with pytest.raises(ConflictError, match=HOOK):
        put_in(root)
    assert "improved" in (root / HOOK).read_text()
    assert put_in(root, force=True).done == "installed"
    assert "improved" not in (root / HOOK).read_text()


def test_what_a_newer_version_no_longer_has_goes(root: Path) -> None:
    before = snapshot(root)
    put_in(root)
    manifest = read_manifest(root)
    assert manifest
    # As if the first version had brought one file more, over one that was there.
    victim = root / "usr/lib/cowroot/cowroot/gone.py"
    victim.write_text("# of an older version\n")
    data = json.loads((root / MANIFEST.lstrip("/")).read_text())
    model = next(record for record in data["records"] if record["path"].endswith("cowroot/errors.py"))
    status = victim.stat()
    record = json.loads(json.dumps(model))
    record["path"] = "/usr/lib/cowroot/cowroot/gone.py"
    record["after"].update(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=_sha256(victim))
    data["records"].append(record)
    (root / MANIFEST.lstrip("/")).write_text(json.dumps(data))
    assert put_in(root).done == "installed"
    assert not victim.exists()
    assert put_in(root).done == "unchanged"
    take_out(root)
    assert snapshot(root) == before


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


# Targets that are none


def test_a_directory_without_a_root_file_system(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TargetError, match="holds no root file system"):
        put_in(tmp_path / "empty")
    with pytest.raises(TargetError, match="cannot be opened"):
        put_in(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="not a directory") as caught:
        put_in(tmp_path / "file")
    assert "--image" in caught.value.hint


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    root = make_debian(
        tmp_path / "root",
        without=("/usr/bin/python3", "/usr/lib/python3", "/usr/lib/x86_64-linux-gnu/libfuse", "/lib/modules", "/usr/sbin/update-initramfs"),
    )
    before = snapshot(root)
    with pytest.raises(PreflightError) as caught:
        put_in(root)
    for part in ("no Python 3.9 or newer", "libfuse 2 is missing", f"the kernel {RELEASE} has no FUSE", "nothing that makes initrds"):
        assert part in caught.value.message
    assert "apt-get install initramfs-tools libfuse2t64 python3" in caught.value.hint
    assert snapshot(root) == before


def test_a_running_union_is_no_target(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_is_root", lambda _: True)
    monkeypatch.setattr(mountinfo, "mounts", lambda: [mountinfo.Mount("0:45", "/", "rw", "fuse.cowroot", "/dev/vda1", "rw")])
    with pytest.raises(TargetError, match=r"/ is a union \(fuse\.cowroot\) now") as caught:
        install(Choice(), None, Said())
    assert "cowroot=off" in caught.value.hint
    with pytest.raises(TargetError, match="is a union"):
        uninstall(Choice(), Said())


def test_the_disk_below_a_running_union_can_be_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_in(root)
    before = snapshot(root)
    lower = str(root)
    union = mountinfo.Mount("0:45", "/", "rw", "fuse.cowroot", "/dev/vda1", "rw")
    monkeypatch.setattr(target, "_is_root", lambda _: True)
    monkeypatch.setattr(target, "LOWER", lower)
    monkeypatch.setattr(mountinfo, "mounts", lambda *_: [union, mountinfo.Mount("8:1", lower, "ro", "ext4", "/dev/vda1", "ro")])
    assert install(Choice(), None, Said(), dry_run=True).text == "the disk below the running union: nothing to do"
    other = tmp_path / "other.yaml"
    other.write_text("engine: fusepy\n")
    assert "+engine: fusepy" in install(Choice(), other, Said(), dry_run=True).text
    assert examine(Choice()) == []
    with pytest.raises(TargetError, match="is a union") as caught:
        install(Choice(), other, Said())
    assert "cowroot chroot" in caught.value.hint
    assert snapshot(root) == before


_IN_A_CHROOT = """
import os, sys
import cowroot.cli.install
from cowroot.cli.main import main
os.chroot(sys.argv[1])
os.chdir("/")
sys.exit(main(["install"]))
"""


def test_without_proc_it_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    run = subprocess.run([sys.executable, "-c", _IN_A_CHROOT, tmp_path], capture_output=True, text=True, check=False)
    assert run.stderr.startswith("cowroot: error: /proc is not mounted here\nhint: mount -t proc proc /proc"), run.stderr


def test_settings_may_come_through_a_pipe(root: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "settings"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        pool.submit(pipe.write_text, "engine: fusepy\n")
        put_in(root, config=pipe)
    assert (root / "etc/cowroot/cowroot.yaml").read_text() == "engine: fusepy\n"


# The command line


def test_commands_report_in_json_and_on_stderr(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--root", str(root), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["result"] == "installed"
    assert "update-initramfs: " in told.err
    assert main(["install", "--root", str(root), "-q"]) == 0
    told = capsys.readouterr()
    assert told.out.endswith("nothing to do\n")
    assert told.err == ""
    assert main(["uninstall", "--root", str(root), "-q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == "uninstalled"


def test_exit_codes(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("uper: 1")
    assert main(["install", "--root", str(root), "--config", str(tmp_path / "bad.yaml")]) == 2
    assert main(["install", "--root", str(tmp_path / "missing")]) == 3
    assert main(["install", "--root", str(root), "--image", str(tmp_path / "bad.yaml")]) == 2
    (root / "usr/bin/python3").unlink()
    assert main(["install", "--root", str(root)]) == 4
    assert "apt-get install python3" in capsys.readouterr().err
    (root / "usr/bin/python3").symlink_to("python3.13")
    assert main(["install", "--root", str(root)]) == 0
    (root / HOOK).write_text("")
    assert main(["uninstall", "--root", str(root)]) == 5


# dracut

_DRACUT = """\
#!/bin/sh
[ "$1 $2" = "--force --no-hostonly" ] || exit 9
[ -e /etc/dracut.conf.d/cowroot.conf ] || exit 0
for file in etc/cowroot.conf usr/lib/cowroot-boot/boot usr/lib/cowroot-boot/functions usr/lib/systemd/system/cowroot-root.service; do
	echo "-rw-r--r--   1 root     root          100 Nov  1 00:00 $file"
done >"$3"
"""


@pytest.fixture
def with_dracut(tmp_path: Path) -> Path:
    tools = ("/usr/sbin/update-initramfs", "/usr/bin/lsinitramfs", "/etc/initramfs-tools")
    lister = Script('#!/bin/sh\nwhile read -r line; do echo "$line"; done <"$1"\n')
    return make_debian(tmp_path / "dracut", {"/usr/bin/dracut": Script(_DRACUT), "/usr/bin/lsinitrd": lister}, without=tools)


def test_with_dracut_every_initrd_gets_the_module(with_dracut: Path) -> None:
    before, said = snapshot(with_dracut), Said()
    result = put_in(with_dracut, said, dry_run=True)
    assert f"run in the image: dracut --force --no-hostonly /boot/initrd.img-{RELEASE} {RELEASE}" in result.text
    assert put_in(with_dracut).done == "installed"
    assert (with_dracut / "usr/lib/dracut/modules.d/90cowroot/module-setup.sh").is_file()
    assert "cowroot-root.service" in (with_dracut / f"boot/initrd.img-{RELEASE}").read_text()
    assert put_in(with_dracut).done == "unchanged"
    take_out(with_dracut)
    assert snapshot(with_dracut) == before


def test_a_dracut_that_leaves_the_module_out_is_noticed(with_dracut: Path) -> None:
    (with_dracut / "usr/bin/dracut").write_text(_DRACUT.replace("usr/lib/cowroot-boot/boot ", ""))
    before = snapshot(with_dracut)
    with pytest.raises(CowrootError, match="was made without usr/lib/cowroot-boot/boot") as caught:
        put_in(with_dracut)
    assert "dracut --force" in caught.value.hint
    assert snapshot(with_dracut) == before


def test_the_layout_of_fedora(tmp_path: Path) -> None:
    """No dpkg, libraries in lib64, initrds by another name, and a GRUB with a directory of its own."""
    gone = (
        "/usr/sbin/",
        "/usr/bin/lsinitramfs",
        "/etc/initramfs-tools",
        "/boot/initrd",
        "/boot/grub",
        "/var/lib/dpkg",
        "/usr/lib/x86_64",
        "/etc/grub.d",
    )
    root = make_debian(
        tmp_path / "fedora",
        {
            "/etc/os-release": "ID=fedora\nVERSION_ID=42\n",
            "/usr/sbin/init": Link("/lib/systemd/systemd"),
            "/usr/bin/dracut": Script(_DRACUT),
            "/usr/bin/lsinitrd": Script('#!/bin/sh\nwhile read -r line; do echo "$line"; done <"$1"\n'),
            "/usr/lib64/libfuse.so.2": b"\x7fELF",
            "/boot/grub2/grub.cfg": "blscfg\n",
            "/var/lib/rpm/rpmdb.sqlite": "",
        },
        without=gone,
    )
    before = snapshot(root)
    assert put_in(root).done == "installed"
    assert "cowroot-root.service" in (root / f"boot/initramfs-{RELEASE}.img").read_text()
    assert not (root / "etc/grub.d").exists()
    assert "FUSE_LIBRARY_PATH=/usr/lib64/libfuse.so.2" in (root / "usr/lib/dracut/modules.d/90cowroot/functions").read_text()
    take_out(root)
    assert snapshot(root) == before


def test_in_a_chroot_that_is_just_a_directory_it_says_how_to_enter(tmp_path: Path) -> None:
    for name in ("proc", "tmp"):
        (tmp_path / name).mkdir()
    script = (
        "import os, sys, tempfile\n"
        "from cowroot.errors import TargetError\n"
        "from cowroot.install import namespace\n"
        "namespace.mount('proc', sys.argv[1] + '/proc', 'proc')\n"
        "os.chroot(sys.argv[1])\n"
        "os.chdir('/')\n"
        "tempfile.tempdir = '/tmp'\n"
        "try:\n"
        "    with namespace.private_mounts(): pass\n"
        "except TargetError as error: print(error)\n"
    )
    command = ["unshare", "--mount", sys.executable, "-c", script, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "mount --bind DIR DIR" in run.stdout
    assert list((tmp_path / "tmp").iterdir()) == []
