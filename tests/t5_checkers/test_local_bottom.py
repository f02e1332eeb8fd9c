"""The boot script as a boot runs it, in a stand-in initramfs with real mounts, the real daemon, and the tools of klibc or of busybox."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.t5_checkers.initramfs import FSTAB, Machine, build_machine, make_file_system

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as a boot does: only root can")

LARGE = "/usr/bin/python3"
MARKED = (
    "#cowroot: the real root, below the union: LABEL=root / ext4 errors=remount-ro 0 1\n"
    "#cowroot: a swap file cannot lie on the union: /swapfile none swap sw 0 0\n"
    "proc /proc proc defaults 0 0\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(params=["klibc", "busybox"], scope="module")
def machine(request: pytest.FixtureRequest, place: Path) -> Iterator[Machine]:
    machine = build_machine(place, request.param)
    before = hashlib.sha256(machine.disk.read_bytes()).hexdigest()
    yield machine
    assert not machine.loops
    assert hashlib.sha256(machine.disk.read_bytes()).hexdigest() == before, "the real root was written"
    shutil.rmtree(machine.tree)


@pytest.fixture
def upper(machine: Machine, tmp_path: Path) -> Iterator[str]:
    """A disk for an upper: the way to name it among the kernel parameters."""
    label = f"upper{os.getpid()}"
    make_file_system(tmp_path / "upper.img", 16, label)
    device = machine.attach(tmp_path / "upper.img")
    yield label
    machine.detach(device)


def test_the_union_becomes_the_root(machine: Machine) -> None:
    booted = machine.boot(
        "ro quiet",
        after="""
        echo new >root/etc/new && cat run/cowroot/upper/upper/etc/new
        mount -o remount,rw "$PWD/run/cowroot/lower" 2>/dev/null || echo protected
        mount -o move run root/run && ls root/run/cowroot/lower/usr/bin
        stat -c %a root/run/cowroot root/run/cowroot/upper root
        grep -l --text '^@cowroot' proc/[0-9]*/cmdline | wc -l
        """,
    )
    assert booted.boot["rung"] == "configured"
    assert booted.boot["reasons"] == []
    assert booted.boot["upper_device"] == "tmpfs"
    assert booted.boot["upper_directory"] == "/run/cowroot/upper"
    assert booted.boot["root_device"].startswith("/dev/loop")
    assert booted.console.endswith(f"cowroot: / is a union of {booted.boot['root_device']} and an upper on tmpfs\n")
    assert booted.mounts["/root"][0] == "fuse.cowroot"
    assert "rw" in booted.mounts["/root"][1]
    assert "ro" in booted.mounts["/run/cowroot/lower"][1]
    assert booted.mounts["/run/cowroot/upper"][0] == "tmpfs"
    # What would make run-init panic: a mount within a directory of the initramfs that it wants to remove.
    allowed = ("/root/", "/run/", "/cowroot/", "/dev/", "/proc/", "/sys/")
    assert not [where for where in booted.mounts if where.count("/") > 1 and not where.startswith(allowed)]
    assert booted.fstab == MARKED
    assert "run/initramfs/fsck-root" in booted.visible
    assert [each for each in booted.visible if each.endswith(".sock")], "no control socket"
    new, protected, python, state, upper, root, daemons = booted.after.splitlines()
    assert (new, protected, python) == ("new", "protected", "python3")
    assert (state, upper, root) == ("700", "700", "755")
    assert daemons == "2", "a keeper and a server"


def test_an_upper_on_a_disk_is_there_again_the_next_time(machine: Machine, upper: str) -> None:
    first = machine.boot(f'cowroot.upper="LABEL={upper}" cowroot.directory=a/b', after="echo kept >root/etc/kept; umount -l root; sync")
    assert (first.boot["rung"], first.boot["reasons"]) == ("configured", [])
    assert first.boot["upper_device"].startswith("/dev/loop")
    assert first.boot["upper_directory"] == "/run/cowroot/upper/a/b"
    assert f"cowroot: checking the file system on {first.boot['upper_device']}\n" in first.console
    second = machine.boot(f"cowroot.upper=LABEL={upper} cowroot.directory=a/b", after="cat root/etc/kept; ls run/cowroot")
    assert second.boot["rung"] == "configured"
    assert second.after.splitlines()[0] == "kept"
    assert second.fstab == MARKED


def test_an_upper_that_is_to_be_emptied(machine: Machine, upper: str) -> None:
    parameter = f"cowroot.upper=LABEL={upper}"
    # As `cowroot reset` leaves it, and as a power cut while an older one was deleted does.
    left = "echo old >root/etc/old; umount -l root; cd run/cowroot/upper; mkdir -p cowroot.removed/upper/etc; : >cowroot/reset; sync"
    assert machine.boot(parameter, after=left).boot["upper_reset"] is False
    look = "ls root/etc run/cowroot/upper run/cowroot/upper/cowroot/boots; echo new >root/etc/new; umount -l root; sync"
    emptied = machine.boot(parameter, after=look)
    assert (emptied.boot["rung"], emptied.boot["reasons"], emptied.boot["upper_reset"]) == ("configured", [], True)
    assert "cowroot: emptying the upper on /dev/loop" in emptied.console
    assert "old" not in emptied.after.split()
    assert "last.json" in emptied.after.split(), "the record of the boot before went with it"
    assert "cowroot.removed" not in emptied.after
    assert emptied.fstab == MARKED
    # Once; and where the settings say so, each time.
    assert "new" in machine.boot(parameter, after="ls root/etc").after.split()
    always = machine.boot(f"{parameter} cowroot.reset=on", after="ls root/etc")
    assert "new" not in always.after.split()
    assert always.boot["upper_reset"] is True


def test_an_upper_that_is_only_read(machine: Machine, upper: str, tmp_path: Path) -> None:
    """What was changed before is there, whole, at each boot; what is changed then is not, and nothing is written."""
    parameter = f"cowroot.upper=LABEL={upper} cowroot.directory=a"
    disk = tmp_path / "upper.img"
    too_early = machine.boot(f"{parameter} cowroot.read_only=on")
    assert too_early.boot["rung"] == "tmpfs"
    said = f"there is no upper in a on LABEL={upper} to be read: boot with cowroot.read_only=off first"
    assert too_early.boot["reasons"] == [said]
    change = "echo kept >root/etc/kept; ln root/etc/kept root/etc/same; mv root/usr/lib/cowroot root/opt"
    part = f"printf changed | dd of=root{LARGE} bs=1 seek=70000 conv=notrunc status=none; sha256sum <root{LARGE}"
    written = machine.boot(parameter, after=f"{change}; {part}; stat -c %i root/etc/kept root{LARGE}; umount -l root; sync")
    assert (written.boot["rung"], written.boot["saved_device"]) == ("configured", "")
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    look = f"sha256sum <root{LARGE}; stat -c %i root/etc/kept root{LARGE}"
    for parameters in (f"cowroot.lowers=LABEL={upper}:/a", f"{parameter} cowroot.read_only=on"):
        change = "echo new >root/etc/same; echo new >root/etc/new"
        frozen = machine.boot(parameters, after=f"{look}; cat root/etc/same; ls root/etc root/opt; {change}; cat root/etc/kept")
        assert (frozen.boot["rung"], frozen.boot["reasons"]) == ("configured", [])
        assert frozen.boot["upper_device"] == "tmpfs"
        lines = frozen.after.splitlines()
        assert lines[:3] == written.after.splitlines()[:3]
        assert (lines[3], lines[-1]) == ("kept", "new")
        assert "fuse.py" in lines
        assert "new" not in lines[4:-1]
    assert frozen.boot["saved_device"].startswith("/dev/loop")
    assert f"the upper on {frozen.boot['saved_device']}, which is only read, and an upper on tmpfs\n" in frozen.console
    assert "ro" in frozen.mounts["/run/cowroot/layers/saved"][1]
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before, "the upper was written"
    subprocess.run(["blockdev", "--setrw", frozen.boot["saved_device"]], check=True)  # as a reboot does
    assert "kept" in machine.boot(parameter, after="ls root/etc").after, "and it can be written again"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ("cowroot.read_only=on", "upper.read_only is about an upper on a device, and upper.device is tmpfs"),
        (
            "cowroot.read_only=on cowroot.upper=/dev/loop0 cowroot.reset=on",
            "upper.read_only keeps what is in the upper, and upper.reset and upper.random_key do not",
        ),
    ],
)
def test_a_read_only_upper_that_cannot_be(machine: Machine, parameters: str, reason: str) -> None:
    booted = machine.boot(parameters)
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("tmpfs", [reason])


def test_an_upper_in_a_file_that_is_made(machine: Machine, upper: str) -> None:
    parameters = f"cowroot.upper=LABEL={upper}:/images/one.img cowroot.size=8M"
    encrypted = machine.boot(f"{parameters} cowroot.random_key=on")
    assert encrypted.boot["reasons"] == [f"upper.random_key takes a device, and LABEL={upper}:/images/one.img is a file"]
    missing = machine.boot(parameters)
    assert missing.boot["rung"] == "tmpfs"
    assert missing.boot["reasons"] == [f"LABEL={upper}:/images/one.img is no file that a loop device can be made of"]
    find = r"$(sed -n 's|^\(/dev/loop[0-9]*\) .*/run/cowroot/upper .*|\1|p' proc/mounts)"
    leave = f"echo kept >root/etc/kept; umount -l root; sync; losetup -d {find}"
    made = machine.boot(f"{parameters} cowroot.create=on", after=leave)
    assert (made.boot["rung"], made.boot["reasons"]) == ("configured", [])
    assert f"cowroot: making the file LABEL={upper}:/images/one.img with 8M\n" in made.console
    assert made.mounts["/run/cowroot/upper"][0] == "ext4"
    assert "/run/cowroot/disk" not in made.mounts
    again = machine.boot(f"{parameters} cowroot.create=on", after=f"cat root/etc/kept; {leave}")
    assert (again.boot["rung"], again.boot["reasons"], again.after) == ("configured", [], "kept")
    assert "making" not in again.console


def test_only_an_empty_device_is_made_an_upper(machine: Machine, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkswap", "-q", str(disk)], check=True, stderr=subprocess.DEVNULL)  # of its permissions
    before = disk.read_bytes()
    device = machine.attach(disk)
    try:
        booted = machine.boot(f"cowroot.upper={device} cowroot.create=on")
        assert (booted.boot["rung"], disk.read_bytes() == before) == ("tmpfs", True)
        booted = machine.boot(f"cowroot.upper={device} cowroot.random_key=on")
        assert booted.boot["reasons"] == [f"{device} is not empty, so it is not encrypted anew: wipefs --all {device}"]
        assert disk.read_bytes() == before
        subprocess.run(["wipefs", "-q", "--all", device], check=True)
        booted = machine.boot(f"cowroot.upper={device} cowroot.create=on", after="umount -l root; sync")
        assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
        assert f"cowroot: making a file system on {device}, which is empty\n" in booted.console
        assert machine.boot(f"cowroot.upper={device}").boot["rung"] == "configured"
    finally:
        machine.detach(device)


def test_further_lowers_are_stacked_over_the_disk(machine: Machine, tmp_path: Path) -> None:
    """A directory of the disk, an image on another device, and all of a device."""
    label = f"layers{os.getpid()}"
    tree = tmp_path / "tree"
    for name, layer in (("app", "app"), ("more", "more"), ("base", "device")):
        (tree / layer / "opt").mkdir(parents=True)
        (tree / layer / "opt/who").write_text(f"{name}\n")
        (tree / layer / f"opt/{name}").touch()
    make = ["mksquashfs", str(tree / "app"), str(tree / "device/app.squashfs"), "-quiet", "-no-progress"]
    subprocess.run(make, stdout=subprocess.DEVNULL, check=True)
    subprocess.run(["mkfs.erofs", "--quiet", str(tree / "device/more.erofs"), str(tree / "more")], check=True)
    make_file_system(tmp_path / "device.img", 16, label, tree / "device")
    device = machine.attach(tmp_path / "device.img")
    lowers = [f"LABEL={label}:/app.squashfs", "/usr/bin", f"LABEL={label}:/more.erofs", f"LABEL={label}"]
    try:
        look = "cat root/opt/who; ls root/opt root; echo new >root/opt/who && cat run/cowroot/upper/upper/opt/who"
        booted = machine.boot(f"cowroot.lowers={','.join(lowers)}", after=look)
        missing = machine.boot("cowroot.lowers=/usr/bin,/no/such.squashfs", after="ls root")
        assert str(tmp_path) in (loops := subprocess.run(["losetup", "-a"], stdout=subprocess.PIPE, check=True, text=True).stdout)
        assert "(/app.squashfs)" not in loops, "a loop device is left"
    finally:
        machine.detach(device)
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    assert booted.boot["settings"]["lowers"] == lowers
    said = booted.after.split()
    assert said[0] == "app"
    assert {"app", "more", "base", "python3", "etc"} < set(said)
    assert said[-1] == "new"
    mounts = [booted.mounts[f"/run/cowroot/layers/{number}"] for number in (1, 2, 3, 4)]
    assert [kind for kind, _ in mounts] == ["squashfs", "ext4", "erofs", "ext4"]
    assert all("ro" in options for _, options in mounts)
    assert not [place for place in booted.mounts if place.endswith(".disk")]
    # A layer that is not there: the union goes without, and says so.
    assert (missing.boot["rung"], missing.boot["reasons"]) == ("tmpfs", ["the layer /no/such.squashfs is not there"])
    assert missing.boot["settings"]["lowers"] == []
    assert "python3" not in missing.after
    assert not [place for place in missing.mounts if "layers" in place]


@pytest.mark.parametrize(
    ("cmdline", "reason"),
    [
        ("cowroot.upper=LABEL=no-such-disk cowroot.wait=1", "LABEL=no-such-disk did not appear in 1 seconds"),
        ("cowroot.upper=/dev/null cowroot.wait=0", "/dev/null holds no file system that is known here"),
        ("cowroot.size=9999G", "upper.size is 9999G, and the machine has {memory}M of memory"),
        ("cowroot.size=banana", "kernel parameter cowroot.size cannot be 'banana'"),
    ],
)
def test_an_upper_that_cannot_be_had_is_replaced_by_memory(machine: Machine, cmdline: str, reason: str) -> None:
    booted = machine.boot(cmdline)
    reason = reason.format(memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20)
    assert (booted.boot["rung"], booted.boot["reasons"], booted.boot["settings"]["upper.size"]) == ("tmpfs", [reason], "50%")
    assert f"cowroot: {reason}\n" in booted.console
    assert "cowroot: degraded: / is a union, but with an upper in memory: nothing written now outlives this boot\n" in booted.console
    assert booted.mounts["/root"][0] == "fuse.cowroot"
    assert booted.mounts["/run/cowroot/upper"][0] == "tmpfs"
    assert "run/cowroot/degraded" in booted.visible


def test_the_real_root_is_no_upper(machine: Machine) -> None:
    booted = machine.boot("cowroot.upper=LABEL=root")
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("tmpfs", ["LABEL=root is the real root, which is never written"])


def test_a_damaged_upper_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    label = f"hurt{os.getpid()}"
    make_file_system(tmp_path / "hurt.img", 16, label)
    # No root directory, and a note that something is wrong: without that e2fsck would believe the clean state.
    _debugfs(tmp_path / "hurt.img", "ssv state 2\nclri <2>\n")
    device = machine.attach(tmp_path / "hurt.img")
    try:
        booted = machine.boot(f"cowroot.upper=LABEL={label}")
    finally:
        machine.detach(device)
    reason = f"the file system on {device} has errors that need somebody to decide (e2fsck)"
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("tmpfs", [reason])


def hurt(disk: Path, *requests: str) -> None:
    """Change a file system that is not mounted, behind its back."""
    text = "".join(f"{request}\n" for request in requests)
    run = subprocess.run(["debugfs", "-w", str(disk)], input=text, text=True, capture_output=True, check=True)
    assert "not found" not in run.stderr, run.stderr


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (("write /etc/hostname cowroot",), "cowroot on DEVICE is damaged: it is no directory"),
        (("mkdir cowroot", "write /etc/hostname cowroot/upper"), "cowroot/upper on DEVICE is damaged: it is no directory"),
        (
            ("mkdir cowroot", "mkdir cowroot/upper", "write /etc/hostname cowroot/upper/etc", "mkdir cowroot/work"),
            "the layer in cowroot on DEVICE is damaged: the union has no /etc or no /usr",
        ),
    ],
)
def test_a_damaged_layer_is_set_aside(machine: Machine, tmp_path: Path, request_: tuple[str, ...], reason: str) -> None:
    label = f"layer{os.getpid()}"
    disk = tmp_path / "layer.img"
    make_file_system(disk, 16, label)
    hurt(disk, *request_)
    device = machine.attach(disk)
    try:
        booted = machine.boot(
            f"cowroot.upper=LABEL={label}",
            after="ls run/cowroot/upper; echo new >root/etc/new; cat run/cowroot/upper/cowroot/upper/etc/new",
        )
        again = machine.boot(f"cowroot.upper=LABEL={label}", after="cat root/etc/new")
    finally:
        machine.detach(device)
    kept = f"the damaged layer is kept as cowroot.damaged-1 on {device}"
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("fresh", [reason.replace("DEVICE", device), kept])
    assert f"cowroot: degraded: / is a union of {booted.boot['root_device']} and a new, empty upper on {device}" in booted.console
    assert "run/cowroot/degraded" in booted.visible
    assert booted.after.split() == ["cowroot", "cowroot.damaged-1", "lost+found", "new"]
    assert (again.boot["rung"], again.after) == ("configured", "new"), "the new layer is not kept"


@pytest.mark.parametrize("engine", ["auto", "overlayfs"])
def test_a_work_directory_that_cannot_be_read_is_set_aside(machine: Machine, tmp_path: Path, engine: str) -> None:
    """The kernel's overlayfs would mount such a layer, for reading alone."""
    label = f"zapped{os.getpid()}"
    disk = tmp_path / "zapped.img"
    make_file_system(disk, 16, label)
    hurt(disk, "mkdir cowroot", "mkdir cowroot/upper", "mkdir cowroot/work", "zap_block -f cowroot/work -p 0 0")
    device = machine.attach(disk)
    try:
        booted = machine.boot(f"cowroot.upper=LABEL={label} cowroot.engine={engine}", after="ls run/cowroot/upper")
    finally:
        machine.detach(device)
    assert booted.boot["rung"] == "fresh"
    assert "work directory /run/upper/work: " in booted.boot["reasons"][0]
    assert booted.boot["reasons"][1:] == [f"the damaged layer is kept as cowroot.damaged-1 on {device}"]
    assert booted.after.split() == ["cowroot", "cowroot.damaged-1", "lost+found"]


