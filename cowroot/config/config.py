"""`Config`: all settings with their values, frozen. Made from a file, from the kernel command line, or by default; never half right."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cowroot.config.kinds import BadValue, TmpfsSize
from cowroot.config.settings import SECTIONS, SETTINGS, Setting
from cowroot.errors import ConfigError

# Where an image keeps its settings.
DEFAULT_PATH = Path("/etc/cowroot/cowroot.yaml")


@dataclass(frozen=True)
class UpperConfig:
    """The settings below `upper:`."""

    device: str
    size: TmpfsSize
    inodes: str
    reserve: TmpfsSize
    fstype: str
    directory: str
    wait: int
    create: bool
    random_key: bool
    read_only: bool
    reset: bool


@dataclass(frozen=True)
class FullConfig:
    """The settings below `full:`."""

    warning: int
    critical: int


@dataclass(frozen=True)
class GrubConfig:
    """The settings below `grub:`."""

    recordfail: bool
    timeout: int
    off_entry: bool


@dataclass(frozen=True)
class UpstartConfig:
    """The settings below `upstart:`."""

    form: str


@dataclass(frozen=True)
class Config:
    """Every setting's value, under the name that it has in the YAML file. Two are equal when all values are, wherever they came from."""

    enabled: bool
    engine: str
    low_latency: bool
    lock_memory: bool
    black_box: str
    upper: UpperConfig
    on_failure: tuple[str, ...]
    lowers: tuple[str, ...]
    mounts: tuple[str, ...]
    full: FullConfig
    grub: GrubConfig
    upstart: UpstartConfig
    sources: Mapping[str, str] = field(compare=False, repr=False, default_factory=lambda: MappingProxyType({}))

    @classmethod
    def default(cls) -> Config:
        """What holds where nothing is configured."""
        return _assemble({}, {})

    @classmethod
    def load(cls, path: Path) -> Config:
        """The settings in the file at `path`. Raises ConfigError: no such file, unreadable, not UTF-8, or as `parse`."""
        from cowroot.config.yaml_file import read_text

        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Config:
        """The settings in the YAML `text`, with the default for what it does not name. `source` is what messages call the text.

        Raises ConfigError: not YAML, an unknown or repeated key, a value of the wrong type, an impossible value.
        """
        # Here and not above: reading the kernel's parameters, as the boot and `status` do, needs no YAML.
        from cowroot.config.yaml_file import read_lines

        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for key, line in read_lines(text, source).items():
            try:
                values[key] = setting_of(key).kind.read_written(line.written)
            except BadValue as bad:
                raise ConfigError(f"{line.place}: {key} {bad.problem}", hint=bad.hint) from None
            sources[key] = line.place
        return _assemble(values, sources)

    def value(self, key: str) -> Any:
        """The value of the setting at `key`, dots included."""
        found: Any = self
        for name in key.split("."):
            found = getattr(found, name)
        return found

    def source(self, key: str) -> str:
        """Where the value at `key` comes from: `FILE:LINE`, the name of a kernel parameter, or "default"."""
        return self.sources.get(key, "default")

    def with_values(self, values: Mapping[str, Any], sources: Mapping[str, str]) -> Config:
        """This configuration with other `values` for some keys, and where those come from. The values are taken as checked."""
        merged = {setting.key: self.value(setting.key) for setting in SETTINGS}
        return _assemble({**merged, **values}, {**self.sources, **sources})

    def to_yaml(self) -> str:
        """The settings as a commented YAML file, which `parse` reads back as an equal configuration."""
        lines = [
            "# Settings of cowroot: what / consists of, from the next boot on. `cowroot config check` checks them.",
            "# What is removed here has its default. Where a kernel parameter is named, it overrides the setting for one boot.",
        ]
        section = ""
        for setting in SETTINGS:
            above, _, name = setting.key.rpartition(".")
            indent = "  " if above else ""
            lines.append("")
            if above and above != section:
                lines += [*_comment(next(each.doc for each in SECTIONS if each.key == above), ""), f"{above}:"]
            section = above
            overridden = f" [{setting.parameter}=]" if setting.parameter else ""
            lines += [*_comment(setting.doc + overridden, indent), f"{indent}{name}:{_yaml_value(setting, self.value(setting.key))}"]
        return "\n".join(lines) + "\n"

    def to_shell(self) -> str:
        """The settings that a boot needs as assignments for a POSIX shell, one a line, quoted so that sourcing them runs nothing."""
        return "".join(f"{setting.variable}={_shell_value(self.value(setting.key))}\n" for setting in SETTINGS if setting.parameter)


def setting_of(key: str) -> Setting:
    """The row of the table for `key`. Raises KeyError."""
    return _SETTING_OF[key]


_SETTING_OF = {setting.key: setting for setting in SETTINGS}


def _assemble(values: Mapping[str, Any], sources: Mapping[str, str]) -> Config:
    every = {setting.key: values.get(setting.key, setting.default) for setting in SETTINGS}

    def section(kind: Any, prefix: str) -> Any:
        return kind(**{each.name: every[prefix + each.name] for each in fields(kind)})

    return Config(
        enabled=every["enabled"],
        engine=every["engine"],
        low_latency=every["low_latency"],
        lock_memory=every["lock_memory"],
        black_box=every["black_box"],
        upper=section(UpperConfig, "upper."),
        on_failure=every["on_failure"],
        lowers=every["lowers"],
        mounts=every["mounts"],
        full=section(FullConfig, "full."),
        grub=section(GrubConfig, "grub."),
        upstart=section(UpstartConfig, "upstart."),
        sources=MappingProxyType(dict(sources)),
    )


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(text, width=100, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False, break_on_hyphens=False)


def _yaml_value(setting: Setting, value: Any) -> str:
    from cowroot.config.yaml_file import is_plain

    def quoted(text: str) -> str:
        # JSON's strings are YAML's double-quoted ones.
        return text if is_plain(text) else json.dumps(text)

    if setting.kind.takes_pairs and value:
        return "".join(f"\n  {quoted(left)}: {right}" for left, _, right in (item.rpartition(":") for item in value))
    if setting.kind.takes_pairs:
        return " {}"
    if setting.kind.takes_list:
        return f" [{', '.join(value)}]"
    return f" {quoted(setting.kind.write(value))}"


def _shell_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = " ".join(value) if isinstance(value, tuple) else str(value)
    quoted = text.replace("'", "'\\''")
    return f"'{quoted}'"
