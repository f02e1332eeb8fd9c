"""`cowroot mount` by hand: it comes up, it goes away, and it says why it does not."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cowroot.fuse import control
from cowroot.mountinfo import mounted_at
from tests.t4_mounted.mounted import COWROOT, Stage, cowroot, process_exists, run, wait_until

NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}


def mount_fails(*arguments: object, code: int = 6, **options: Any) -> str:
    """Mounting fails with this exit code, an error line and a hint line, and no traceback. Returns both lines."""
    done = cowroot("mount", *arguments, check=False, **options)
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("cowroot: error: ")
    assert lines[1].startswith("hint: ")
    assert done.stdout == ""
    return done.stderr


def test_it_is_there_when_the_command_returns(stage: Stage) -> None:
    (stage.lower / "file").write_text("below\n")
    cowroot("mount", "-o", stage.options(), stage.point)
    assert (stage.point / "file").read_text() == "below\n"
    stage.pid = stage.status()["pid"]
    stage.unmount()


def test_what_others_see_of_it(stage: Stage) -> None:
    point = stage.mount("fsname=/dev/disk")
    fields = run("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", point).stdout.split()
    assert fields[:2] == ["/dev/disk", "fuse.cowroot"]
    assert {"rw", "allow_other", "default_permissions"} <= set(fields[2].split(","))
    assert not {"nosuid", "nodev"} & set(fields[2].split(","))
    upper, shown = os.statvfs(stage.upper), os.statvfs(point)
    assert (shown.f_blocks * shown.f_frsize, shown.f_namemax) == (upper.f_blocks * upper.f_frsize, 255)
    assert run("df", "--output=source", point).stdout.split() == ["Filesystem", "/dev/disk"]


def test_umount_ends_the_daemon_and_leaves_no_zombie(stage: Stage) -> None:
    stage.mount()
    pid = stage.pid
    assert process_exists(pid)
    stage.unmount()
    assert not process_exists(pid)
    stage.mount()
    assert stage.pid != pid


def test_a_busy_union_stays(stage: Stage) -> None:
    point = stage.mount()
    with open(point / "file", "w"):
        assert run("umount", point, check=False).returncode != 0
        assert os.path.ismount(point)
    stage.unmount()


def test_the_daemon_belongs_to_nobody(stage: Stage) -> None:
    """A session of its own, no terminal or pipe of ours, and not our child."""
    stage.mount()
    assert os.getsid(stage.pid) != os.getsid(0)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{stage.pid}/status").read_text().splitlines() if ":\t" in line)
    assert int(status["PPid"]) != os.getpid()
    for fd in ("0", "1", "2"):
        assert os.readlink(f"/proc/{stage.pid}/fd/{fd}") in ("/dev/null", "/dev/kmsg")


def test_relative_paths(stage: Stage) -> None:
    (stage.lower / "file").write_text("below")
    cowroot("mount", "-o", "lowerdir=lower,upperdir=upper,workdir=work", "union", cwd=stage.base)
    assert (stage.point / "file").read_text() == "below"


def test_names_with_commas_and_colons(stage: Stage) -> None:
    odd = stage.base / "a,b:c\\d"
    odd.mkdir()
    (odd / "odd").write_text("odd")
    (stage.lower / "file").write_text("below")
    escaped = str(odd).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")
    cowroot("mount", "-o", f"lowerdir={escaped}:{stage.lower},upperdir={stage.upper},workdir={stage.work}", stage.point)
    assert sorted(os.listdir(stage.point)) == ["file", "odd"]


def test_names_of_any_bytes(stage: Stage) -> None:
    names = [b"lower \xff\n", "übër".encode(), b"work'", b"a union\xfe"]
    for name in names:
        os.mkdir(os.path.join(os.fsencode(stage.base), name))
    lower, upper, work, point = (os.path.join(stage.base, os.fsdecode(name)) for name in names)
    cowroot("mount", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", point)
    try:
        Path(point, "file").write_text("written")
        cowroot("mount", "-o", "remount,ro", point)
        assert os.statvfs(point).f_flag & os.ST_RDONLY
        assert [layer["path"] for layer in control.ask(control.socket_of(point))["layers"]] == [lower, upper, work]
    finally:
        run("umount", point)
    assert Path(upper, "file").read_text() == "written"


def test_leftmost_lower_is_on_top(stage: Stage) -> None:
    second = stage.base / "second"
    second.mkdir()
    for directory, text in ((stage.lower, "top"), (second, "bottom")):
        (directory / "both").write_text(text)
    cowroot("mount", "-o", f"lowerdir={stage.lower}:{second}", stage.point)
    assert (stage.point / "both").read_text() == "top"


@pytest.mark.parametrize("engine", ["fusepy", "direct"])
def test_layers_of_an_image(stage: Stage, engine: str) -> None:
    """OCI's whiteouts where the option says so, and nowhere else; what a user calls so is his."""
    top = stage.base / "top"
    for path in ("top/d/.wh.gone", "top/d/.wh.kept", "top/d/kept", "top/opaque/.wh..wh..opq", "top/opaque/new", "lower/opaque/old"):
        (stage.base / path).parent.mkdir(parents=True, exist_ok=True)
        (stage.base / path).write_text(path)
    for name in ("gone", "kept", ".wh.odd"):
        (stage.lower / "d").mkdir(exist_ok=True)
        (stage.lower / "d" / name).write_text("below")
    options = f"lowerdir={top}:{stage.lower},upperdir={stage.upper},workdir={stage.work},whiteouts=oci:overlay,engine={engine}"
    cowroot("mount", "-o", options, stage.point)
    assert sorted(os.listdir(stage.point / "d")) == [".wh.odd", "kept"]
    assert (stage.point / "d" / "kept").read_text() == "top/d/kept"
    assert not (stage.point / "d" / ".wh.gone").exists()
    assert os.listdir(stage.point / "opaque") == ["new"]
    (stage.point / "d" / ".wh.mine").write_text("mine")
    (stage.point / "d" / "gone").write_text("again")
    (stage.point / "d" / "kept").unlink()
    assert sorted(os.listdir(stage.point / "d")) == [".wh.mine", ".wh.odd", "gone"]


