"""What becomes of the file systems besides /: rules that give lines of fstab a policy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cowroot.config.kinds import BadValue, Kind, Written, shorten

POLICIES = ("pass", "read-only", "union", "absent")
BUILT_IN = ("/boot:read-only", "/boot/efi:read-only", "/efi:read-only")
"""What holds for these where no rule says otherwise: of an upgrade in the union, half would reach the disk."""

# A rule goes through shell words, a kernel parameter and patterns. Names with other characters can be told by their mount point.
_MATCH = re.compile(r"[A-Za-z0-9._@+=\\/-]+", re.ASCII)
_TAGS = ("LABEL", "UUID", "PARTUUID", "PARTLABEL", "type")


class MountRules(Kind):
    """Rules `MATCH:POLICY`; in YAML a section, with matches for keys and policies for values."""

    takes_pairs = True

    def describe(self) -> str:
        return f"lines MATCH: POLICY (as a parameter MATCH:POLICY, with commas). MATCH: {_MATCHES}. POLICY: {', '.join(POLICIES)}"

    def read(self, text: str) -> tuple[str, ...]:
        return _checked(text.split(",") if text else ())

    def read_written(self, written: Written) -> tuple[str, ...]:
        if written.type != "mapping":
            raise BadValue(f"is {written}, not a section of rules", "below it, indented, write lines such as `/srv: read-only`")
        return _checked(written.items)

    def write(self, value: Any) -> str:
        return ",".join(value)


_MATCHES = "a mount point, LABEL=…, UUID=…, PARTUUID=…, PARTLABEL=…, /dev/… or type=…"


def _checked(rules: Sequence[str]) -> tuple[str, ...]:
    seen = set()
    for rule in rules:
        match, _, policy = rule.rpartition(":")
        if policy not in POLICIES:
            raise BadValue(f"has the policy {shorten(policy)} for {shorten(match)}", f"the policies are {', '.join(POLICIES)}")
        if match == "/":
            raise BadValue("has a rule for /", "what / is, the other settings say; here are the file systems besides it")
        if not _is_match(match):
            raise BadValue(f"has a rule for {shorten(match)}, which no line of fstab can match", f"write {_MATCHES}")
        if match in seen:
            raise BadValue(f"has two rules for {shorten(match)}", "remove one of the two")
        seen.add(match)
    return tuple(rules)


def _is_match(match: str) -> bool:
    if not _MATCH.fullmatch(match):
        return False
    if match.startswith("/"):
        return all(part not in ("", ".", "..") for part in match.split("/")[1:])
    tag, _, name = match.partition("=")
    return tag in _TAGS and bool(name)


def rule_for(rules: Sequence[str], spec: str, point: str, kind: str) -> str:
    """Return the rule that decides about a line of fstab, the first that fits; "" for none: then it passes through.

    `spec`, `point`, `kind`: the line's first three fields. The boot script decides the same (find_rule in functions/fstab.j2).
    """
    names = (spec.replace('"', ""), point.rstrip("/"), f"type={kind}")
    return next((rule for rule in (*rules, *BUILT_IN) if rule.rpartition(":")[0] in names), "")
