"""The option string: what is understood, what is refused and how."""

from __future__ import annotations

import os

import pytest

from cowroot.cli.mount import mount_helper
from cowroot.errors import ConfigError
from cowroot.fuse.options import MS_NODEV, MS_NOSUID, MS_RDONLY, MountOptions, split, unescape

LAYERS = "lowerdir=/l,upperdir=/u,workdir=/w"


def test_layers_and_escapes() -> None:
    options = MountOptions.parse(r"lowerdir=/a\:b:/c\,d:/e\\,upperdir=/u\:1,workdir=/w")
    assert options.lower == ["/a:b", "/c,d", "/e\\"]
    assert (options.upper, options.work) == ("/u:1", "/w")


def test_the_text_for_the_daemon_means_the_same() -> None:
    given = LAYERS + r",defaults,noauto,x-systemd.automount,_netdev,fsname=/dev/a\,b,noexec,user=me"
    options = MountOptions.parse(given)
    again = MountOptions.parse(options.text)
    assert vars(options) == vars(again)
    assert "noauto" not in options.text
    assert options.fsname == "/dev/a,b"


@pytest.mark.parametrize(
    ("word", "flags"), [("ro", MS_RDONLY), ("rw", 0), ("nodev", MS_NODEV), ("nosuid", MS_NOSUID), ("nodev,dev", 0), ("ro,rw", 0)]
)
def test_flags(word: str, flags: int) -> None:
    default = 0 if os.geteuid() == 0 else MS_NODEV | MS_NOSUID
    expected = default & ~MS_NODEV if word == "nodev,dev" else default | flags
    assert MountOptions.parse(f"{LAYERS},{word}").flags == expected


def test_without_an_upper_the_union_is_read_only() -> None:
    assert MountOptions.parse("lowerdir=/l,rw").flags & MS_RDONLY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no lowerdir among the options"),
        ("upperdir=/u,workdir=/w", "no lowerdir among the options"),
        ("lowerdir=", "option lowerdir has no value"),
        ("lowerdir=/a::/b", "lowerdir=/a::/b: an empty path between colons"),
        ("lowerdir=/l,upperdir=/u", "upperdir without workdir"),
        ("lowerdir=/l,workdir=/w", "workdir without upperdir"),
        (LAYERS + ",engine=fast", "unknown engine 'fast'"),
        (LAYERS + ",rwx", "unknown mount option 'rwx'"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MountOptions.parse(text)
    assert caught.value.message == message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_sloppy_passes_over_what_it_does_not_know() -> None:
    options = MountOptions.parse(LAYERS + ",rwx,frobnicate=3", sloppy=True)
    assert options.text == LAYERS


def test_libfuse_gets_its_own_escaping() -> None:
    assert r"fsname=a\,b\\c" in MountOptions.parse(LAYERS + r",fsname=a\,b\\c").libfuse_options()


@pytest.mark.parametrize("text", ["", "a", ",", "a,b", r"a\,b,c", r"\\,x", "\\"])
def test_splitting_loses_nothing(text: str) -> None:
    parts = split(text, ",")
    assert ",".join(parts) == text
    assert unescape(r"\\\:") == r"\:"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "a source and a mount point are needed"),
        (["none", "/m", "-o"], "-o without a value"),
        (["none", "/m", "-q"], "unknown switch -q"),
        (["none", "/m", "-o", "lowerdir=/l,wrong"], "unknown mount option 'wrong'"),
    ],
)
def test_the_helper_refuses(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert mount_helper(arguments) == 2
    complaint = capfd.readouterr().err
    assert complaint.startswith(f"mount.fuse.cowroot: error: {message}\nhint: ")


def test_the_helper_only_pretends(capfd: pytest.CaptureFixture[str]) -> None:
    assert mount_helper(["none", "/nowhere", "-fv", "-o", "lowerdir=/nowhere"]) == 0
    assert capfd.readouterr() == ("", "")


def test_forms_of_whiteouts() -> None:
    assert MountOptions.parse("lowerdir=/a:/b,whiteouts=oci").layers().whiteouts == ["oci"]
    assert MountOptions.parse("lowerdir=/a:/b,whiteouts=oci:overlay").layers().whiteouts == ["oci", "overlay"]
    with pytest.raises(ConfigError, match="unknown form of whiteouts 'aufs'"):
        MountOptions.parse("lowerdir=/a,whiteouts=aufs")
    with pytest.raises(ConfigError, match="speaks of 2 layers, lowerdir of 3"):
        MountOptions.parse("lowerdir=/a:/b:/c,whiteouts=oci:oci")
