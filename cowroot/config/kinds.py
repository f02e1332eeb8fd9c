"""The kinds of value that a setting can have: how each is read, checked and written.

A kind reads text, whether it stood in a YAML file (`Written`: with YAML's idea of its type) or on the kernel command line. A value
that it cannot take raises `BadValue`, which knows nothing of files: whoever called adds the place.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

_SWITCH_WORDS = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}

# What a path of an upper may consist of: it is handed on in mount options, where commas, colons and backslashes mean something.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._+@-]{1,255}(/[A-Za-z0-9._+@-]{1,255})*", re.ASCII)

# File systems that cannot hold an upper: they lack owners, device nodes or extended attributes, or are never writable.
UNFIT_FILE_SYSTEMS = frozenset({"erofs", "exfat", "iso9660", "msdos", "ntfs", "ntfs3", "squashfs", "swap", "vfat"})


class BadValue(Exception):
    """A value does not fit its setting. `problem` continues the setting's name ("… is not …"), `hint` says what to write."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


@dataclass(frozen=True)
class Written:
    """What stands in a YAML file as a value: `type` is bool, int, float, str, list or mapping.

    A list has `items`; so has a mapping where pairs are wanted: `KEY:VALUE`.
    """

    type: str
    text: str
    items: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = {"list": "a list", "mapping": "a section"}.get(self.type)
        return shown or shorten(self.text)


def shorten(text: str) -> str:
    """`text` in quotes, fit for one line of an error message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


@dataclass(frozen=True)
class TmpfsSize:
    """How large a tmpfs may grow: `amount` of `unit`, which is "%" (of the memory), "" (bytes), "K", "M" or "G" (powers of 1024)."""

    amount: int
    unit: str

    def __str__(self) -> str:
        """The form that tmpfs takes as its mount option `size=`."""
        return f"{self.amount}{self.unit}"

    def in_bytes(self, memory: int) -> int:
        """The limit in bytes on a machine with `memory` bytes of memory."""
        if self.unit == "%":
            return memory * self.amount // 100
        return self.amount << {"": 0, "K": 10, "M": 20, "G": 30}[self.unit]


class Kind(ABC):
    """One kind of value."""

    # A list is no scalar in YAML.
    takes_list = False
    # Nor is a section of pairs, which a kind takes as items `KEY:VALUE`.
    takes_pairs = False
    # The words that this kind takes, where they can be listed.
    choices: tuple[str, ...] = ()

    @abstractmethod
    def describe(self) -> str:
        """What may be written, for the reference and for hints."""

    @abstractmethod
    def read(self, text: str) -> Any:
        """The value that `text` stands for, as on the kernel command line. Raises BadValue."""

    def read_written(self, written: Written) -> Any:
        """The value that stands in a YAML file. Raises BadValue."""
        if written.type in ("list", "mapping"):
            raise BadValue(f"is {written}, not {self.describe()}", f"write {self.describe()}")
        return self.read(written.text)

    def write(self, value: Any) -> str:
        """`value` as text that `read` takes."""
        return str(value)


class Switch(Kind):
    """On or off."""

    def describe(self) -> str:
        return "true or false"

    def read(self, text: str) -> bool:
        try:
            return _SWITCH_WORDS[text.lower()]
        except KeyError:
            raise BadValue(f"is {shorten(text)}, neither on nor off", "write on or off") from None

    def read_written(self, written: Written) -> bool:
        if written.type != "bool":
            unquoted = written.type == "str" and written.text.lower() in _SWITCH_WORDS
            raise BadValue(
                f"is {written}, not true or false", f"write {written.text} without quotes" if unquoted else f"write {self.describe()}"
            )
        return self.read(written.text)

    def write(self, value: Any) -> str:
        return "true" if value else "false"


class Choice(Kind):
    """One of a few words."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def describe(self) -> str:
        return "one of " + ", ".join(self.choices)

    def read(self, text: str) -> str:
        if text not in self.choices:
            raise BadValue(f"is {shorten(text)}", f"it can be {self.describe()}")
        return text


class Seconds(Kind):
    """A whole number of seconds, at most an hour: an appliance that waits longer than that is one that hangs."""

    limit = 3600

    def describe(self) -> str:
        return f"a number of seconds from 0 to {self.limit}"

    def read(self, text: str) -> int:
        if re.fullmatch(r"-[0-9]+", text, re.ASCII):
            raise BadValue(
                f"is {shorten(text)}, and negative would mean to wait for ever", f"write {self.describe()}; nobody is there to end the wait"
            )
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", text, re.ASCII):
            raise BadValue(f"is {shorten(text)}, not a number of seconds", f"write {self.describe()}, without a unit")
        if int(text) > self.limit:
            raise BadValue(f"is {text} seconds, more than an hour", f"write {self.describe()}")
        return int(text)