def test_overlayfs_knows_no_whiteouts_of_images(stage: Stage) -> None:
    assert "reads no whiteouts of OCI" in mount_fails("-o", stage.options("engine=overlayfs", "whiteouts=oci"), stage.point)


def test_without_an_upper_nothing_can_be_written(stage: Stage) -> None:
    (stage.lower / "file").write_text("below")
    cowroot("mount", "-o", f"lowerdir={stage.lower}", stage.point)
    assert (stage.point / "file").read_text() == "below"
    with pytest.raises(OSError) as caught:
        (stage.point / "new").write_text("")
    assert caught.value.errno == errno.EROFS


def test_over_a_directory_that_is_not_empty(stage: Stage) -> None:
    (stage.point / "hidden").write_text("")
    stage.mount()
    assert os.listdir(stage.point) == []


@pytest.mark.parametrize("option", ["nosuid", "nodev", "noexec", "noatime", "nodiratime", "ro"])
def test_flags_reach_the_mount(stage: Stage, option: str) -> None:
    point = stage.mount(option)
    mount = mounted_at(str(point))
    assert mount is not None
    assert option in mount.options.split(",")


def test_noexec_and_nosuid_work(stage: Stage) -> None:
    shutil.copy("/bin/true", stage.lower / "true")
    point = stage.mount("noexec")
    with pytest.raises(PermissionError):
        subprocess.run([point / "true"], check=False)


def test_in_the_foreground_until_interrupted(stage: Stage) -> None:
    process = subprocess.Popen([*COWROOT, "mount", "-f", "-o", stage.options(), stage.point], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: os.path.ismount(stage.point), "mounted")
        (stage.point / "new").write_text("new")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
    assert not os.path.ismount(stage.point)
    assert (stage.upper / "new").read_text() == "new"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_umount_l_would(stage: Stage, number: signal.Signals) -> None:
    point = stage.mount()
    pid = stage.pid
    with open(point / "file", "w+") as file:
        os.kill(pid, number)
        wait_until(lambda: not os.path.ismount(point), "unmounted")
        file.write("still served")
        file.flush()
        assert process_exists(pid)
    stage.wait_for_end()
    assert (stage.upper / "file").read_text() == "still served"