def test_a_damaged_layer_is_left_alone_where_no_other_is_wanted(machine: Machine, tmp_path: Path) -> None:
    label = f"kept{os.getpid()}"
    disk = tmp_path / "kept.img"
    make_file_system(disk, 16, label)
    hurt(disk, "write /etc/hostname cowroot")
    device = machine.attach(disk)
    try:
        booted = machine.boot(f"cowroot.upper=LABEL={label} cowroot.on_failure=read-only,shell")
    finally:
        machine.detach(device)
    assert booted.boot["rung"] == "read-only"
    assert booted.boot["reasons"] == [f"cowroot on {device} is damaged: it is no directory"]


def test_a_disk_without_its_superblock_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    disk = tmp_path / "lost.img"
    make_file_system(disk, 16, "lost")
    with open(disk, "r+b") as file:
        file.write(bytes(4096))
    before = disk.read_bytes()
    device = machine.attach(disk)
    try:
        booted = machine.boot(f"cowroot.upper={device} cowroot.fstype=ext4")
    finally:
        machine.detach(device)
    reason = f"the file system on {device} cannot be checked (e2fsck, exit code 8)"
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("tmpfs", [reason])
    assert disk.read_bytes() == before


def test_after_a_power_cut_the_layer_is_checked(machine: Machine, tmp_path: Path) -> None:
    """The disk as it was while it was mounted, with something left in the work directory and a mark that cannot be."""
    label = f"cut{os.getpid()}"
    make_file_system(tmp_path / "upper.img", 16, label)
    device = machine.attach(tmp_path / "upper.img")
    after = f"""
    layer=run/cowroot/upper/cowroot
    echo kept >root/etc/kept; echo half >$layer/work/cowroot/tmp/half
    setfattr -n trusted.overlay.opaque -v y $layer/upper/etc/kept
    sync; cat {device} >{tmp_path}/cut.img
    """
    try:
        assert machine.boot(f"cowroot.upper=LABEL={label}", after=after).after == ""
    finally:
        machine.detach(device)
    cut = machine.attach(tmp_path / "cut.img")
    try:
        boots = "run/cowroot/upper/cowroot/boots"
        look = f"cat root/etc/kept; ls run/cowroot/upper/cowroot/work/cowroot/tmp; cat run/cowroot/message {boots}/last.stages"
        booted = machine.boot(f"cowroot.upper=LABEL={label}", after=f"{look}; echo up 9 >>{boots}/this.stages")
        again = machine.boot(f"cowroot.upper=LABEL={label}", after=f"cat {boots}/last.stages; cat {boots}/last.json")
    finally:
        machine.detach(cut)
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    kept, *message = booted.after.splitlines()
    assert kept == "kept"
    assert f"{cut} was not unmounted at the last shutdown: checking the layer" in message
    assert "check: etc/kept: trusted.overlay.opaque=y: only a directory can be opaque (repaired: removed trusted.overlay.opaque)" in message
    assert "check: /run/upper/upper: 2 problems, 2 repaired" in message
    assert message[-2].startswith("initrd ") and message[-1] == "unclean"
    assert "checking the layer" not in again.console
    first, up, ended, record = again.after.split("\n", 3)
    assert (first.split()[0], up, ended) == ("initrd", "up 9", "clean")
    assert json.loads(record) == booted.boot


