"""Installing into a Debian with sysvinit: insserv puts the init scripts in order, and whatever becomes of that, it comes out again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cowroot.boot.sysvinit import is_order
from cowroot.install.installation import install
from cowroot.install.manifest import drift, read_manifest
from cowroot.install.removal import uninstall
from cowroot.install.target import Choice
from tests.t3_install.debian import make_debian, program
from tests.t3_install.fake import Link, Script, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="installing mounts an overlay, which needs root")

# As the real one: numbers follow from the scripts that there are, and links that lead nowhere are removed.
_INSSERV = """\
#!/bin/sh
rm -f /etc/rc0.d/K*
number=10
for name in extra sendsigs umountroot cowroot-umount halt; do
	[ -e "/etc/init.d/$name" ] || continue
	number=$((number + 1))
	ln -s "../init.d/$name" "/etc/rc0.d/K$number$name"
done
echo "$number" >/etc/init.d/.depend.stop
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_debian(
        tmp_path / "root",
        {
            "/usr/sbin/init": Script("#!/bin/sh\n"), "/etc/inittab": "", "/usr/sbin/insserv": Script(_INSSERV),
            **program("/usr/bin/ln"), **program("/usr/bin/rm"),
            **{f"/etc/init.d/{name}": Script("#!/bin/sh\n") for name in ("sendsigs", "umountroot", "halt")},
            **{f"/etc/rc0.d/K{11 + n}{name}": Link(f"../init.d/{name}") for n, name in enumerate(("sendsigs", "umountroot", "halt"))},
            "/etc/init.d/.depend.stop": "13\n",
        },
        without=("/usr/sbin/init", "/usr/lib/systemd"),
    )  # fmt: skip


def order(root: Path) -> list[str]:
    return sorted(os.listdir(root / "etc/rc0.d"))


def put_in(root: Path) -> str:
    return install(Choice(root=root), None, lambda _: None).done


def insserv(root: Path) -> None:
    """Somebody installs a package with an init script."""
    (root / "etc/init.d/extra").touch()
    os.system(f"chroot {root} /bin/sh /usr/sbin/insserv")


def test_the_scripts_are_put_in_order_and_taken_out_again(root: Path) -> None:
    before = snapshot(root)
    put_in(root)
    assert order(root) == ["K11sendsigs", "K12umountroot", "K13cowroot-umount", "K14halt"]
    assert put_in(root) == "unchanged"
    uninstall(Choice(root=root), lambda _: None)
    assert snapshot(root) == before


@pytest.mark.parametrize("again", [False, True])
def test_an_order_that_has_changed_since_is_made_anew(root: Path, again: bool) -> None:
    put_in(root)
    insserv(root)
    manifest = read_manifest(root)
    assert manifest
    changed = drift(root, manifest)
    assert changed
    assert all(is_order(each.path) for each in changed)
    if again:
        (root / "etc/cowroot/cowroot.yaml").write_text("engine: fusepy\n")
        assert put_in(root) == "installed"
    else:
        assert put_in(root) == "unchanged", "that is no reason to make initrds"
    uninstall(Choice(root=root), lambda _: None)
    assert order(root) == ["K11extra", "K12sendsigs", "K13umountroot", "K14halt"]
    assert not (root / "etc/init.d/cowroot").exists()
