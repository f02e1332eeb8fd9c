"""Every failure that cowroot reports to a user, as one tree of exceptions.

    CowrootError            1   anything that has no better place
    ├── ConfigError         2   a setting, in a file or on the kernel command line
    ├── TargetError         3   the image, directory or system cannot be worked on at all
    ├── PreflightError      4   the image lacks something that a boot would need
    ├── ConflictError       5   somebody else is at work, or changed a file since
    └── MountError          6   a union cannot be mounted or remounted
        └── LayerError      6   one of its layers is unfit
            └── DamageError 7   the upper or its work directory cannot be read as one

The number is the exit code of every command that ends with that error. The codes are an interface: scripts test them, so they never
change meaning. 0 is success, 2 is also what click gives for wrong usage, and `cowroot status` adds its own verdicts (see
`cowroot.status`).
"""

from __future__ import annotations


class CowrootError(Exception):
    """A failure with a message for people.

    Arguments: `message` says what is wrong and where (a path, or file:line); `hint` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(CowrootError):
    """A setting is unknown, has the wrong type or an impossible value."""

    exit_code = 2


class TargetError(CowrootError):
    """What should be worked on is not an image, has no root file system, or cannot be written."""

    exit_code = 3


class PreflightError(CowrootError):
    """The image could be changed, but would not boot copy-on-write: something that the boot needs is not in it."""

    exit_code = 4


class ConflictError(CowrootError):
    """Going on would run into another installation at work, or overwrite what somebody changed since."""

    exit_code = 5


class MountError(CowrootError):
    """A union cannot be mounted, remounted or handed over."""

    exit_code = 6


class LayerError(MountError):
    """A lower, upper or work directory cannot serve as one."""


class DamageError(LayerError):
    """The upper or its work directory is damaged: with another one in its place, the union could be mounted."""

    exit_code = 7