def test_a_black_box_for_an_upper_in_memory(machine: Machine, tmp_path: Path) -> None:
    """A boot that is cut off, one that ends cleanly, and one that can only read it; the disk, for the first, as it was while mounted."""
    label = f"box{os.getpid()}"
    words = f"cowroot.black_box=LABEL={label}"
    boots = "run/cowroot/box/cowroot/boots"
    make_file_system(tmp_path / "box.img", 16, label)
    device = machine.attach(tmp_path / "box.img")
    try:
        after = f"echo up 9 >>{boots}/this.stages; ls {boots}; sync; cat {device} >{tmp_path}/cut.img"
        first = machine.boot(words, after=after)
    finally:
        machine.detach(device)
    assert (first.boot["rung"], first.boot["reasons"], first.boot["upper_device"]) == ("configured", [], "tmpfs")
    assert first.after.split() == ["this.json", "this.stages"]
    cut = machine.attach(tmp_path / "cut.img")
    try:
        again = machine.boot(words, after=f"cat {boots}/last.json {boots}/last.stages")
        clean = machine.boot(words, after=f"cat {boots}/last.stages")
        subprocess.run(["blockdev", "--setro", cut], check=True)
        unwritable = machine.boot(words)
    finally:
        machine.detach(cut)
    record, stages = again.after.rsplit("}", 1)
    assert json.loads(f"{record}}}") == first.boot
    assert [line.split()[0] for line in stages.splitlines() if line] == ["initrd", "up", "unclean"]
    assert clean.after.splitlines()[-1] == "clean"
    assert unwritable.boot["rung"] == "configured"
    assert f"cowroot: black_box: {cut} cannot be written\n" in unwritable.console


