"""What the boot loaders of a target would boot: the entries of their menus, read as each loader reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Callable

from cowroot.boot.bls import OWN_ENTRY, PLACES
from cowroot.boot.extlinux import MENUS, OWN_LABEL
from cowroot.install.tree import Tree

GRUB_CFG = "/boot/grub/grub.cfg"


@dataclass(frozen=True)
class Entry:
    """An entry of a boot menu.

    loader: whose. title: as the menu has it. kernel, initrds: paths in the target; empty where they are not found there. line: the kernel
    parameters. real_root: it is the one that cowroot has added. source: the file that it stands in.
    """

    loader: str
    title: str
    kernel: str
    initrds: tuple[str, ...]
    line: str
    real_root: bool
    source: str


def menu_entries(tree: Tree) -> list[Entry]:
    """Return the entries of all menus, and of each menu the one first that is booted by default."""
    return [*_grub(tree), *bls_entries(tree), *_extlinux(tree)]


def _found(tree: Tree, path: str, *directories: str) -> str:
    """Return where a file is in the target that a loader sees at `path`, seen from one of these directories; empty if nowhere."""
    candidates = (f"{directory}/{path.lstrip('/')}" for directory in directories)
    return next((tree.canonical(each, follow=True) for each in candidates if tree.is_file(each)), "")


def _grub(tree: Tree) -> Iterator[Entry]:
    text = tree.read_text(GRUB_CFG) if tree.is_file(GRUB_CFG) else ""
    for entry in re.split(r"^\s*menuentry ", text, flags=re.MULTILINE)[1:]:
        head = entry.split("{")[0]
        kernel = re.search(r"^\s*linux\S*\s+(\S+)(?:\s+(.*))?$", entry, re.MULTILINE)
        if not kernel:
            continue
        initrd = re.search(r"^\s*initrd\S*\s+(.*)$", entry, re.MULTILINE)
        title = head.strip().split("'")[1] if "'" in head else "an entry"
        initrds = _paths(tree, initrd[1].split() if initrd else (), "", "/boot")
        yield Entry("GRUB", title, _found(tree, kernel[1], "", "/boot"), initrds, kernel[2] or "", "cowroot-off" in head, GRUB_CFG)


def _paths(tree: Tree, words: list[str] | tuple[str, ...], *directories: str) -> tuple[str, ...]:
    return tuple(path for word in words if (path := _found(tree, word, *directories)))


def entries_directory(tree: Tree) -> str:
    """Return the one of bls.PLACES whose loader/entries holds entries, or else will; empty if there is none."""
    tops = [top for top in PLACES if tree.is_dir(f"{top}/loader/entries")]
    return next((top for top in tops if any(name.endswith(".conf") for name in tree.listdir(f"{top}/loader/entries"))), (*tops, "")[0])


def bls_entries(tree: Tree) -> list[Entry]:
    """Return the entries after the Boot Loader Specification, the default one first: as loader.conf says, else the newest."""
    top = entries_directory(tree)
    names = [name for name in tree.listdir(f"{top}/loader/entries") if name.endswith(".conf")] if top else []
    default = next(filter(None, (_loader_conf(tree, place).get("default", "") for place in PLACES)), "")

    def rank(name: str) -> tuple[bool, bool, list[tuple[int, str]]]:
        parts = re.findall(r"\d+|\D+", name)
        last = name.endswith(OWN_ENTRY) or "-0-rescue" in name
        version = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
        return not last, fnmatch(name, default) or fnmatch(name, f"{default}.conf"), version

    return [_bls_entry(tree, top, name) for name in sorted(names, key=rank, reverse=True)]


def _loader_conf(tree: Tree, top: str) -> dict[str, str]:
    path = f"{top}/loader/loader.conf"
    lines = tree.read_text(path).splitlines() if tree.is_file(path) else []
    return dict(fields for line in lines if len(fields := line.split(None, 1)) == 2)


def remembers_choice(tree: Tree) -> str:
    """Return the loader.conf that has systemd-boot boot what was chosen last; empty if none does."""
    return next((f"{top}/loader/loader.conf" for top in PLACES if _loader_conf(tree, top).get("default", "").strip() == "@saved"), "")


def _bls_entry(tree: Tree, top: str, name: str) -> Entry:
    source = f"{top}/loader/entries/{name}"
    fields: dict[str, list[str]] = {}
    for line in tree.read_text(source).splitlines():
        key, *value = line.split(None, 1)[:2] or [""]
        fields.setdefault(key, []).append(value[0].strip() if value else "")
    # The paths start at the file system of the entries, which may be the root's.
    initrds = [word for value in fields.get("initrd", []) for word in value.split() if not word.startswith("$")]
    kernel = _found(tree, (fields.get("linux") or [""])[0], top, "")
    line = " ".join(fields.get("options", []))
    title = " ".join((fields.get("title") or [name])[:1])
    return Entry("BLS", title, kernel, _paths(tree, initrds, top, ""), line, name.endswith(OWN_ENTRY), source)


def extlinux_menu(tree: Tree) -> str:
    """Return the path of extlinux' or U-Boot's menu; empty if there is none."""
    return next((path for path in MENUS if tree.is_file(path)), "")


def _extlinux(tree: Tree) -> list[Entry]:
    path = extlinux_menu(tree)
    labels: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    common, default = current, ""
    for line in tree.read_text(path).splitlines() if path else ():
        words = line.split(None, 2)
        keyword = words[0].lower() if words else ""
        value = line.split(None, 1)[1].strip() if len(words) > 1 else ""
        if keyword == "label":
            current = labels.setdefault(value, {})
        elif keyword == "menu" and len(words) > 1 and current is not common:
            current[f"menu {words[1].lower()}"] = words[2].strip() if len(words) > 2 else ""
        elif keyword and not keyword.startswith("#"):
            current.setdefault(keyword, value)
    default = next((name for name, fields in labels.items() if "menu default" in fields), common.get("default", ""))
    find: Callable[[str], str] = lambda word: _found(tree, word, "", "/boot", os.path.dirname(path))  # noqa: E731
    entries = []
    for name, fields in sorted(labels.items(), key=lambda item: item[0] != default):
        line = fields.get("append", common.get("append", ""))
        words = [word.partition("=")[2] for word in line.split() if word.startswith("initrd=")]
        initrds = tuple(filter(None, map(find, ",".join([fields.get("initrd", ""), *words]).strip(",").split(","))))
        kernel = find(fields.get("linux") or fields.get("kernel") or "")
        entries.append(Entry("extlinux", fields.get("menu label", name), kernel, initrds, line, name == OWN_LABEL, path))
    return entries
