"""A union is used as any file system is: the calls that programs make, and what they leave in upper and lower."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, run, tree

NOBODY = 65534


def as_nobody(*command: object) -> subprocess.CompletedProcess[str]:
    return run(*command, check=False, user=NOBODY, group=NOBODY, extra_groups=[])


def test_writes_go_to_the_upper_alone(stage: Stage, union: Path) -> None:
    before = tree(stage.lower)
    (union / "file").write_text("above\n")
    (union / "new").write_text("new\n")
    (union / "directory" / "inner").unlink()
    (union / "directory" / "more").mkdir()
    shutil.copytree(union / "directory", union / "copy")
    os.symlink("file", union / "pointer")
    assert tree(stage.lower) == before
    assert (union / "pointer").read_text() == "above\n"
    assert sorted(os.listdir(union / "directory")) == ["more"]
    assert stat.S_ISCHR(os.lstat(stage.upper / "directory" / "inner").st_mode)
    stage.unmount()
    stage.mount()
    assert (union / "file").read_text() == "above\n"
    assert not (union / "directory" / "inner").exists()


def test_every_kind_of_file(union: Path) -> None:
    os.mkfifo(union / "fifo", 0o640)
    os.mknod(union / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(union / "block", stat.S_IFBLK | 0o600, os.makedev(7, 300))
    os.mknod(union / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(union / "regular", stat.S_IFREG | 0o600)
    os.symlink(b"any\xffthing" * 100, union / "symlink")
    assert [
        stat.filemode(os.lstat(union / name).st_mode)[0] for name in ("fifo", "device", "block", "socket", "regular", "symlink")
    ] == list("pcbs-l")
    assert os.stat(union / "block").st_rdev == os.makedev(7, 300)
    (union / "device").write_bytes(b"goes nowhere")
    assert os.readlink(os.fsencode(union / "symlink")) == b"any\xffthing" * 100


def test_any_byte_in_a_name(union: Path) -> None:
    names = {bytes([byte]) * 3 for byte in range(1, 256) if byte != ord("/")} | {b"x" * 255, "ü".encode(), b" ", b"-"}
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(union), name), os.O_CREAT | os.O_WRONLY))
    assert names <= set(os.listdir(os.fsencode(union)))
    for name in names:
        os.unlink(os.path.join(os.fsencode(union), name))
    with pytest.raises(OSError) as caught:
        (union / ("x" * 256)).write_text("")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_programs_run_from_it(stage: Stage, union: Path) -> None:
    shutil.copy("/bin/echo", stage.lower / "echo")
    assert run(union / "echo", "from below").stdout == "from below\n"
    shutil.copy("/bin/echo", union / "echo2")
    assert run(union / "echo2", "from above").stdout == "from above\n"
    with open(union / "echo2", "rb"), subprocess.Popen([union / "echo2"], stdout=subprocess.DEVNULL):
        pass


def test_large_directories(union: Path) -> None:
    names = {f"entry number {number:05}" for number in range(5000)}
    for name in names:
        (union / "directory" / name).touch()
    assert set(os.listdir(union / "directory")) == names | {"inner"}
    with os.scandir(union / "directory") as entries:
        for entry in list(entries)[:50]:
            assert entry.inode() == entry.stat().st_ino


@pytest.mark.parametrize("size", [0, 1, 4096, 1000003, 5 << 20])
def test_content_comes_back(stage: Stage, union: Path, size: int) -> None:
    data = os.urandom(size)
    (stage.lower / "data").write_bytes(data)
    assert (union / "data").read_bytes() == data
    (union / "copy").write_bytes(data)
    with open(union / "data", "r+b") as file:
        file.seek(size // 2)
        file.write(b"changed")
    expected = data[: size // 2] + b"changed" + data[size // 2 + 7 :]
    Path("/proc/sys/vm/drop_caches").write_text("1")
    assert (union / "data").read_bytes() == expected
    assert (union / "copy").read_bytes() == (stage.upper / "copy").read_bytes() == data
    assert (stage.lower / "data").read_bytes() == data


# -- who may do what


def test_others_get_what_the_mode_allows(union: Path) -> None:
    os.chmod(union / "file", 0o600)
    assert as_nobody("cat", union / "file").returncode == 1
    os.chmod(union / "file", 0o604)
    assert as_nobody("cat", union / "file").stdout == "below\n"
    assert as_nobody("touch", union / "new").returncode == 1
    os.chmod(union, 0o1777)
    assert as_nobody("sh", "-c", f"umask 027; echo x > {union}/new; mkdir {union}/sub").returncode == 0
    assert (os.stat(union / "new").st_uid, os.stat(union / "new").st_mode & 0o777) == (NOBODY, 0o640)
    assert os.stat(union / "sub").st_mode & 0o777 == 0o750
    assert as_nobody("rm", "-f", union / "file").returncode == 1


def test_acls_are_kept_and_obeyed(stage: Stage, union: Path) -> None:
    os.chmod(union / "file", 0o600)
    run("setfacl", "-m", f"u:{NOBODY}:r", union / "file")
    assert "user:nobody:r--" in run("getfacl", "-c", union / "file").stdout
    if "posix_acl" in stage.status()["features"]:
        assert as_nobody("cat", union / "file").stdout == "below\n"
    assert as_nobody("sh", "-c", f"echo x >> {union}/file").returncode != 0
    run("setfacl", "-d", "-m", f"u:{NOBODY}:rwx", union / "directory")
    (union / "directory" / "heir").write_text("")
    assert "user:nobody:rw" in run("getfacl", "-c", union / "directory" / "heir").stdout


def test_setting_an_acl_clears_setgid_for_strangers(stage: Stage, union: Path) -> None:
    """The owner is not in the file's group (posix_acl_update_mode in fs/posix_acl.c)."""
    os.chown(union / "file", NOBODY, 7)
    os.chmod(union / "file", 0o2755)
    assert as_nobody("setfacl", "-m", "u:1:rw", union / "file").returncode == 0
    assert "user:daemon:rw-" in run("getfacl", "-c", union / "file").stdout
    if "setxattr_ext" in stage.status()["features"]:
        assert os.stat(union / "file").st_mode & 0o7777 == 0o775


