"""cowroot.yaml: what it takes, and what it says about all the rest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cowroot.config import SECTIONS, SETTINGS, Config, TmpfsSize, setting_of
from cowroot.errors import ConfigError

DEVICES = "write tmpfs, UUID=…, LABEL=…, PARTUUID=… or /dev/…, or a file on one of them: LABEL=…:/path"
TOP_LEVEL = (
    "the settings here are black_box, enabled, engine, full, grub, lock_memory, low_latency, lowers, mounts, on_failure, upper, "
    "upstart"
)

EVERYTHING = """\
enabled: no
engine: overlayfs
low_latency: false
lock_memory: true
black_box: label=log
upper:
  device: LABEL=my changes
  size: 512m
  inodes: 100000
  reserve: 2%
  fstype: ext4
  directory: appliance/one
  wait: 0
  create: yes
  random_key: on
  read_only: yes
  reset: on
on_failure:
  - tmpfs
  - shell
lowers: [/opt/app.squashfs, "LABEL=apps:/all/base.erofs"]
mounts:
  /srv: union
  LABEL=data: read-only
full:
  warning: 50
  critical: 60%
grub:
  recordfail: off
  timeout: 5
  off_entry: false
upstart:
  form: job
"""


def test_everything_can_be_set() -> None:
    config = Config.parse(EVERYTHING, "c.yaml")
    values = {setting.key: config.value(setting.key) for setting in SETTINGS}
    assert values == {
        "enabled": False,
        "engine": "overlayfs",
        "low_latency": False,
        "lock_memory": True,
        "black_box": "LABEL=log",
        "upper.device": "LABEL=my changes",
        "upper.size": TmpfsSize(512, "M"),
        "upper.inodes": "100000",
        "upper.reserve": TmpfsSize(2, "%"),
        "upper.fstype": "ext4",
        "upper.directory": "appliance/one",
        "upper.wait": 0,
        "upper.create": True,
        "upper.random_key": True,
        "upper.read_only": True,
        "upper.reset": True,
        "on_failure": ("tmpfs", "shell"),
        "lowers": ("/opt/app.squashfs", "LABEL=apps:/all/base.erofs"),
        "mounts": ("/srv:union", "LABEL=data:read-only"),
        "full.warning": 50,
        "full.critical": 60,
        "grub.recordfail": False,
        "grub.timeout": 5,
        "grub.off_entry": False,
        "upstart.form": "job",
    }
    assert config.source("enabled") == "c.yaml:1"
    assert config.source("upper.wait") == "c.yaml:13"
    assert config.source("on_failure") == "c.yaml:18"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "{}", "null", "upper:\n", "upper: {}\ngrub:\n", "\ufeff"])
def test_what_is_not_there_has_its_default(text: str) -> None:
    config = Config.parse(text, "c.yaml")
    assert config == Config.default()
    assert {config.source(setting.key) for setting in SETTINGS} == {"default"}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("enabled: off", "enabled", False),
        ("engine: 'fusepy'", "engine", "fusepy"),
        ("upper: {size: 100%}", "upper.size", TmpfsSize(100, "%")),
        ("upper: {size: 1048576}", "upper.size", TmpfsSize(1048576, "")),
        ("upper: {size: 2g}", "upper.size", TmpfsSize(2, "G")),
        ("upper: {device: uuid=0a1B-2c}", "upper.device", "UUID=0a1B-2c"),
        ("upper: {device: PARTUUID=0123-01}", "upper.device", "PARTUUID=0123-01"),
        ("upper: {device: /dev/disk/by-label/x}", "upper.device", "/dev/disk/by-label/x"),
        ("upper: {directory: 2024}", "upper.directory", "2024"),
        ("upper: {wait: 3600}", "upper.wait", 3600),
        ("on_failure: [shell]", "on_failure", ("shell",)),
        ("on_failure: [tmpfs, read-only]", "on_failure", ("tmpfs", "read-only")),
    ],
)
def test_good_value(text: str, key: str, value: object) -> None:
    assert Config.parse(text, "c.yaml").value(key) == value


BAD = [
    # What is no tree of known settings.
    ("- enabled", "c.yaml:1: is a list, not settings", "write `key: value` lines, such as `enabled: true`"),
    ("\nenabled", "c.yaml:2: is a single value, not settings", "write `key: value` lines, such as `enabled: true`"),
    ("a: 1", "c.yaml:1: unknown setting 'a'", TOP_LEVEL),
    ("\n\nupper:\n  sise: 1G", "c.yaml:4: unknown setting 'upper.sise'", "did you mean size?"),
    ("uper:\n  size: 1G", "c.yaml:1: unknown setting 'uper'", "did you mean upper?"),
    ("size: 1G", "c.yaml:1: unknown setting 'size'", "did you mean size below `upper:`?"),
    ("upper.size: 1G", "c.yaml:1: unknown setting 'upper.size'", "did you mean size below `upper:`?"),
    ("upper:\n  engine: auto", "c.yaml:2: unknown setting 'upper.engine'", "did you mean engine at the top level, not indented?"),
    (
        "grub:\n  xyz: 1",
        "c.yaml:2: unknown setting 'grub.xyz'",
        "the settings here are off_entry, recordfail, timeout",
    ),
    ("<<: {enabled: true}", "c.yaml:1: unknown setting '<<'", TOP_LEVEL),
    ("? [a]\n: b", "c.yaml:1: a list or a section stands where the name of a setting should", "write `key: value`"),
    (
        "engine: auto\nenabled: true\nengine: auto",
        "c.yaml:3: engine stands here for the second time, first on line 1",
        "remove one of the two; neither wins",
    ),
    (
        "upper: {}\nupper: {}",
        "c.yaml:2: upper stands here for the second time, first on line 1",
        "remove one of the two; neither wins",
    ),
    (
        "grub: true",
        "c.yaml:1: grub is 'true', not a section",
        "below `grub:`, indented, write any of off_entry, recordfail, timeout",
    ),
    ("engine: auto\n---\nengine: auto", "c.yaml:2: column 1: but found another document", "`cowroot config default` shows the form"),
    ("enabled: true\n\tengine: auto", "c.yaml:2: column 1: found character '\\t' that cannot start any token", "indent with spaces"),
    ("engine: auto\n# \x01", "c.yaml:2: character U+0001 may not stand in YAML", "remove it"),
    (
        "engine: !!python/object/apply:os.system [id]",
        "c.yaml:1: the tag 'tag:yaml.org,2002:python/object/apply:os.system' means nothing here",
        "remove it",
    ),
    # Editors do not break a line at U+2028; YAML does.
    ("# a\u2028# b\nengine: x", "c.yaml:2: engine is 'x'", "it can be one of auto, fusepy, direct, overlayfs"),
    # Wrong types.
    ("engine:", "c.yaml:1: engine has no value", "write one after the colon, or remove the line to have the default"),
    ("enabled: 'true'", "c.yaml:1: enabled is 'true', not true or false", "write true without quotes"),
    ("enabled: 1", "c.yaml:1: enabled is '1', not true or false", "write true or false"),
    ("enabled: [true]", "c.yaml:1: enabled is a list, not true or false", "write true or false"),
    (
        "engine: {a: b}",
        "c.yaml:1: engine is a section, not one of auto, fusepy, direct, overlayfs",
        "write one of auto, fusepy, direct, overlayfs",
    ),
    ("on_failure: shell", "c.yaml:1: on_failure is 'shell', not a list", "write [shell]"),
    (
        "on_failure: true",
        "c.yaml:1: on_failure is 'true', not a list",
        "write a list of one or more of tmpfs, read-only, shell, in this order",
    ),
    ("on_failure:\n  - shell\n  - [a]", "c.yaml:3: on_failure holds something that is not a word", "write a plain list: [one, two]"),
    (
        "upper:\n  wait: 30s",
        "c.yaml:2: upper.wait is '30s', not a number of seconds",
        "write a number of seconds from 0 to 3600, without a unit",
    ),
    (
        "upper:\n  wait: 1:30",
        "c.yaml:2: upper.wait is '1:30', not a number of seconds",
        "write a number of seconds from 0 to 3600, without a unit",
    ),
    # Impossible values.
    ("engine: fuse", "c.yaml:1: engine is 'fuse'", "it can be one of auto, fusepy, direct, overlayfs"),
    ("upper: {wait: 4000}", "c.yaml:1: upper.wait is 4000 seconds, more than an hour", "write a number of seconds from 0 to 3600"),
    (
        "grub: {timeout: -1}",
        "c.yaml:1: grub.timeout is '-1', and negative would mean to wait for ever",
        "write a number of seconds from 0 to 3600; nobody is there to end the wait",
    ),
    ("upper: {size: 512}", "c.yaml:1: upper.size is '512', less than 1M, too small to boot with", "did you mean 512M?"),
    (
        "upper: {size: 0}",
        "c.yaml:1: upper.size is '0', less than 1M, too small to boot with",
        (
            "tmpfs takes 0 as no limit, and then a full upper ends the machine; "
            "write a percentage of the memory (50%) or a size such as 512M or 2G"
        ),
    ),
    ("upper: {size: 0%}", "c.yaml:1: upper.size is '0%', which no memory has", "write a percentage from 1% to 100%"),
    ("upper: {size: 512MB}", "c.yaml:1: upper.size is '512MB', not a size", "write 512M; K, M and G are powers of 1024"),
    (
        "upper: {size: 1.5G}",
        "c.yaml:1: upper.size is '1.5G', not a size",
        "write a percentage of the memory (50%) or a size such as 512M or 2G, in whole numbers",
    ),
    ("upper: {device: vda1}", "c.yaml:1: upper.device is 'vda1', which is no device", DEVICES),
    (
        "upper: {device: /dev/../etc/passwd}",
        "c.yaml:1: upper.device is '/dev/../etc/passwd', which is no device",
        DEVICES,
    ),
    (
        "upper: {device: UUID=}",
        "c.yaml:1: upper.device is 'UUID=', which names no file system",
        "`blkid` lists the UUID and LABEL of each partition",
    ),
    (
        "upper: {fstype: vfat}",
        "c.yaml:1: upper.fstype is vfat, which cannot hold an upper",
        "take one with owners and extended attributes: ext4, xfs, btrfs",
    ),
    (
        "upper: {fstype: EXT 4}",
        "c.yaml:1: upper.fstype is 'EXT 4', not the type of a file system",
        "write auto or the type of a file system, such as ext4",
    ),
    (
        "upper: {directory: /var/x}",
        "c.yaml:1: upper.directory is '/var/x', an absolute path",
        "write 'var/x': it starts at the top of the device",
    ),
    (
        "upper: {directory: ../x}",
        "c.yaml:1: upper.directory is '../x', not a directory on the device",
        "write names of letters, digits and . _ + @ - with slashes between",
    ),
    ("on_failure: []", "c.yaml:1: on_failure is empty: a boot that fails would have nowhere to go", "name at least shell"),
    (
        "on_failure: [panic]",
        "c.yaml:1: on_failure holds 'panic'",
        "write a list of one or more of tmpfs, read-only, shell, in this order",
    ),
    ("on_failure: [shell, tmpfs]", "c.yaml:1: on_failure is in the wrong order", "the order is fixed: [tmpfs, shell]"),
    (
        "upper:\n  inodes: 0",
        "c.yaml:2: upper.inodes is '0', not a number of files",
        "tmpfs takes 0 as no limit, and files take memory; write auto, or a number from 4096 on",
    ),
    ("upper:\n  inodes: 100", "c.yaml:2: upper.inodes is 100, too few to boot with", "write auto, or a number from 4096 on"),
    (
        "upper: {device: LABEL=data:/../x}",
        "c.yaml:1: upper.device is 'LABEL=data:/../x', with no path of a file after the colon",
        "in its names letters, digits and . _ @ + -",
    ),
    ("lowers: /a", "c.yaml:1: lowers is '/a', not a list", "write [/a]"),
    (
        "lowers: [app.squashfs]",
        "c.yaml:1: lowers holds 'app.squashfs', which names no layer",
        "write /path, LABEL=…, LABEL=…:/path; in names letters, digits and . _ @ + = -",
    ),
    ("lowers: [/a, /b, /a]", "c.yaml:1: lowers holds '/a' twice", "remove one of the two"),
    (
        "mounts: [/srv]",
        "c.yaml:1: mounts is a list, not a section of rules",
        "below it, indented, write lines such as `/srv: read-only`",
    ),
    ("\nmounts: {/srv: ro}", "c.yaml:2: mounts has the policy 'ro' for '/srv'", "the policies are pass, read-only, union, absent"),
    (
        "mounts: {/: union}",
        "c.yaml:1: mounts has a rule for /",
        "what / is, the other settings say; here are the file systems besides it",
    ),
    (
        "mounts: {my data: union}",
        "c.yaml:1: mounts has a rule for 'my data', which no line of fstab can match",
        "write a mount point, LABEL=…, UUID=…, PARTUUID=…, PARTLABEL=…, /dev/… or type=…",
    ),
    ("mounts: {/a: union, /a: pass}", "c.yaml:1: mounts has two rules for '/a'", "remove one of the two"),
    ("mounts:\n  /a: union\n  /b:\n", "c.yaml:3: mounts holds something that is not a pair of words", "write `one: two`"),
    ("mounts:\n  /a: [union]", "c.yaml:2: mounts holds something that is not a pair of words", "write `one: two`"),
    ("on_failure: [shell, shell]", "c.yaml:1: on_failure names a rung twice", "the order is fixed: [shell]"),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD)
def test_bad_text_is_told_with_its_line_and_a_hint(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.parse(text, "c.yaml")
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (message, hint, 2)


def test_deep_nesting_and_an_alias_bomb_end_in_an_error_too() -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        Config.parse("[" * 100_000, "c.yaml")
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghi", "bcdefghij")) + "on_failure: *j\n"
    with pytest.raises(ConfigError, match=r"unknown setting 'a'"):
        Config.parse(bomb, "c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml:1: on_failure holds something that is not a word"):
        Config.parse("on_failure: &a [*a, *a]", "c.yaml")


@given(st.text() | st.text("enabldgiupr:.\n -[]{}%&*!'\"#012\t<|>", max_size=60))
@example("\x00")
@example("? ")
@example("!<")
@example("%YAML 9.9\n---\n")
@example("%TAG ! a\n")
@example("--- !!set {}")
@example("enabled: !!bool")
@example("&a")
@example("*a")
def test_any_text_parses_or_is_a_config_error(text: str) -> None:
    try:
        config = Config.parse(text, "c.yaml")
    except ConfigError as error:
        assert error.message.startswith("c.yaml:")
        assert error.hint
        assert "\n" not in error.message
    else:
        assert Config.parse(config.to_yaml(), "again") == config


_VALUES = {
    "enabled": st.booleans(),
    "engine": st.sampled_from(setting_of("engine").choices),
    "upper.device": st.sampled_from(["tmpfs", "UUID=0a-1b", "/dev/vda1", "/dev/disk/by-id/a: b # c"])
    | st.text(min_size=1).filter(str.isprintable).map(lambda name: f"LABEL={name}"),
    "upper.size": st.builds(TmpfsSize, st.integers(1, 100), st.sampled_from("%MG")),
    "upper.fstype": st.sampled_from(["auto", "ext4", "null", "no"]),
    "upper.directory": st.sampled_from(["cowroot", "a/b", "null", "no", "1", "1e3", "@", "-", "a-b", "+1"]),
    "upper.wait": st.integers(0, 3600),
    "on_failure": st.sets(st.sampled_from(setting_of("on_failure").choices), min_size=1).map(
        lambda rungs: tuple(rung for rung in setting_of("on_failure").choices if rung in rungs)
    ),
    "grub.recordfail": st.booleans(),
    "grub.timeout": st.integers(0, 3600),
    "grub.off_entry": st.booleans(),
    "upstart.form": st.sampled_from(setting_of("upstart.form").choices),
}
configs = st.fixed_dictionaries(_VALUES).map(lambda values: Config.default().with_values(values, {}))


@given(configs)
def test_what_is_written_reads_back_equal(config: Config) -> None:
    assert Config.parse(config.to_yaml(), "c.yaml") == config


def test_the_written_file_explains_each_setting() -> None:
    text = " ".join(Config.default().to_yaml().replace("\n", " ").replace("#", " ").split())
    for setting in SETTINGS:
        assert " ".join(setting.doc.split()) in text
    for section in SECTIONS:
        assert " ".join(section.doc.split()) in text


@given(configs.filter(lambda config: "\0" not in config.upper.device))
def test_a_shell_that_sources_the_shell_form_has_the_values(config: Config) -> None:
    settings = [setting for setting in SETTINGS if setting.parameter]
    script = config.to_shell() + "".join(f"printf '%s\\0' \"${setting.variable}\"\n" for setting in settings)
    run = subprocess.run(["/bin/sh", "-eu"], input=script.encode(), stdout=subprocess.PIPE, check=True, timeout=60)
    words = run.stdout.decode().split("\0")[:-1]
    assert words == [
        setting.kind.write(config.value(setting.key)).replace(",", " " if isinstance(setting.default, tuple) else ",")
        for setting in settings
    ]


def test_the_shell_form_names_what_the_boot_script_reads() -> None:
    assert Config.default().to_shell().splitlines() == [
        "COWROOT_ENABLED=true",
        "COWROOT_ENGINE='auto'",
        "COWROOT_LOW_LATENCY=true",
        "COWROOT_LOCK_MEMORY=false",
        "COWROOT_BLACK_BOX='none'",
        "COWROOT_UPPER_DEVICE='tmpfs'",
        "COWROOT_UPPER_SIZE='50%'",
        "COWROOT_UPPER_INODES='auto'",
        "COWROOT_UPPER_RESERVE='16M'",
        "COWROOT_UPPER_FSTYPE='auto'",
        "COWROOT_UPPER_DIRECTORY='cowroot'",
        "COWROOT_UPPER_WAIT=30",
        "COWROOT_UPPER_CREATE=false",
        "COWROOT_UPPER_RANDOM_KEY=false",
        "COWROOT_UPPER_READ_ONLY=false",
        "COWROOT_UPPER_RESET=false",
        "COWROOT_ON_FAILURE='tmpfs read-only shell'",
        "COWROOT_LOWERS=''",
        "COWROOT_MOUNTS=''",
    ]


def test_a_file_that_cannot_be_settings(tmp_path: Path) -> None:
    file = tmp_path / "cowroot.yaml"
    with pytest.raises(ConfigError, match="no such file") as caught:
        Config.load(file)
    assert caught.value.hint == f"`cowroot config default > {file}` writes one to begin with"
    with pytest.raises(ConfigError, match="is a directory, not a settings file"):
        Config.load(tmp_path)
    file.write_bytes(b"# caf\xc3\xa9\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"cowroot.yaml:2: byte 0xe9 is not UTF-8"):
        Config.load(file)
    with pytest.raises(ConfigError, match=r"is larger than 256 KiB"):
        Config.load(Path("/dev/zero"))
    with pytest.raises(ConfigError, match=r"cannot be read: Not a directory"):
        Config.load(file / "x")
    file.write_bytes(b"")
    assert Config.load(file) == Config.default()


def test_an_unreadable_file() -> None:
    # Root reads what nobody may; this file of the kernel refuses root as well.
    with pytest.raises(ConfigError, match=r"/proc/self/mem: cannot be read: Input/output error"):
        Config.load(Path("/proc/self/mem"))


def test_a_tmpfs_size_in_bytes() -> None:
    assert TmpfsSize(50, "%").in_bytes(1001) == 500
    assert TmpfsSize(3, "K").in_bytes(1) == 3072
    assert TmpfsSize(7, "").in_bytes(1) == 7
    assert str(TmpfsSize(512, "M")) == "512M"