class Percent(Kind):
    """A percentage, as a whole number."""

    def describe(self) -> str:
        return "a number of percent from 1 to 100"

    def read(self, text: str) -> int:
        if not re.fullmatch(r"[1-9][0-9]{0,2}", text.removesuffix("%"), re.ASCII) or int(text.removesuffix("%")) > 100:
            raise BadValue(f"is {shorten(text)}, not a percentage", f"write {self.describe()}")
        return int(text.removesuffix("%"))


class Size(Kind):
    """A part of `whole`, the memory or the upper: a percentage or bytes. `examples`: one of each."""

    least = 1 << 20

    def __init__(self, whole: str, *examples: str) -> None:
        self.whole = whole
        self.examples = examples

    def describe(self) -> str:
        return f"a percentage of the {self.whole} ({self.examples[0]}) or a size such as {' or '.join(self.examples[1:])}"

    def read(self, text: str) -> TmpfsSize:
        match = re.fullmatch(r"([0-9]{1,12})([%KMG]?)", text.upper(), re.ASCII)
        if not match:
            units = re.fullmatch(r"([0-9]{1,12}) ?([KMG])I?B", text.upper(), re.ASCII)
            hint = f"write {units[1]}{units[2]}; K, M and G are powers of 1024" if units else f"write {self.describe()}, in whole numbers"
            raise BadValue(f"is {shorten(text)}, not a size", hint)
        size = TmpfsSize(int(match[1]), match[2])
        if size.unit == "%":
            if not 1 <= size.amount <= 100:
                raise BadValue(f"is {shorten(text)}, which no {self.whole} has", "write a percentage from 1% to 100%")
        elif size.in_bytes(0) < self.least:
            of_memory = self.whole == "memory"
            hint = "tmpfs takes 0 as no limit, and then a full upper ends the machine; " if size.amount == 0 and of_memory else ""
            hint += f"did you mean {size.amount}M?" if size.unit == "" and size.amount else f"write {self.describe()}"
            raise BadValue(f"is {shorten(text)}, less than 1M, too small {'to boot with' if of_memory else 'to help'}", hint)
        return size


class Inodes(Kind):
    """How many files a tmpfs may hold."""

    least = 4096

    def describe(self) -> str:
        return f"auto, or a number from {self.least} on"

    def read(self, text: str) -> str:
        if text == "auto":
            return text
        if not re.fullmatch(r"[1-9][0-9]{0,11}", text, re.ASCII):
            hint = "tmpfs takes 0 as no limit, and files take memory; " if text == "0" else ""
            raise BadValue(f"is {shorten(text)}, not a number of files", f"{hint}write {self.describe()}")
        if int(text) < self.least:
            raise BadValue(f"is {text}, too few to boot with", f"write {self.describe()}")
        return text


class Device(Kind):
    """What the upper lies on."""

    forms = "tmpfs, UUID=…, LABEL=…, PARTUUID=… or /dev/…, or a file on one of them: LABEL=…:/path"

    def describe(self) -> str:
        return self.forms

    def read(self, text: str) -> str:
        if text == "tmpfs":
            return text
        device, separator, path = text.partition(":/")
        if separator:
            if not _PLAIN_PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
                raise BadValue(f"is {shorten(text)}, with no path of a file after the colon", "in its names letters, digits and . _ @ + -")
            if device == "tmpfs":
                raise BadValue(f"is {shorten(text)}, which is no device", f"write {self.forms}")
            return f"{self.read(device)}:/{path}"
        tag, separator, name = text.partition("=")
        if separator and tag.upper() in ("UUID", "LABEL", "PARTUUID"):
            if not name or not name.isprintable() or (tag.upper() != "LABEL" and not re.fullmatch(r"[0-9A-Fa-f-]+", name, re.ASCII)):
                raise BadValue(f"is {shorten(text)}, which names no file system", "`blkid` lists the UUID and LABEL of each partition")
            return f"{tag.upper()}={name}"
        if text.startswith("/dev/"):
            parts = text.split("/")[2:]
            if all(part not in ("", ".", "..") for part in parts) and text.isprintable():
                return text
        raise BadValue(f"is {shorten(text)}, which is no device", f"write {self.forms}")


