"""One image, many boots, in User Mode Linux: what each guest asserts is in checks/."""
from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.t6_boot import disk, qemu, recipe, uml
from tests.t6_boot.conftest import BOOT_LIMIT, Boot
from tests.t6_boot.image import Image


def test_debian_as_it_comes(boot: Boot, plain: Image) -> None:
    boot(plain, "plain", read_only=False)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["fusepy", "auto"])
def test_a_union_with_its_upper_in_memory(boot: Boot, appliance: Image, debs_disk: Path, engine: str) -> None:
    ended = boot(appliance, "union", disks=[debs_disk], parameters=[f"cowroot.engine={engine}"])
    assert ended.lines_with(r"^cowroot: / is a union") == ended.lines_with(r"^cowroot: "), "one line on the console, no complaint"


@pytest.mark.long
def test_a_union_on_debian_12(boot: Boot, older_appliance: Image, upper_disk: Path) -> None:
    boot(older_appliance, "upper-write", writable=[upper_disk], parameters=["cowroot.upper=LABEL=upper", "test.reset=on"])
    assert_unmounted(upper_disk)
    boot(older_appliance, "upper-emptied", writable=[upper_disk], parameters=["cowroot.upper=LABEL=upper"])
    assert_unmounted(upper_disk)


@pytest.mark.long
def test_a_union_that_reads_and_writes_pass_by(boot: Boot, appliance: Image, debs_disk: Path) -> None:
    """A kernel with passthrough, Debian 13's own; that needs QEMU, where an emulated processor would make an initrd for minutes."""
    boot(appliance, "union", start=qemu.start_kernel, disks=[debs_disk], parameters=["cowroot.engine=direct", "test.initrd=off"])


def test_an_upper_on_a_disk_outlives_a_reboot(boot: Boot, appliance: Image, upper_disk: Path) -> None:
    parameters = ["cowroot.upper=LABEL=upper"]
    boot(appliance, "upper-write", writable=[upper_disk], parameters=parameters)
    assert_unmounted(upper_disk)
    boot(appliance, "upper-read", writable=[upper_disk], parameters=parameters)
    assert_unmounted(upper_disk)
    before = sha256(upper_disk)
    boot(appliance, "upper-frozen", disks=[upper_disk], parameters=[*parameters, "cowroot.read_only=on"])
    assert sha256(upper_disk) == before


POLICIES = ("pass", "read-only", "union", "absent")


def test_other_disks_are_mounted_as_the_rules_say(boot: Boot, appliance: Image, work: Path) -> None:
    tree = work / "tree"
    (tree / "directory").mkdir(parents=True)
    (tree / "old").write_text("old\n")
    disks = {label: disk.make_data_disk(work / f"{label}.img", 16, label, tree) for label in (*POLICIES, "efi")}
    # The upper brings an fstab that names them: the image need not be written.
    points = {**{label: f"/srv/{label}" for label in POLICIES}, "efi": "/boot/efi"}
    lines = [f"LABEL={label} {point} ext4 defaults 0 2" for label, point in {recipe.ROOT_LABEL: "/", **points}.items()]
    (work / "kept/cowroot/upper/etc").mkdir(parents=True)
    (work / "kept/cowroot/upper/etc/fstab").write_text("\n".join(lines))
    upper = disk.make_data_disk(work / "upper.img", 64, "upper", work / "kept")
    before = {label: sha256(made) for label, made in disks.items()}
    rules = ["/srv/pass:pass", "LABEL=read-only:read-only", "/srv/union:union", "LABEL=absent:absent"]
    parameters = ["cowroot.upper=LABEL=upper", f"cowroot.mounts={','.join(rules)}"]
    boot(appliance, "mounts", writable=[upper, *disks.values()], parameters=parameters)
    for made in (upper, disks["pass"]):
        assert_unmounted(made)
    assert [label for label, made in disks.items() if sha256(made) != before[label]] == ["pass"]


def test_two_images_are_stacked_over_the_disk(boot: Boot, appliance: Image, work: Path) -> None:
    for name in ("app", "base"):
        (work / name / "opt" / name).mkdir(parents=True)
        (work / name / "opt/who").write_text(f"{name}\n")
        (work / name / "etc").mkdir()
        (work / name / f"etc/{name}.conf").touch()
        make = ["mksquashfs", str(work / name), str(work / f"images/{name}.squashfs"), "-quiet", "-no-progress"]
        (work / "images").mkdir(exist_ok=True)
        subprocess.run(make, stdout=subprocess.DEVNULL, check=True)
    images = disk.make_data_disk(work / "layers.img", 16, "layers", work / "images")
    lowers = "cowroot.lowers=LABEL=layers:/app.squashfs,LABEL=layers:/base.squashfs"
    ended = boot(appliance, "layers", disks=[images], parameters=[lowers])
    assert ended.lines_with(r"^cowroot: / is a union") == ended.lines_with(r"^cowroot: "), "one line on the console, no complaint"


def test_an_upper_in_a_file_that_is_made(boot: Boot, appliance: Image, upper_disk: Path, work: Path) -> None:
    parameters = ["cowroot.upper=LABEL=upper:/images/one.img", "cowroot.size=64M"]
    ended = boot(appliance, "upper-write", writable=[upper_disk], parameters=parameters)
    assert ended.lines_with("cowroot: making the file LABEL=upper:/images/one.img with 64M")
    # What holds the file cannot be unmounted; its journal has the rest.
    subprocess.run(["e2fsck", "-p", str(upper_disk)], stdout=subprocess.DEVNULL, check=False)
    subprocess.run(["debugfs", "-R", f"dump /images/one.img {work}/one.img", str(upper_disk)], stderr=subprocess.DEVNULL, check=True)
    assert_unmounted(work / "one.img")
    listed = subprocess.run(["debugfs", "-R", "ls /cowroot/upper/root", str(work / "one.img")], capture_output=True, text=True, check=True)
    assert "first-boot" in listed.stdout