@pytest.mark.parametrize(("name", "said"), [("LABEL=no-such-disk", "is not there"), ("LABEL=root", "is the real root")])
def test_a_black_box_that_is_none(machine: Machine, name: str, said: str) -> None:
    booted = machine.boot(f"cowroot.black_box={name}")
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    assert "cowroot: black_box: " in booted.console
    assert said in booted.console
    assert "/run/cowroot/box" not in booted.mounts


def test_without_memory_the_real_root_is_mounted_read_only(machine: Machine) -> None:
    booted = machine.boot("rw cowroot.upper=LABEL=no-such-disk cowroot.wait=0 cowroot.on_failure=read-only,shell")
    assert booted.boot["rung"] == "read-only"
    assert booted.mounts["/root"][0] == "ext4"
    assert "ro" in booted.mounts["/root"][1]
    assert booted.fstab == MARKED, "systemd-remount-fs would remount the real root"
    assert "/run/cowroot/lower" not in booted.mounts
    assert "/cowroot" not in booted.mounts
    assert "cowroot: degraded: / is the real root, mounted read-only\n" in booted.console


def test_a_daemon_that_cannot_start_is_tried_once(machine: Machine, tmp_path: Path) -> None:
    broken = Machine(machine.tree, tmp_path / "broken.img")
    shutil.copy(machine.disk, broken.disk)
    subprocess.run(["debugfs", "-w", "-R", "rm /usr/lib/cowroot/fuse.py", str(broken.disk)], check=True, stderr=subprocess.DEVNULL)
    booted = broken.boot("cowroot.engine=fusepy")
    assert booted.boot["rung"] == "read-only"
    (reason,) = booted.boot["reasons"]
    assert reason.startswith("the union's daemon did not come up (exit code 6): ")
    assert booted.mounts["/root"][0] == "ext4"
    assert "/run/cowroot/upper" not in booted.mounts