def test_writing_takes_privileges_away(union: Path) -> None:
    program = union / "program"
    program.write_text("x")
    for change in (f"echo y >> {program}", f"truncate -s 1 {program}", f": > {program}"):
        os.chmod(program, 0o6777)
        assert as_nobody("sh", "-c", change).returncode == 0
        assert os.stat(program).st_mode & 0o7777 == 0o777, change
    os.chmod(program, 0o6755)
    os.chown(program, 1, 1)
    assert os.stat(program).st_mode & 0o7777 == 0o755
    os.chmod(program, 0o6777)
    program.write_text("root may")
    assert os.stat(program).st_mode & 0o7777 == 0o6777


def test_file_capabilities(union: Path) -> None:
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(union / "file", "security.capability", value)
    assert os.getxattr(union / "file", "security.capability") == value
    (union / "file").write_text("changed")
    with pytest.raises(OSError) as caught:
        os.getxattr(union / "file", "security.capability")
    assert caught.value.errno == errno.ENODATA
    with open(union / "new", "wb", buffering=0) as file:
        file.write(b"new")
        os.setxattr(file.fileno(), "security.capability", value)
        assert os.getxattr(union / "new", "security.capability") == value


def test_setgid_directories(union: Path) -> None:
    os.chown(union / "directory", 0, 7)
    os.chmod(union / "directory", 0o2777)
    assert as_nobody("mkdir", union / "directory" / "sub").returncode == 0
    found = os.stat(union / "directory" / "sub")
    assert (found.st_gid, bool(found.st_mode & stat.S_ISGID)) == (7, True)


@pytest.mark.parametrize("namespace", ["user", "trusted", "security"])
def test_attributes(union: Path, namespace: str) -> None:
    name = f"{namespace}.test"
    os.setxattr(union / "file", name, b"", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(union / "file", name, b"2", os.XATTR_CREATE)
    os.setxattr(union / "file", name, b"v" * 3000, os.XATTR_REPLACE)
    assert os.getxattr(union / "file", name) == b"v" * 3000
    assert os.listxattr(union / "linked") == [name]
    listed = as_nobody("python3", "-c", f"import os; print(os.listxattr({str(union / 'file')!r}))").stdout.strip()
    assert listed == ("[]" if namespace == "trusted" else f"['{name}']")
    os.removexattr(union / "file", name)
    with pytest.raises(OSError) as caught:
        os.getxattr(union / "file", name)
    assert caught.value.errno == errno.ENODATA


def test_the_unions_own_attributes_are_nobodys_business(stage: Stage, union: Path) -> None:
    shutil.rmtree(union / "directory")
    (union / "directory").mkdir()
    assert "trusted.overlay.opaque" in os.listxattr(stage.upper / "directory")
    assert os.listxattr(union / "directory") == []
    with pytest.raises(OSError):
        os.setxattr(union / "directory", "trusted.overlay.opaque", b"n")


# -- the kernel's overlayfs understands what is written


def fill(point: Path) -> None:
    (point / "file").write_text("changed\n")
    (point / "directory" / "inner").unlink()
    shutil.rmtree(point / "gone")
    (point / "gone").mkdir()
    (point / "gone" / "new").write_text("new")
    os.rename(point / "moves", point / "directory" / "moved")
    os.link(point / "file", point / "another")
    os.chmod(point / "kept", 0o600)
    os.setxattr(point / "kept", "user.name", b"value")
    os.symlink("kept", point / "symlink")
    os.mkfifo(point / "fifo")


@pytest.mark.parametrize("first", ["fusepy", "overlayfs"])
def test_interchange_with_overlayfs(stage: Stage, first: str) -> None:
    """An upper written by one engine shows the same tree under the other."""
    for path in ("file", "directory/inner", "gone/old", "moves/deep/file", "kept"):
        (stage.lower / path).parent.mkdir(parents=True, exist_ok=True)
        (stage.lower / path).write_text(path)
    engines: Sequence[str] = ("fusepy", "overlayfs") if first == "fusepy" else ("overlayfs", "fusepy")
    shown = []
    for engine in engines:
        run("mkdir", "-p", stage.base / f"work-{engine}")
        stage.work = stage.base / f"work-{engine}"
        if engine == "fusepy":
            stage.mount()
        else:
            options = f"lowerdir={stage.lower},upperdir={stage.upper},workdir={stage.work},redirect_dir=on"
            run("mount", "-t", "overlay", "-o", options, "none", stage.point)
        if engine == first:
            fill(stage.point)
        shown.append(tree(stage.point))
        if engine == "fusepy":
            stage.unmount()
        else:
            run("umount", stage.point)
    assert shown[0] == shown[1]
    assert shown[0]["directory/moved/deep/file"][-2] == b"moves/deep/file"