def test_a_killed_daemon_leaves_a_mount_that_umount_removes(stage: Stage) -> None:
    point = stage.mount()
    os.kill(stage.pid, signal.SIGKILL)
    stage.wait_for_end()
    with pytest.raises(OSError) as caught:
        os.listdir(point)
    assert caught.value.errno == errno.ENOTCONN
    assert "umount" in mount_fails("-o", stage.options(), point)
    run("umount", point)
    stage.mount()
    assert os.listdir(point) == []


# -- refusals


def test_no_lowerdir(stage: Stage) -> None:
    assert "no lowerdir" in mount_fails("-o", "ro", stage.point, code=2)


def test_an_unknown_option(stage: Stage) -> None:
    assert "'frob'" in mount_fails("-o", stage.options("frob"), stage.point, code=2)


@pytest.mark.parametrize("missing", ["lower", "upper", "work"])
def test_a_directory_that_is_not_there(stage: Stage, missing: str) -> None:
    shutil.rmtree(stage.base / missing)
    said = mount_fails("-o", stage.options(), stage.point)
    assert f"{stage.base}/{missing}: No such file or directory" in said
    assert "mkdir -p" in said


def test_a_mount_point_that_is_not_there(stage: Stage) -> None:
    said = mount_fails("-o", stage.options(), stage.base / "nowhere")
    assert "nowhere: No such file or directory" in said


def test_a_mount_point_that_is_a_file(stage: Stage) -> None:
    (stage.base / "plain").write_text("")
    assert "plain is not a directory" in mount_fails("-o", stage.options(), stage.base / "plain")


def test_upper_and_work_apart(stage: Stage) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", stage.work)
    try:
        assert "different file systems" in mount_fails("-o", stage.options(), stage.point)
    finally:
        run("umount", stage.work)


@pytest.mark.parametrize(("kind", "says"), [("vfat", "cannot hold whiteouts"), ("ramfs", "does not take the attribute")])
def test_an_upper_that_cannot_be_one(stage: Stage, kind: str, says: str) -> None:
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {kind}")
    disk = stage.base / "disk"
    disk.mkdir()
    if kind == "vfat":
        image = stage.base / "image"
        image.touch()
        os.truncate(image, 1 << 24)
        run("mkfs.vfat", image)
        run("mount", "-o", "loop", image, disk)
    else:
        run("mount", "-t", kind, kind, disk)
    try:
        for name in ("upper", "work"):
            (disk / name).mkdir()
        said = mount_fails("-o", f"lowerdir={stage.lower},upperdir={disk}/upper,workdir={disk}/work", stage.point)
        assert says in said
        assert "use ext4, xfs, btrfs or tmpfs" in said or "use a Linux file system" in said
    finally:
        run("umount", disk)


def test_overlapping_layers(stage: Stage) -> None:
    (stage.lower / "upper").mkdir()
    said = mount_fails("-o", f"lowerdir={stage.lower},upperdir={stage.lower}/upper,workdir={stage.work}", stage.point)
    assert "overlap" in said
    assert not os.path.ismount(stage.point)


@pytest.mark.parametrize("engine", ["fusepy", "direct"])
def test_a_mount_point_inside_a_lower(stage: Stage, engine: str) -> None:
    """What is mounted on a directory of a lower is not part of it; else the union would look into itself, and wait for ever."""
    inside = stage.lower / "inside"
    inside.mkdir()
    cowroot("mount", "-o", stage.options(f"engine={engine}"), inside)
    try:
        assert run("ls", inside, inside / "inside").stdout.split() == [f"{inside}:", "inside", f"{inside}/inside:"]
        run("touch", inside / "inside" / "new")
    finally:
        run("umount", inside)
    assert (stage.upper / "inside" / "new").exists()


