"""Settings: one table (`SETTINGS`), read from YAML and from the kernel command line, written as YAML and for the boot's shell."""

from __future__ import annotations

from cowroot.config.config import DEFAULT_PATH, Config, FullConfig, GrubConfig, UpperConfig, UpstartConfig, setting_of
from cowroot.config.kinds import TmpfsSize
from cowroot.config.parameters import apply_parameters
from cowroot.config.settings import SECTIONS, SETTINGS, Section, Setting, settings_below

__all__ = [
    "DEFAULT_PATH",
    "SECTIONS",
    "SETTINGS",
    "Config",
    "FullConfig",
    "GrubConfig",
    "Section",
    "Setting",
    "TmpfsSize",
    "UpperConfig",
    "UpstartConfig",
    "apply_parameters",
    "setting_of",
    "settings_below",
]