def test_the_kernels_own_union(machine: Machine) -> None:
    booted = machine.boot("cowroot.engine=overlayfs", after="echo new >root/etc/new && cat run/cowroot/upper/upper/etc/new")
    assert (booted.boot["rung"], booted.boot["reasons"], booted.boot["engine"]) == ("configured", [], "overlayfs")
    assert booted.mounts["/root"][0] == "overlay"
    assert booted.fstab == MARKED
    assert booted.after == "new"


def test_off_leaves_everything_as_it_is(machine: Machine) -> None:
    booted = machine.boot("cowroot=off cowroot.size=banana")
    assert booted.boot["rung"] == "off"
    assert booted.mounts["/root"][0] == "ext4"
    assert booted.fstab == FSTAB
    assert "run/cowroot/degraded" not in booted.visible
    assert "cowroot: off: / is the real root\n" in booted.console


def test_settings_of_the_initrd_hold(machine: Machine) -> None:
    off = machine.boot(settings="COWROOT_ENABLED=false\n")
    assert off.boot["rung"] == "off"
    on = machine.boot("cowroot=on cowroot.inodes=5000", settings="COWROOT_ENABLED=false\nCOWROOT_UPPER_SIZE='8M'\n")
    assert on.boot["rung"] == "configured"
    assert "nr_inodes=5000" in on.mounts["/run/cowroot/upper"][1]
    assert "size=8192k" in on.mounts["/run/cowroot/upper"][1]