@pytest.mark.parametrize("layer", ["upper", "work"])
def test_a_mount_point_inside_the_upper(stage: Stage, layer: str) -> None:
    inside = stage.base / layer / "cowroot" / "inside"
    inside.mkdir(parents=True)
    assert "lies in" in mount_fails("-o", stage.options(), inside)
    assert not os.path.ismount(inside)


def test_a_work_directory_in_use(stage: Stage) -> None:
    stage.mount()
    other = stage.base / "other"
    other.mkdir()
    assert "in use by another mount" in mount_fails("-o", stage.options(), other)


def test_no_fuse_device(stage: Stage) -> None:
    script = 'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec "$@"'
    done = run("unshare", "-m", "sh", "-c", script, "sh", *COWROOT, "mount", "-o", stage.options(), stage.point, check=False)
    assert done.returncode == 6
    assert "/dev/fuse is missing" in done.stderr
    assert "modprobe fuse" in done.stderr


def test_no_libfuse(stage: Stage) -> None:
    said = mount_fails("-o", stage.options("engine=fusepy"), stage.point, env={**os.environ, "FUSE_LIBRARY_PATH": "libfuse-of-nobody.so.2"})
    assert "libfuse-of-nobody.so.2" in said
    assert "libfuse2t64" in said


def test_no_permission_to_mount(stage: Stage) -> None:
    """A user may not mount over a directory of root's; fusermount says so, and we repeat it."""
    for directory in (stage.lower, stage.upper, stage.work):
        os.chown(directory, 65534, 65534)
    said = mount_fails("-o", stage.options("userxattr", "engine=fusepy"), stage.point, **NOBODY)
    assert "fusermount" in said


def test_a_user_mounts_his_own(stage: Stage) -> None:
    (stage.lower / "file").write_text("below")
    for path in (stage.lower, stage.upper, stage.work, stage.point, stage.lower / "file"):
        os.chown(path, 65534, 65534)
    cowroot("mount", "-o", stage.options("userxattr", "engine=fusepy"), stage.point, **NOBODY)
    run("sh", "-c", f'cd {stage.point} && rm file && echo new > new && test "$(ls)" = new', **NOBODY)
    run("fusermount", "-u", stage.point, **NOBODY)
    assert (stage.upper / "new").read_text() == "new\n"


# -- the kernel's own


def test_engine_overlayfs(stage: Stage) -> None:
    (stage.lower / "file").write_text("below")
    cowroot("mount", "-o", stage.options("engine=overlayfs", "noatime"), stage.point)
    mount = mounted_at(str(stage.point))
    assert mount is not None
    assert mount.kind == "overlay"
    assert "noatime" in mount.options
    (stage.point / "file").write_text("above")
    assert ((stage.lower / "file").read_text(), (stage.upper / "file").read_text()) == ("below", "above")
    cowroot("mount", "-o", "remount,ro", stage.point)
    with pytest.raises(OSError):
        (stage.point / "new").write_text("")


def test_layers_are_made_where_asked(stage: Stage) -> None:
    stage.lower.chmod(0o2751)
    os.chown(stage.lower, 1, 2)
    for directory in (stage.upper, stage.work):
        directory.rmdir()
    stage.upper, stage.work = stage.base / "new/upper", stage.base / "new/work"
    stage.mount("create")
    top = stage.point.stat()
    assert (top.st_uid, top.st_gid, top.st_mode & 0o7777) == (1, 2, 0o2751)
    assert (stage.base / "new").stat().st_mode & 0o777 == 0o700
    (stage.point / "file").touch()
    stage.unmount()
    # What is there stays as it is.
    stage.upper.chmod(0o700)
    stage.mount("create")
    assert stage.point.stat().st_mode & 0o7777 == 0o700
    assert (stage.point / "file").exists()
    stage.unmount()


def test_layers_that_cannot_be_made(stage: Stage) -> None:
    (stage.base / "file").touch()
    said = mount_fails("-o", f"lowerdir={stage.lower},upperdir={stage.base}/file/upper,workdir={stage.base}/file/work,create", stage.point)
    assert "the layers cannot be made: " in said
