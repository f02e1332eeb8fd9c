"""The functions that the boot scripts share, in each shell that an initrd may have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cowroot.config import SETTINGS, Config, apply_parameters
from cowroot.config.mount_rules import rule_for
from cowroot.errors import ConfigError
from tests.t2_render.shells import SHELLS, Shell, make_shell

PARAMETERS = [setting for setting in SETTINGS if setting.parameter]
# Each setting as the shell holds it, a line each, and then the complaints.
SHOW = "read_settings \"$1\" \"$2\" >/dev/null\n" + "".join(f'printf "%s\\n" "${each.variable}"\n' for each in PARAMETERS)
SHOW += 'printf "%s" "$cowroot_reasons"'


@pytest.fixture(params=SHELLS, scope="module")
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    shell = make_shell(request.param)
    yield shell
    shutil.rmtree(shell.state)


def read_settings(shell: Shell, cmdline: str, conf: str | None = "") -> tuple[dict[str, str], list[str]]:
    """The settings in force by key, and the complaints."""
    conf_file, cmdline_file = shell.state / "conf", shell.state / "cmdline"
    conf_file.unlink(missing_ok=True)
    if conf is not None:
        conf_file.write_text(conf)
    cmdline_file.write_text(cmdline + "\n")
    lines = shell.output(SHOW, str(conf_file), str(cmdline_file)).split("\n")
    count = len(PARAMETERS)
    return dict(zip((each.key for each in PARAMETERS), lines[:count])), lines[count:-1]


def as_shell(config: Config) -> dict[str, str]:
    """A configuration as `read_settings` returns it."""
    shown = {}
    for setting in PARAMETERS:
        value = config.value(setting.key)
        if isinstance(value, bool):
            value = "true" if value else "false"
        shown[setting.key] = " ".join(value) if isinstance(value, tuple) else str(value)
    return shown


def test_without_parameters_the_file_holds_and_without_a_line_there_the_default(shell: Shell) -> None:
    found, complaints = read_settings(shell, "root=LABEL=x ro quiet", "COWROOT_ENGINE='fusepy'\n")
    assert found == {**as_shell(Config.default()), "engine": "fusepy"}
    assert complaints == []


def test_the_shell_form_is_what_the_script_reads(shell: Shell) -> None:
    config = Config.parse("upper:\n  device: LABEL=it's $HOME `here`\non_failure: [shell]\n", "test")
    found, complaints = read_settings(shell, "", config.to_shell())
    assert found == as_shell(config)
    assert complaints == []


def test_an_initrd_without_settings_is_complained_of(shell: Shell) -> None:
    found, complaints = read_settings(shell, "", None)
    assert found == as_shell(Config.default())
    assert complaints == [f"the initrd has no settings: {shell.state}/conf is missing"]


@pytest.mark.parametrize(
    ("cmdline", "complaint"),
    [
        ("cowroot=maybe", "kernel parameter cowroot cannot be 'maybe'"),
        ("cowroot.size=banana", "kernel parameter cowroot.size cannot be 'banana'"),
        ("cowroot.size=$(reboot)", "kernel parameter cowroot.size cannot be '$(reboot)'"),
        ("cowroot.wait=-1", "kernel parameter cowroot.wait cannot be '-1'"),
        ("cowroot.directory=../etc", "kernel parameter cowroot.directory cannot be '../etc'"),
        ("cowroot.on_failure=", "kernel parameter cowroot.on_failure cannot be ''"),
        ("cowroot.zise=1G", "kernel parameter cowroot.zise is unknown"),
        ("cowroot", "kernel parameter cowroot has no value"),
    ],
)
def test_a_bad_parameter_changes_nothing_and_is_complained_of(shell: Shell, cmdline: str, complaint: str) -> None:
    found, complaints = read_settings(shell, f"a=b {cmdline} quiet", "COWROOT_UPPER_SIZE='10%'\n")
    assert found == {**as_shell(Config.default()), "upper.size": "10%"}
    assert complaints == [complaint]


_VALUES = tuple(
    """
    on off ON Off yes no true False 1 0 maybe auto fusepy direct overlayfs fuse tmpfs UUID=1234-ABCD uuid=12-ff UUID=xyz UUID=
    LABEL= LABEL=data label=a=b PARTUUID=00-11 partuuid=zz /dev/sda1 /dev/ /dev /dev/a//b /dev/../x /dev/disk/by-label/x vda1 50% 0%
    100% 101% 5% 007% 1048576 1048575 1024K 1023k 1M 0M 2g 2T 1.5G 5MB 0 30 3600 3601 -1 030 99999 ext4 xfs vfat swap Ext4 4ext
    ext4! cowroot a/b /a a/ a//b a/../b .. . ... a/. x@+-_ tmpfs,read-only,shell tmpfs,shell read-only shell,tmpfs tmpfs,tmpfs
    tmpfs, ,shell none /srv:union /srv:ro /srv:pass,/srv:absent /a/:pass /a/b:pass,type=x:read-only LABEL=a:union,LABEL=:pass LABEL=a:b:pass
    /a.squashfs,/b LABEL=a:/b/c.img UUID=1-2 LABEL= LABEL=: LABEL=a: LABEL=a:b LABEL=a:/b: /dev/sda1:/x /dev/a:/../b /dev/sda1/ /dev/:/a
    /a:/b /a,/a /a, /./a /a/.. /dev UUID=xyz:/a PARTUUID=1:/
    LABEL=data:/a/b.img LABEL=:/a tmpfs:/a UUID=1-2:/x UUID=xy:/x /dev/sda1:/../x LABEL=a:/b/ /dev/a/:/x LABEL=a:/b:/c LABEL=a:/ü
    4096 4095 04096 999999999999 1000000000000
    /:union /.:pass /a/../b:pass //a:pass :pass /srv/:union /a\\040b:absent uuid=1:pass /srv:union, /srv:UNION /srv
    """.split()  # noqa: SIM905 - as a list it would fill a screen
)
# What may stand after a parameter's name: what each kind takes, nearly takes, and noise.
VALUES = st.one_of(
    st.sampled_from(_VALUES),
    st.text(st.sampled_from("abAB019%/=.,-_ \"'$`\\*[]!:;&|<>(){}#~äÖ€\t"), max_size=12),
)
_STRANGERS = ["cowroot.on-failure", "rd.cowroot.size", "rd.cowroot", "cowroot.zise", "cowrootx", "root", "xcowroot.size"]
NAMES = st.sampled_from([each.parameter for each in PARAMETERS] + _STRANGERS)
WORDS = st.one_of(
    st.tuples(NAMES, VALUES).map("=".join),
    st.tuples(NAMES, VALUES).map(lambda pair: f'{pair[0]}="{pair[1]}"'),
    NAMES,
    VALUES,
)


@hypothesis_settings(max_examples=150)
@given(words=st.lists(WORDS, max_size=5), blank=st.sampled_from([" ", "  ", "\t"]))
def test_the_shell_and_python_agree_about_kernel_parameters(shell: Shell, words: list[str], blank: str) -> None:
    cmdline = blank.join(words)
    found, complaints = read_settings(shell, cmdline)
    try:
        wanted = as_shell(apply_parameters(Config.default(), cmdline))
    except ConfigError as error:
        assert complaints, f"Python: {error.message}"
    else:
        assert complaints == []
        # tmpfs takes the units in either case; Python writes them large.
        assert {**found, "upper.size": found["upper.size"].upper()} == wanted


@hypothesis_settings(max_examples=100)
@given(text=st.text(st.characters(min_codepoint=1, max_codepoint=0x2FFF), max_size=40))
def test_any_text_becomes_a_json_string(shell: Shell, text: str) -> None:
    kept = "".join("?" if (character < " " and character != "\n") or character == "\x7f" else character for character in text)
    assert json.loads(shell.output('json_string "$1"', text)) == kept


def test_the_record_is_json_with_all_that_status_asks_for(shell: Shell) -> None:
    shell.output(
        """
        printf '%s\\n' 'cowroot.upper=LABEL="my disk" cowroot.wait=5' >"$cowroot_state/line"
        : >"$cowroot_state/conf"
        read_settings "$cowroot_state/conf" "$cowroot_state/line"
        complain 'it is "gone"' >/dev/null
        complain 'C:\\back' >/dev/null
        real_device=/dev/vda1 upper_device=tmpfs upper_directory=/run/cowroot/upper
        cowroot_mounts="union /srv$cowroot_newline"
        record tmpfs
        """
    )
    boot = json.loads((shell.state / "boot.json").read_text())
    assert boot.pop("seconds") > 0
    assert boot == {
        "version": 1,
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "rung": "tmpfs",
        "reasons": ['it is "gone"', "C:\\back"],
        "settings": {
            "enabled": True,
            "engine": "auto",
            "low_latency": True,
            "lock_memory": False,
            "black_box": "none",
            "upper.device": "LABEL=my disk",
            "upper.size": "50%",
            "upper.inodes": "auto",
            "upper.reserve": "16M",
            "upper.fstype": "auto",
            "upper.directory": "cowroot",
            "upper.wait": 5,
            "upper.create": False,
            "upper.random_key": False,
            "upper.read_only": False,
            "upper.reset": False,
            "on_failure": ["tmpfs", "read-only", "shell"],
            "lowers": [],
            "mounts": [],
        },
        "parameters": ["cowroot.upper=LABEL=my disk", "cowroot.wait=5"],
        "engine": "auto",
        "root_device": "/dev/vda1",
        "upper_device": "tmpfs",
        "upper_directory": "/run/cowroot/upper",
        "upper_reset": False,
        "saved_device": "",
        "mounts": ["union /srv"],
    }


def test_complaints_reach_the_journal_as_warnings(shell: Shell) -> None:
    (shell.state / "message").unlink(missing_ok=True)
    assert shell.output("say fine; complain bad") == "cowroot: fine\ncowroot: bad\n"
    assert (shell.state / "message").read_text() == "fine\n<4>bad\n"


FSTAB = b"""\
# <file system>\t<mount point>
LABEL=root  /  ext4  errors=remount-ro  0  1

  /dev/vda2\t/home\text4\tdefaults\t0\t2