def sha256(made: Path) -> str:
    return hashlib.sha256(made.read_bytes()).hexdigest()


@pytest.mark.long
def test_an_upper_outlives_a_power_cut_and_then_damage(boot: Boot, appliance: Image, upper_disk: Path, work: Path) -> None:
    """The power goes; the boot after that checks the layer; damaged while it is not mounted, it is set aside."""
    parameters = ["cowroot.upper=LABEL=upper"]
    with uml.start(appliance, "power-cut", work / "power-cut", writable=[upper_disk], parameters=parameters) as machine:
        machine.wait_for("COWROOT-READY", BOOT_LIMIT, "end of the work")
    ended = boot(appliance, "after-power-cut", writable=[upper_disk], parameters=parameters)
    assert ended.lines_with("cowroot: .* was not unmounted at the last shutdown: checking the layer")
    assert_unmounted(upper_disk)
    damage = "cd cowroot/upper\nwrite /etc/hostname etc.damaged\nunlink etc\nln etc.damaged etc\n"
    subprocess.run(["debugfs", "-w", str(upper_disk)], input=damage, text=True, capture_output=True, check=True)
    ended = boot(appliance, "fresh", writable=[upper_disk], parameters=parameters)
    assert ended.lines_with("cowroot: the damaged layer is kept as cowroot.damaged-1 on /dev/ubdb")


def test_a_black_box_tells_of_a_panic_where_the_upper_is_in_memory(boot: Boot, appliance: Image, upper_disk: Path, work: Path) -> None:
    parameters = ["cowroot.black_box=LABEL=upper"]
    with uml.start(appliance, "box-write", work / "panic", writable=[upper_disk], parameters=parameters) as machine:
        machine.wait_for("COWROOT-PANIC", BOOT_LIMIT, "end of the work")
        machine.wait_for("Kernel panic", 30, "panic")
    boot(appliance, "box-read", writable=[upper_disk], parameters=parameters)
    assert_unmounted(upper_disk)
    boot(appliance, "box-read", writable=[upper_disk], parameters=[*parameters, "test.last=clean"])


def assert_unmounted(made: Path) -> None:
    """The file system was unmounted: its journal needs no replay, and its check finds nothing."""
    header = subprocess.run(["dumpe2fs", "-h", str(made)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    assert "needs_recovery" not in header
    subprocess.run(["e2fsck", "-f", "-n", str(made)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def test_the_union_can_be_left_out_for_one_boot(boot: Boot, appliance: Image) -> None:
    ended = boot(appliance, "off", read_only=False, parameters=["cowroot=off"])
    assert ended.lines_with("cowroot: off: / is the real root")


def test_a_missing_upper_is_replaced_by_memory_and_everybody_is_told(boot: Boot, appliance: Image) -> None:
    ended = boot(appliance, "upper-missing", parameters=["cowroot.upper=LABEL=no-such-disk", "cowroot.wait=2"])
    assert ended.lines_with("cowroot: LABEL=no-such-disk did not appear in 2 seconds")
    assert ended.lines_with("cowroot: degraded: ")


def test_a_parameter_that_cannot_be_is_named_and_the_boot_goes_on(boot: Boot, appliance: Image) -> None:
    ended = boot(appliance, "bad-parameter", parameters=["cowroot.size=banana"])
    assert ended.lines_with("cowroot: kernel parameter cowroot.size cannot be 'banana'")


def test_without_a_daemon_the_real_root_is_read_only(boot: Boot, appliance: Image, work: Path) -> None:
    broken = without_python(appliance, work)
    ended = boot(broken, "no-daemon", read_only=False)
    assert ended.lines_with("cowroot: degraded: / is the real root, mounted read-only")


def test_where_nothing_else_is_allowed_the_boot_ends_in_a_shell(appliance: Image, work: Path) -> None:
    # Debian's shell takes the first virtual terminal where that is the console, and so not ours: a serial line is the console here.
    serial = ["con0=null", "ssl0=fd:0,fd:1", "console=ttyS0"]
    parameters = ["cowroot.upper=LABEL=no-such-disk", "cowroot.wait=0", "cowroot.on_failure=shell", *serial]
    with uml.start(appliance, "none", work / "shell", parameters=parameters) as machine:
        machine.wait_for(r"\(initramfs\)", BOOT_LIMIT, "shell")
        assert "cowroot: LABEL=no-such-disk did not appear" in machine.before
        machine.send("cat /proc/mounts; echo that was $((40 + 2))")
        machine.wait_for("that was 42", 30, "answer of the shell")
        assert " /root " not in machine.before, "the real root is still mounted"


def without_python(source: Image, place: Path) -> Image:
    """Return a copy of an image from which the interpreter has vanished."""
    copy = Image(place / "disk.img")
    subprocess.run(["cp", "--sparse=always", str(source.disk), str(copy.disk)], check=True)
    subprocess.run(
        ["debugfs", "-w", "-R", "rm /usr/bin/python3", f"{copy.disk}?offset={disk.OFFSET}"], stderr=subprocess.DEVNULL, check=True
    )
    return copy