class BlackBox(Kind):
    """A file system that keeps a few lines of each boot, or none."""

    def describe(self) -> str:
        return "none, UUID=…, LABEL=…, PARTUUID=… or /dev/…"

    def read(self, text: str) -> str:
        if text == "none":
            return text
        if text == "tmpfs" or ":/" in text:
            raise BadValue(f"is {shorten(text)}, which is no device", f"write {self.describe()}")
        return Device().read(text)


class FileSystem(Kind):
    """The type of the file system on the upper's device."""

    def describe(self) -> str:
        return "auto or the type of a file system, such as ext4"

    def read(self, text: str) -> str:
        if text in UNFIT_FILE_SYSTEMS:
            raise BadValue(f"is {text}, which cannot hold an upper", "take one with owners and extended attributes: ext4, xfs, btrfs")
        if not re.fullmatch(r"[a-z][a-z0-9_.-]{0,30}", text, re.ASCII):
            raise BadValue(f"is {shorten(text)}, not the type of a file system", f"write {self.describe()}")
        return text


class Directory(Kind):
    """A directory on the upper's device."""

    def describe(self) -> str:
        return "a path on the device, without a slash at its start"

    def read(self, text: str) -> str:
        if text.startswith("/"):
            raise BadValue(f"is {shorten(text)}, an absolute path", f"write {shorten(text.strip('/'))}: it starts at the top of the device")
        if not _PLAIN_PATH.fullmatch(text) or any(part in (".", "..") for part in text.split("/")) or len(text) > 1024:
            raise BadValue(
                f"is {shorten(text)}, not a directory on the device", "write names of letters, digits and . _ + @ - with slashes between"
            )
        return text


class Rungs(Kind):
    """Some of several words, in an order that is fixed; at least one."""

    takes_list = True

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def describe(self) -> str:
        return "a list of one or more of " + ", ".join(self.choices) + ", in this order"

    def read(self, text: str) -> tuple[str, ...]:
        return self._check(tuple(text.split(",")) if text else ())

    def read_written(self, written: Written) -> tuple[str, ...]:
        if written.type != "list":
            hint = f"write [{written.text}]" if written.text in self.choices else f"write {self.describe()}"
            raise BadValue(f"is {written}, not a list", hint)
        return self._check(written.items)

    def write(self, value: Any) -> str:
        return ",".join(value)

    def _check(self, rungs: tuple[str, ...]) -> tuple[str, ...]:
        if not rungs:
            raise BadValue("is empty: a boot that fails would have nowhere to go", f"name at least {self.choices[-1]}")
        for rung in rungs:
            if rung not in self.choices:
                raise BadValue(f"holds {shorten(rung)}", f"write {self.describe()}")
        ordered = tuple(choice for choice in self.choices if choice in rungs)
        if rungs != ordered:
            what = "names a rung twice" if len(rungs) > len(ordered) else "is in the wrong order"
            raise BadValue(what, f"the order is fixed: [{', '.join(ordered)}]")
        return rungs


_PATH = r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._@+=-]+)+"
_LAYER = re.compile(rf"(?:(?:LABEL|UUID|PARTUUID)=[A-Za-z0-9._@+=/-]+|/dev{_PATH})(?::{_PATH})?|(?!/dev/){_PATH}", re.ASCII)


class Lowers(Kind):
    """Layers, the topmost first: `PATH` on the disk, `DEVICE`, or `DEVICE:PATH`."""

    takes_list = True

    def describe(self) -> str:
        return "a list of layers: a path on the disk, a device (LABEL=…, UUID=…, PARTUUID=… or /dev/…), or DEVICE:PATH"

    def read(self, text: str) -> tuple[str, ...]:
        return self._check(tuple(text.split(",")) if text else ())

    def read_written(self, written: Written) -> tuple[str, ...]:
        if written.type != "list":
            raise BadValue(f"is {written}, not a list", f"write [{written.text}]" if written.text else f"write {self.describe()}")
        return self._check(written.items)

    def write(self, value: Any) -> str:
        return ",".join(value)

    def _check(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        for number, layer in enumerate(layers):
            if not _LAYER.fullmatch(layer):
                hint = "write /path, LABEL=…, LABEL=…:/path; in names letters, digits and . _ @ + = -"
                raise BadValue(f"holds {shorten(layer)}, which names no layer", hint)
            if layer in layers[:number]:
                raise BadValue(f"holds {shorten(layer)} twice", "remove one of the two")
        return layers
