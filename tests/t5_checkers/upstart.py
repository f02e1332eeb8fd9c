"""A stand-in for an Ubuntu that boots with Upstart: a disk with a small root file system, and a process 1 that does what Upstart would.

It starts where the initramfs ends: with the disk mounted read-only at /, in mount and PID namespaces that end with it. Process 1 runs the
rendered jobs as Upstart does (pre-start processes and tasks before mountall, which starts or not as they end), or is a real Upstart. What
runs there is the very script that an installation puts there, with real mounts and the real daemon. Root only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowroot.boot.rendered import RenderedFile
from cowroot.boot.target import Target
from cowroot.boot.upstart import render_upstart
from cowroot.config import Config
from cowroot.install.runtime import RUNTIME, host, runtime
from tests.t2_render.test_upstart import MOUNTALL_CONF
from tests.t5_checkers.initramfs import FSTAB, attach, copy_program, detach, make_file_system

REAL = {name: os.environ.get(f"COWROOT_UPSTART_{name.upper()}", "") for name in ("init", "initctl")}
"""Programs of a real Upstart on this machine, if the environment names them."""

PROGRAMS = (
    "blkid", "blockdev", "cat", "chroot", "cp", "dash", "e2fsck", "grep", "ln", "ls", "mkdir", "mount", "mv", "pivot_root", "readlink",
    "rm", "rmdir", "sed", "sleep", "stat", "sync", "umount",
)  # fmt: skip
TIMEOUT = 60  # seconds until a boot that says nothing more is given up

# The harness: from a device to a process 1 whose root it is.
_START = """
set -e
device=$1 place=$2 cmdline=$3 console=$4 omitted=$5
shift 5
mount -o ro "$device" "$place"
cd "$place"
mount -t proc proc proc
mount --bind "$cmdline" proc/cmdline
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=0755 tmpfs dev
for node in null zero full random urandom fuse "${device#/dev/}" $1; do
	[ "$node" = "$omitted" ] || cp -a "/dev/$node" "dev/$node"
done
shift
: >dev/console
mount --bind "$console" dev/console
[ ! -d run ] || mount -t tmpfs -o nosuid,noexec,mode=0755 tmpfs run
pivot_root . mnt
cd /
umount -l /mnt
exec chroot . "$@" </dev/null >/dev/console 2>&1
"""

# What Upstart does with the jobs, as far as they are about mountall.
_INIT = """\
#!/bin/sh
[ $$ = 1 ] || exit 1
exec >>/dev/console 2>&1
before=$(sed -n 's/^pre-start exec //p' /etc/init/mountall.conf /etc/init/mountall.override 2>/dev/null)
job=
stanzas=$(cat /etc/init/cowroot.conf 2>/dev/null)
case $stanzas in
*"
start on starting mountall
"*"
task
"*) job=$(sed -n 's/^exec //p' /etc/init/cowroot.conf) ;;
esac
for start in first second; do
	if [ -n "$job" ]; then
		$job || echo "#### init: the job cowroot failed"
	fi
	if [ -z "$before" ] || $before; then
		rm -f /dev/mounted
		/sbin/mountall
		until [ -e /dev/mounted ]; do sleep 0.1; done
	else
		echo "#### init: mountall is not started"
	fi
done
/sbin/look
"""

# A daemon as the job expects one: it forks twice.
_MOUNTALL = """\
#!/bin/sh
( (
	read -r line </etc/fstab
	echo "#### mountall: starts with $line" >/dev/console
	echo "mountall was here" 2>/dev/null >/etc/mountall.log
	: >/dev/mounted
) & ) &
"""

_INITCTL = """\
#!/bin/sh
echo "#### initctl: $*"
"""

_SULOGIN = """\
#!/bin/sh
echo "#### sulogin"
"""

# What a program started by process 1 sees.
_LOOK = """\
#!/bin/sh
{
	echo '#### boot.json'
	cat /run/cowroot/boot.json /dev/.cowroot/cowroot/boot.json 2>/dev/null
	echo '#### mounts'
	cat /proc/self/mounts
	echo '#### fstab'
	cat /etc/fstab
	echo '#### upper'
	ls /run/cowroot/upper/upper/etc
	echo '#### top'
	ls -a /
	echo '#### omit'
	cat /run/sendsigs.omit.d/cowroot
	grep -l --text '^@cowroot' /proc/[0-9]*/cmdline
	echo '#### shutdown'
	RUNLEVEL=0 /etc/init.d/cowroot stop
	cat /run/cowroot/stages
	mount -n -o remount,ro none /
	/etc/init.d/cowroot-umount stop
	cat /proc/self/mounts
	echo '#### end'
} 2>&1
"""


# What a real Upstart needs besides, to do the same.
_REAL = {
    "/etc/default/rcS": "",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "/etc/group": "root:x:0:\n",
    "/etc/init/after.conf": "start on stopped mountall\ntask\nconsole output\nexec /sbin/look\n",
    # A job that is only in the union is found there when Upstart is told to look.
    "/sbin/look": _LOOK.replace(
        "{\n",
        "echo 'exec sleep 60' >/etc/init/late.conf\n"
        "initctl reload-configuration\n"
        "initctl start late | sed 's/^/#### initctl: /; s/, process .*//'\n{\n",
        1,
    ),
}


@dataclass
class Booted:
    """What there was to see. console: all of it; sections: what the last program saw, by name; mounts: place -> (type, options)."""

    console: str
    sections: dict[str, str]

    @property
    def boot(self) -> dict[str, Any]:
        """The record of the boot; empty if none was written."""
        record: dict[str, Any] = json.loads(self.sections["boot.json"] or "{}")
        return record

    @property
    def mounts(self) -> dict[str, tuple[str, list[str]]]:
        return _mounts(self.sections["mounts"])

    @property
    def left(self) -> dict[str, tuple[str, list[str]]]:
        """As mounts, when the shutdown's last scripts have run."""
        return _mounts(self.sections["shutdown"])

    @property
    def steps(self) -> list[str]:
        """What process 1 and those whom it started said, in order."""
        return re.findall(r"^#### ((?:init|initctl|mountall|sulogin)\b.*)", self.console, re.MULTILINE)


