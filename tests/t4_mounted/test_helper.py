"""mount(8), fstab and umount(8) through /sbin/mount.fuse.cowroot and /sbin/umount.fuse.cowroot.

The helpers are put in place by an overlay in a mount namespace of the test's own, so that the machine's /sbin stays as it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.t4_mounted.mounted import Stage, run

SOURCE_TREE = Path(__file__).resolve().parents[2]


class Namespace:
    """Runs shell scripts where the helpers are in /sbin; `$POINT`, `$OPTIONS` and `$FSTAB` are the stage's."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.fstab = stage.base / "fstab"
        programs = stage.base / "sbin"
        programs.mkdir()
        path = [str(SOURCE_TREE), *(entry for entry in sys.path if entry.endswith("site-packages"))]
        for name in ("mount", "umount"):
            helper = programs / f"{name}.fuse.cowroot"
            helper.write_text(
                f"#!{sys.executable}\nimport sys\nsys.path[:0] = {path!r}\n"
                f"from cowroot.cli.{name} import {name}_helper\nsys.exit({name}_helper())\n"
            )
            helper.chmod(0o755)
        sbin = os.path.realpath("/sbin")
        self._prepare = f"mount -t overlay -o lowerdir={programs}:{sbin} none {sbin}"

    def write_fstab(self, *more: str, source: str = "none") -> None:
        options = self.stage.options("engine=fusepy", *more)
        self.fstab.write_text(f"{source} {self.stage.point} fuse.cowroot {options} 0 0\n")

    def run(self, script: str, code: int = 0) -> str:
        """Run `script`; what it writes to stdout and stderr. Mounts end with the script."""
        environment = {
            **os.environ,
            "POINT": str(self.stage.point),
            "OPTIONS": self.stage.options("engine=fusepy"),
            "FSTAB": str(self.fstab),
        }
        script = f"set -e; {self._prepare}\n{script}"
        done = run("unshare", "-m", "sh", "-c", script, check=False, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def namespace(stage: Stage) -> Namespace:
    (stage.lower / "file").write_text("below\n")
    return Namespace(stage)


def test_mount_by_type(namespace: Namespace) -> None:
    said = namespace.run("""
        mount -t fuse.cowroot -o "$OPTIONS" none "$POINT"
        cat "$POINT/file"; echo new > "$POINT/new"
        findmnt -n -o SOURCE,FSTYPE "$POINT"
        umount "$POINT"; ls "$POINT"
    """)
    assert said.split() == ["below", "none", "fuse.cowroot"]
    assert (namespace.stage.upper / "new").read_text() == "new\n"


def test_fstab(namespace: Namespace) -> None:
    namespace.write_fstab("defaults", "nofail", "x-systemd.device-timeout=1", source="appliance")
    said = namespace.run("""
        mount -T "$FSTAB" "$POINT"
        mount -a -T "$FSTAB"
        findmnt -n -o SOURCE,OPTIONS "$POINT"
    """)
    lines = said.splitlines()
    assert len(lines) == 1, "mount -a has mounted what was mounted already"
    assert lines[0].startswith("appliance ")


def test_noauto_is_left_alone(namespace: Namespace) -> None:
    namespace.write_fstab("noauto")
    assert namespace.run('mount -a -T "$FSTAB"; findmnt -n "$POINT" || echo nothing') == "nothing\n"


def test_remount(namespace: Namespace) -> None:
    """As systemd-remount-fs and administrators do it: with the line of fstab, with the mount point alone, past the helper."""
    namespace.write_fstab()
    said = namespace.run("""
        shown() { findmnt -n -o OPTIONS "$POINT" | cut -d, -f1; }
        mount -T "$FSTAB" "$POINT"; shown
        mount -o remount,ro "$POINT"; shown
        (echo x > "$POINT/x") 2>/dev/null && echo written
        mount -T "$FSTAB" -o remount,rw "$POINT"; shown
        echo x > "$POINT/x"
        mount -i -o remount,ro "$POINT"; shown
        mount -o remount,rw,nosuid none "$POINT"; findmnt -n -o OPTIONS "$POINT" | cut -d, -f1,2
        mount -o remount,rw "$POINT"; cat "$POINT/file" "$POINT/x"
    """)
    assert said.split() == ["rw", "ro", "rw", "ro", "rw,nosuid", "below", "x"]


def test_a_failure_is_told(namespace: Namespace) -> None:
    said = namespace.run('mount -t fuse.cowroot -o lowerdir=/nowhere none "$POINT"', code=6)
    assert "mount.fuse.cowroot: error: lower directory /nowhere: No such file or directory" in said
    assert "hint: " in said


def test_sloppy_and_verbose(namespace: Namespace) -> None:
    assert namespace.run('mount -s -v -t fuse.cowroot -o "$OPTIONS,frobnicate" none "$POINT"; cat "$POINT/file"').endswith("below\n")


def test_remount_of_nothing(namespace: Namespace) -> None:
    said = namespace.run('/sbin/mount.fuse.cowroot none "$POINT" -o remount,ro', code=6)
    assert "is not a mount point" in said


@pytest.mark.parametrize("engine", ["fusepy", "direct"])
def test_after_umount_the_layers_are_free(namespace: Namespace, engine: str) -> None:
    """However slow the daemon is: this one has the least share of a processor that somebody else is busy on."""
    script = """
        disk=$(dirname "$POINT")/disk; mkdir "$disk"
        taskset --cpu-list 0 sh -c 'while :; do :; done' & busy=$!; trap 'kill $busy' EXIT
        for round in $(seq 8); do
            mount -t tmpfs tmpfs "$disk"; mkdir "$disk/lower" "$disk/upper" "$disk/work"
            mount -t fuse.cowroot -o "lowerdir=$disk/lower,upperdir=$disk/upper,workdir=$disk/work,engine=$ENGINE" none "$POINT"
            for pid in $(pgrep -f "^@cowroot.* $POINT"); do
                renice -n 19 -p "$pid"; taskset --all-tasks --cpu-list --pid 0 "$pid"
            done
            umount "$POINT"; umount "$disk"
        done
    """
    namespace.run(f"ENGINE={engine}\n{script}")


def test_umount_that_fails_says_why_and_changes_nothing(namespace: Namespace) -> None:
    said = namespace.run("""
        mount -t fuse.cowroot -o "$OPTIONS" none "$POINT"
        cd "$POINT"; umount "$POINT" || echo "exit $?"; cat file
        cd /; umount -v "$POINT"; findmnt "$POINT" || echo gone
    """)
    assert "target is busy" in said
    assert said.startswith("exit 32\nbelow\ngone\n")


def test_lazy_umount_waits_for_nobody(namespace: Namespace) -> None:
    said = namespace.run("""
        mount -t fuse.cowroot -o "$OPTIONS" none "$POINT"
        exec 3< "$POINT/file"; umount -l "$POINT"; findmnt "$POINT" || cat <&3
    """)
    assert said == "below\n"


def test_a_mount_in_two_places_is_not_waited_for(namespace: Namespace) -> None:
    said = namespace.run("""
        mount -t fuse.cowroot -o "$OPTIONS" none "$POINT"
        mount --bind "$POINT" /mnt; umount "$POINT"; cat /mnt/file; umount /mnt
    """)
    assert said == "below\n"


def test_a_daemon_that_is_dead_is_unmounted_all_the_same(namespace: Namespace) -> None:
    said = namespace.run("""
        mount -t fuse.cowroot -o "$OPTIONS" none "$POINT"
        kill -9 $(pgrep -f "^@cowroot.* $POINT"); cat "$POINT/file" 2>/dev/null || echo dead
        umount "$POINT"; findmnt "$POINT" || echo gone
    """)
    assert said == "dead\ngone\n"


def test_users_unmount_what_they_have_mounted(namespace: Namespace) -> None:
    """umount(8) gives up its privileges before it runs a helper."""
    if run("setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", "import cowroot", check=False, cwd="/").returncode:
        pytest.skip(f"nobody may not run {sys.executable} with cowroot")
    said = namespace.run(f"""
        base=$(mktemp -d); mount -t tmpfs tmpfs "$base"; cd "$base"
        mkdir lower upper work point run; chown -R 65534:65534 .; cd /
        as_user() {{ setpriv --reuid=65534 --regid=65534 --clear-groups env XDG_RUNTIME_DIR="$base/run" "$@"; }}
        as_user {sys.executable} -m cowroot mount \\
            -o "lowerdir=$base/lower,upperdir=$base/upper,workdir=$base/work,userxattr,engine=direct" "$base/point"
        findmnt -n -o FSTYPE "$base/point"
        as_user umount "$base/point"; umount "$base"; rmdir "$base"
    """)
    assert said == "fuse.cowroot\n"
