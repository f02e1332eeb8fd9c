"""Settings on the kernel command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowroot.config import SETTINGS, Config, TmpfsSize, apply_parameters
from cowroot.errors import ConfigError


def apply(cmdline: str) -> Config:
    return apply_parameters(Config.default(), cmdline)


@pytest.mark.parametrize(
    ("cmdline", "key", "value"),
    [
        ("cowroot=off", "enabled", False),
        ("cowroot=off quiet cowroot=on", "enabled", True),
        ("cowroot.engine=fusepy", "engine", "fusepy"),
        ("root=/dev/vda1 ro cowroot.size=512M quiet", "upper.size", TmpfsSize(512, "M")),
        ("cowroot.size=1M cowroot.size=25%\n", "upper.size", TmpfsSize(25, "%")),
        ("cowroot.size=nonsense cowroot.size=25%", "upper.size", TmpfsSize(25, "%")),
        ("cowroot.upper=LABEL=data", "upper.device", "LABEL=data"),
        ('cowroot.upper="LABEL=my data"', "upper.device", "LABEL=my data"),
        ('"cowroot.upper=LABEL=my data"', "upper.device", "LABEL=my data"),
        ("cowroot.fstype=xfs", "upper.fstype", "xfs"),
        ("cowroot.directory=a/b", "upper.directory", "a/b"),
        ("cowroot.wait=0", "upper.wait", 0),
        ("cowroot.on_failure=tmpfs,shell", "on_failure", ("tmpfs", "shell")),
        ("cowroot.on-failure=shell", "on_failure", ("shell",)),
        ("rd.cowroot.on-failure=shell", "on_failure", ("shell",)),
        ("notcowroot=off xcowroot.size=1 cowrootx=3", "enabled", True),
        ("", "enabled", True),
    ],
)
def test_good(cmdline: str, key: str, value: object) -> None:
    assert apply(cmdline).value(key) == value


@pytest.mark.parametrize(
    ("cmdline", "message", "hint"),
    [
        ("cowroot=maybe", "kernel parameter cowroot is 'maybe', neither on nor off", "write on or off"),
        ("cowroot", "kernel parameter cowroot has no value", "write cowroot=off"),
        ("cowroot.size", "kernel parameter cowroot.size has no value", "write cowroot.size=50%"),
        ("cowroot.size=512", "kernel parameter cowroot.size is '512', less than 1M, too small to boot with", "did you mean 512M?"),
        ("cowroot.sice=1G", "kernel parameter 'cowroot.sice' is unknown", "did you mean cowroot.size?"),
        (
            "cowroot.on_failure=shell,tmpfs",
            "kernel parameter cowroot.on_failure is in the wrong order",
            "the order is fixed: [tmpfs, shell]",
        ),
        (
            "cowroot.on_failure=",
            "kernel parameter cowroot.on_failure is empty: a boot that fails would have nowhere to go",
            "name at least shell",
        ),
    ],
)
def test_bad(cmdline: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply(cmdline)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_what_has_no_parameter_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"'cowroot\.timeout' is unknown"):
        apply("cowroot.timeout=3")


def test_a_parameter_keeps_the_rest_and_says_where_it_comes_from() -> None:
    config = apply_parameters(Config.parse("engine: fusepy\nupper: {wait: 5}", "c.yaml"), "cowroot.wait=7")
    assert (config.engine, config.upper.wait) == ("fusepy", 7)
    assert (config.source("engine"), config.source("upper.wait")) == ("c.yaml:1", "cowroot.wait=")


@given(st.text() | st.lists(st.sampled_from([s.parameter for s in SETTINGS if s.parameter] + ["=", " ", '"', "1", "on", ","])).map("".join))
def test_any_command_line_is_taken_or_is_a_config_error(cmdline: str) -> None:
    try:
        apply(cmdline)
    except ConfigError as error:
        assert error.message.startswith("kernel parameter ")
        assert error.hint
