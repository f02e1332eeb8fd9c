"""Settings files and kernel command lines that an accident, or somebody, has made of good ones."""

from __future__ import annotations

import os
import random
import shlex
import tempfile
from pathlib import Path

from cowroot.config import SETTINGS, Config, apply_parameters
from cowroot.errors import ConfigError
from tests.fuzz.bytes import mutated

WORDS = [
    b"\x00", b"\xff", b"\t", b"\n", b"\r\n", b": ", b"- ", b"? ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!python/object:os.system ",
    b"!x ",
    b"<<: ", b"---\n", b"...\n", b"%YAML 9.9\n", b"|\n", b">\n", b"'", b'"', b"\\", b"#", b"0x", b"1e999", b"9" * 500, b"[" * 2000,
    b"{a: " * 500,
    b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"null", b"~", b"yes", b"12:30:45", b"2001-01-01", b"enabled: true\n", b"upper:\n",
    b"  size: ", b"50%", b"-1", b"1T", b"$(reboot)", b"`reboot`", b";reboot", b"../..", b"LABEL=", b"UUID=", b"/dev/../etc",
]  # fmt: skip
FILE = Config.default().to_yaml().encode()
LINE = b"root=LABEL=root ro quiet cowroot=on cowroot.size=50% cowroot.upper=LABEL=upper cowroot.on_failure=tmpfs,shell rd.cowroot.wait=5"


def settings(chance: random.Random) -> None:
    """Files by `cowroot config check` and the rest that reads them, then command lines over what came of it."""
    config = Config.default()
    with tempfile.TemporaryDirectory(prefix="cowroot-fuzz-") as directory:
        path = Path(directory, "cowroot.yaml")
        for _ in range(20):
            path.write_bytes(mutated(chance, FILE, WORDS))
            try:
                config = Config.load(path)
            except ConfigError as error:
                assert error.message.startswith(str(path)), error.message
            assert Config.parse(config.to_yaml(), "again") == config
            _check_shell(config)
    for _ in range(20):
        line = mutated(chance, LINE, WORDS)
        try:
            _check_shell(apply_parameters(config, os.fsdecode(line)))
        except ConfigError as error:
            assert "cowroot" in error.message


def _check_shell(config: Config) -> None:
    """Whatever the values are, a shell that reads them does nothing but assign them."""
    known = {setting.variable for setting in SETTINGS}
    for word in shlex.split(config.to_shell(), comments=True):
        name, assigned, _ = word.partition("=")
        assert assigned and name in known, word