UUID=1234 none swap sw 0 0
/dev/vda3 none swap sw 0 0
/swapfile none swap sw 0 0
proc /proc proc * 0 0
server:/srv\\040x /srv nfs \\ro 0 0
#LABEL=old / ext4 ro 0 1
tmpfs /tmp tmpfs nodev 0 0"""
MARKED = (b"LABEL=root  /  ext4", b"/swapfile none swap")


@pytest.mark.parametrize("ending", [b"", b"\n", b"\n\n"])
def test_the_unions_fstab_lacks_the_real_root_and_swap_files_and_nothing_else(shell: Shell, ending: bytes) -> None:
    original = FSTAB + ending
    done = shell.run("rewrite_fstab", stdin=original)
    assert done.returncode == 0
    lines = list(zip(original.split(b"\n"), done.stdout.split(b"\n")))
    for before, after in lines:
        if before.startswith(MARKED):
            assert after.startswith(b"#cowroot: ")
            assert after.endswith(before)
        else:
            assert after == before
    assert taken_back(done.stdout) == original
    # A second time it comes out the same.
    assert shell.run("rewrite_fstab", stdin=done.stdout).stdout == done.stdout


def taken_back(fstab: bytes) -> bytes:
    """What an fstab was before cowroot wrote it: without the marks, and without the lines that are cowroot's."""
    kept = (line for line in fstab.splitlines(keepends=True) if b",comment=cowroot " not in line or line.startswith(b"#"))
    text = b"".join(line.split(b": ", 2)[2] if line.startswith(b"#cowroot: ") else line for line in kept)
    return text if fstab.endswith(b"\n") else text.removesuffix(b"\n")