def _mounts(table: str) -> dict[str, tuple[str, list[str]]]:
    lines = (line.split() for line in table.splitlines())
    return {fields[1]: (fields[2], fields[3].split(",")) for fields in lines if len(fields) == 6}


@dataclass
class Machine:
    """One machine; several boots of it are independent of each other."""

    place: Path
    disk: Path

    def boot(self, cmdline: str = "", *, without: str = "none", device: str = "", init: tuple[str, ...] = ("/sbin/init",)) -> Booted:
        """Boot it to the end of what process 1 does. `without` names a device node that is missing, `device` a further one."""
        words, root = self.place / "cmdline", self.place / "mnt"
        words.write_text(f"root=LABEL=root ro {cmdline}\n")
        root.mkdir(exist_ok=True)
        node = attach(self.disk)
        listening, console = os.openpty()
        command = [
            # A network of its own: Upstart's socket is an abstract one.
            "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private",
            "sh", "-c", _START, "sh", node, str(root), str(words), os.ttyname(console), without, device, *init,
        ]  # fmt: skip
        try:
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console) as process:
                text = _listen(process, listening)
                process.kill()
        finally:
            os.close(listening)
            os.close(console)
            detach(node)
        assert "#### end" in text, f"the machine broke:\n{text}"
        parts = re.split(r"^#### (boot\.json|mounts|fstab|upper|top|omit|shutdown|end)\n", text, flags=re.MULTILINE)
        return Booted(text, dict(zip(parts[1::2], parts[2::2])))

    def sha256(self) -> str:
        return hashlib.sha256(self.disk.read_bytes()).hexdigest()


def _listen(process: subprocess.Popen[bytes], console: int) -> str:
    """Return what is said on a console until the last line, or until process 1 has ended, which takes all others with it."""
    said, deadline = b"", time.monotonic() + TIMEOUT
    while b"#### end\n" not in said and time.monotonic() < deadline:
        ready, _, _ = select.select([console], [], [], 0.2)
        if ready:
            said += os.read(console, 65536).replace(b"\r", b"")  # Upstart sets the console to what a terminal wants
        elif process.poll() is not None:
            break
    return said.decode(errors="replace")


def build_machine(
    place: Path, config: Config, *, upstart: str, changes: dict[str, str | None] | None = None, real: bool = False
) -> Machine:
    """Make a machine below `place` with this version of Upstart, or with the `real` one that the environment names.

    `changes` are files to write over the rest, or to leave out (None).
    """
    tree = place / "tree"
    for name in ("bin", "sbin", "lib", "dev", "proc", "run", "sys", "mnt", "tmp", "etc/init", "usr/bin", "usr/sbin", "var/run"):
        (tree / name).mkdir(parents=True)
    for name in PROGRAMS:
        program = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
        assert program, f"{name} is missing: `make setup` installs it"
        copy_program(tree, Path(program), tree / "sbin" / name)
    if real:
        changes = {**_REAL, "/sbin/init": None, "/sbin/initctl": None, **(changes or {})}
    (tree / "bin/sh").symlink_to("../sbin/dash")
    target = Target(
        init="upstart",
        upstart=upstart,
        mountall_conf=MOUNTALL_CONF,
        runtime=RUNTIME,
        python=host().python,
        libfuse=host().libfuse_in_runtime,
    )
    rendered = {each.path: each.content for each in render_upstart(config, target) if isinstance(each, RenderedFile)}
    files: dict[str, bytes | None] = {
        "/etc/fstab": FSTAB.encode(),
        "/etc/init/mountall.conf": MOUNTALL_CONF.encode(),
        "/sbin/init": _INIT.encode(),
        "/sbin/initctl": _INITCTL.encode(),
        "/sbin/look": _LOOK.encode(),
        "/sbin/modprobe": b"#!/bin/sh\n",
        "/sbin/mountall": _MOUNTALL.encode(),
        "/sbin/sulogin": _SULOGIN.encode(),
        **rendered,
        **{file.path: file.content for file in runtime() if file.path.startswith(RUNTIME)},
        **{path: None if text is None else text.encode() for path, text in (changes or {}).items()},
    }
    for path, content in files.items():
        goal = tree / path.lstrip("/")
        if content is None:
            shutil.rmtree(goal) if goal.is_dir() else goal.unlink(missing_ok=True)
            continue
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_bytes(content)
        goal.chmod(0o755)
    if real:
        for name, program in REAL.items():
            if program:
                copy_program(tree, Path(program), tree / "sbin" / name)
    disk = place / "disk.img"
    make_file_system(disk, 96, "root", tree)
    shutil.rmtree(tree)
    return Machine(place, disk)