def test_a_thawed_boot_is_counted_on_the_disk_and_the_last_one_freezes_it(machine: Machine, tmp_path: Path) -> None:
    thawed = _with_plan(machine, tmp_path, "2\n")
    for left in ("1", "0"):
        booted = thawed.boot("ro", after="cat root/etc/cowroot/thaw; echo changed >root/etc/new && echo written")
        assert (booted.boot["rung"], booted.boot["reasons"]) == ("thawed", [])
        assert f"cowroot: thawed: / is the real root, and writable; for how many boots more: {left}\n" in booted.console
        assert booted.mounts["/root"][0] == "ext4"
        assert booted.fstab == FSTAB
        assert booted.after.splitlines() == [left, "written"]
    booted = thawed.boot("ro", after="cat root/etc/new; touch run/cowroot/lower/etc/other 2>/dev/null || echo frozen")
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    assert booted.after.splitlines() == ["changed", "frozen"]


@pytest.mark.parametrize("content", ["many", "1000", "1", "1 2", "1000000000 many", "1000000000 9999999999 1"])
def test_what_is_no_number_of_boots_or_cannot_be_counted_thaws_nothing(machine: Machine, tmp_path: Path, content: str) -> None:
    thawed = _with_plan(machine, tmp_path, content + ("\n" if content != "1" else ""))
    booted = thawed.boot("ro")
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    assert "ro" in booted.mounts["/run/cowroot/lower"][1]