def rewritten(shell: Shell, rules: str, line: str, upper: str = "/up") -> str:
    """What becomes of a line of fstab; after it, what is to be complained of."""
    script = 'COWROOT_MOUNTS=$1 COWROOT_ENGINE=auto upper_directory=$2; rewrite_fstab; printf %s "$fstab_troubles"'
    return shell.output(script, rules, upper, stdin=line.encode()).replace(str(shell.state), "/state")


LINE = 'LABEL="my-data" /srv/ ext4 rw,nofail,noatime,errors=remount-ro,x-systemd.growfs 0 2'
READ_ONLY = 'LABEL="my-data" /srv ext4 ro,nofail,noatime,errors=remount-ro,comment=cowroot 0 0'
UNION = f"""\
#cowroot: union by the rule for /srv: {LINE}
LABEL="my-data" /state/mounts/srv ext4 ro,noauto,noatime,errors=remount-ro,comment=cowroot 0 0
LABEL="my-data" /srv fuse.cowroot lowerdir=/state/mounts/srv,upperdir=/up/mounts/srv/upper,workdir=/up/mounts/srv/work,create,engine=auto,\
nofail,noatime,x-systemd.requires-mounts-for=/state/mounts/srv,comment=cowroot 0 0"""


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ("", LINE),
        ("/srv:pass", LINE),
        ("/home:absent type=xfs:union LABEL=data:read-only", LINE),
        ("/srv:pass type=ext4:absent", LINE),
        ("type=ext4:absent /srv:pass", f"#cowroot: absent by the rule for type=ext4: {LINE}"),
        ("LABEL=my-data:read-only", f"#cowroot: read-only by the rule for LABEL=my-data: {LINE}\n{READ_ONLY}"),
        ("/srv:union", UNION),
    ],
)
def test_a_rule_decides_what_becomes_of_a_file_system(shell: Shell, rules: str, wanted: str) -> None:
    for ending in ("", "\n", "\n\n# more\nproc /proc proc nosuid 0 0\n"):
        found = rewritten(shell, rules, LINE + ending)
        assert found == wanted + ending
        # A kept fstab is taken back before the rules of today are followed.
        assert rewritten(shell, "", found) == LINE + ending
        assert taken_back(found.encode()).decode() == LINE + ending


