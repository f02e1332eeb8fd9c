"""A machine that Ansible and Puppet manage: a fake root file system, and a command `cowroot` that works on it and not on this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.t3_install.debian import make_debian

CHECKOUT = Path(__file__).resolve().parents[2]
ROLES, MODULES = CHECKOUT / "provisioning/ansible", CHECKOUT / "provisioning/puppet"

_FSTAB = "LABEL=fake / ext4 ro 0 1\nLABEL=srv /srv ext4 ro 0 2\nLABEL=home /home ext4 defaults 0 2\n"
# While there is a file `union`, / is one, as far as anybody is told.
_COMMAND = """\
#!/bin/sh
export PYTHONPATH={checkout} TMPDIR={place}
verb=$1
shift
case $verb in
status)
	[ ! -e {place}/union ] || {{ echo '{{"verdict": "ok", "installed": "0.1.0", "problems": []}}'; exit 0; }}
	exec {python} -c 'from pathlib import Path; from cowroot.status import status_of_system
print(status_of_system(Path("{root}")).to_json())'
	;;
chroot)
	echo "$*" >>{place}/chroot.log
	exec "$@"
	;;
esac
exec {python} -m cowroot "$verb" --root {root} "$@"
"""


class Machine:
    """The machine, with `root` as its root file system."""

    def __init__(self, place: Path) -> None:
        self.place, self.root = place, make_debian(place / "root", {"/etc/fstab": _FSTAB})
        (place / "bin").mkdir()
        self.command = place / "bin/cowroot"
        self.command.write_text(_COMMAND.format(checkout=CHECKOUT, place=place, python=sys.executable, root=self.root))
        self.command.chmod(0o755)
        (self.root / "proc/self").mkdir()
        (self.root / "proc/self/mountinfo").write_text("25 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n")
        (self.root / "proc/cmdline").write_text("root=LABEL=fake\n")

    @property
    def settings(self) -> Path:
        return self.root / "etc/cowroot/cowroot.yaml"

    def become_union(self) -> None:
        (self.place / "union").touch()

    def leave_union(self) -> None:
        (self.place / "union").unlink()

    def chrooted(self) -> str:
        """What was run by `cowroot chroot`."""
        log = self.place / "chroot.log"
        return log.read_text() if log.exists() else ""

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.place}/bin:{os.environ['PATH']}", "HOME": str(self.place), "LC_ALL": "C.UTF-8"}

    def ansible(self, *options: str, **variables: Any) -> tuple[int, int, str]:
        """Run the role with these variables; returns how many tasks changed something, how many failed, and all that was said."""
        playbook = self.place / "playbook.yml"
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": [{"role": "cowroot"}]}
        playbook.write_text(json.dumps([play]))
        given = json.dumps({"cowroot_packages": [], **{f"cowroot_{name}": value for name, value in variables.items()}})
        settings = {"ANSIBLE_ROLES_PATH": str(ROLES), "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3", "ANSIBLE_PIPELINING": "1"}
        command = ["/usr/bin/ansible-playbook", "-i", "localhost,", "-e", given, *options, str(playbook)]
        run = _run(command, {**self._environment(), **settings})
        counts = re.search(r"^localhost .*changed=(\d+) .*failed=(\d+) ", run.stdout, re.MULTILINE)
        assert counts, run.stdout
        return int(counts[1]), int(counts[2]), run.stdout

    def puppet(self, parameters: str, *options: str) -> tuple[int, str]:
        """Apply the class; returns the exit code (0: no changes, 2: changes, 4: failures, 6: both) and all that was said."""
        command = ["/usr/bin/puppet", "apply", "--detailed-exitcodes", "--color=false", "--modulepath", str(MODULES), *options]
        command += ["-e", f"class {{ 'cowroot': packages => [], {parameters} }}"]
        run = _run(command, self._environment())
        return run.returncode, run.stdout


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=200
    )