@pytest.mark.parametrize(("begins", "ends", "rung"), [(-60, 3600, "thawed"), (3600, 7200, "configured"), (-7200, -1, "configured")])
def test_a_window_thaws_the_boots_in_it(machine: Machine, tmp_path: Path, begins: int, ends: int, rung: str) -> None:
    now = int(time.time())
    thawed = _with_plan(machine, tmp_path, f"{now + begins} {now + ends}\n")
    booted = thawed.boot("ro", after="cat run/cowroot/window root/etc/cowroot/thaw; echo changed >root/etc/new && echo written")
    assert (booted.boot["rung"], booted.boot["reasons"]) == (rung, [])
    if rung == "thawed":
        assert "cowroot: thawed: / is the real root, and writable, until " in booted.console
        assert booted.mounts["/root"][0] == "ext4"
        assert booted.after.splitlines() == [f"{now + begins} {now + ends}"] * 2 + ["written"]
    else:
        assert "cat: run/cowroot/window" in booted.after
        assert "ro" in booted.mounts["/run/cowroot/lower"][1]


def test_a_root_that_cannot_tell_the_time_is_not_thawed(machine: Machine, tmp_path: Path) -> None:
    now = int(time.time())
    thawed = _with_plan(machine, tmp_path, f"{now - 60} {now + 3600}\n")
    _debugfs(thawed.disk, "rm /bin/date\n")
    booted = thawed.boot("ro")
    assert (booted.boot["rung"], booted.boot["reasons"]) == ("configured", [])
    assert "cowroot: the real root may have to be thawed, but its date(1) does not tell the time\n" in booted.console


def _with_plan(machine: Machine, place: Path, plan: str) -> Machine:
    """A machine whose disk bears what `cowroot thaw` leaves there."""
    thawed = Machine(machine.tree, place / "thawed.img")
    shutil.copy(machine.disk, thawed.disk)
    (place / "plan").write_text(plan)
    _debugfs(thawed.disk, f"mkdir /etc/cowroot\nwrite {place}/plan /etc/cowroot/thaw\n")
    return thawed


def _debugfs(disk: Path, commands: str) -> None:
    subprocess.run(["debugfs", "-w", str(disk)], input=commands.encode(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