@pytest.mark.parametrize(
    ("rules", "line", "wanted"),
    [
        ("", "UUID=1 /boot ext4 defaults 0 2", "#cowroot: read-only by the rule for /boot: {}\nUUID=1 /boot ext4 ro,comment=cowroot 0 0"),
        ("/boot:pass", "UUID=1 /boot ext4 defaults 0 2", "{}"),
        ("", "UUID=1 /boot/efi vfat ro,umask=077 0 1", "{}"),
        ("type=swap:absent", "/dev/vda2 none swap sw 0 0", "#cowroot: absent by the rule for type=swap: {}"),
        ("type=swap:union", "/dev/vda2 none swap sw 0 0", "{}"),
        ("/:union", "/dev/vda1 / ext4 defaults 0 1", "#cowroot: the real root, below the union: {}"),
        ("/a/b:union", "/dev/vdb /a/b xfs ro 0 0", "{}"),
    ],
)
def test_lines_that_are_special(shell: Shell, rules: str, line: str, wanted: str) -> None:
    assert rewritten(shell, rules, line) == wanted.format(line)


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("nas:/x /srv nfs defaults 0 0", "/srv is read-only instead of a union: nas:/x is no disk\n"),
        ("/dev/vdb /my\\040data ext4 defaults 0 0", "/my\\040data is read-only instead of a union: its name has more than"),
    ],
)
def test_what_cannot_be_a_union_is_read_only(shell: Shell, line: str, trouble: str) -> None:
    found = rewritten(shell, "type=nfs:union type=ext4:union", line)
    assert f"{line}\n{line.replace('defaults', 'ro,comment=cowroot')}{trouble}" in found


def test_without_an_upper_there_is_no_union(shell: Shell) -> None:
    assert rewritten(shell, "/srv:union", "/dev/vdb /srv ext4 defaults 0 2", upper="").endswith("/dev/vdb /srv ext4 ro,comment=cowroot 0 0")


@pytest.mark.parametrize("line", ["LABEL=a /srv ext4", "/dev/vdb /boot vfat", "UUID=1 none swap"])
@pytest.mark.parametrize("rules", ["", "/srv:union LABEL=a:absent", "type=vfat:pass", "/dev/vdb:absent type=swap:absent"])
def test_the_shell_and_python_choose_the_same_rule(shell: Shell, rules: str, line: str) -> None:
    script = 'COWROOT_MOUNTS=$1; ! find_rule "$2" "$3" "$4" || printf %s "$rule:$policy"'
    assert shell.output(script, rules, *line.split()) == rule_for(rules.split(), *line.split())


def test_a_rule_that_no_line_matches_is_complained_of(shell: Shell) -> None:
    script = "COWROOT_MOUNTS='/srv:union /home:absent type=xfs:absent'; rewrite_fstab >/dev/null; report_fstab"
    said = shell.output(script, stdin=b"/dev/vdb /srv ext4 ro 0 0\n")
    assert said == "cowroot: there is a rule for /home in mounts, but no such line in /etc/fstab\n"


def test_an_fstab_that_needs_no_change(shell: Shell) -> None:
    for text in (b"", b"proc /proc proc defaults 0 0\n", b"\n"):
        done = shell.run("rewrite_fstab", stdin=text)
        assert (done.returncode, done.stdout, done.stderr) == (1, text, b"")


def test_fields_are_not_taken_for_file_name_patterns(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    done = shell.run('cd "$1" && rewrite_fstab', str(tmp_path), stdin=b"* / ext4 * 0 1\n")
    assert done.stdout == b"#cowroot: the real root, below the union: * / ext4 * 0 1\n"


@pytest.mark.parametrize(
    ("settings", "rung", "wanted"),
    [("tmpfs read-only shell", "tmpfs", 0), ("read-only", "tmpfs", 1), ("read-only", "read-only", 0), ("shell", "read-only", 1)],
)
def test_the_ladder_has_the_rungs_that_are_allowed(shell: Shell, settings: str, rung: str, wanted: int) -> None:
    assert shell.run(f"COWROOT_ON_FAILURE='{settings}'; allowed {rung}").returncode == wanted
