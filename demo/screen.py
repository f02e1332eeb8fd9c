"""What the demo prints: numbered steps, notes, commands with their output, the interesting lines of a boot as they come."""
from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

# What of a console is worth showing while a boot runs: (pattern, what to print; groups as in re.sub).
_MILESTONES = (
    (r"GNU GRUB +version (\S+)", r"GRUB \1"),
    (r"Booting `(.*?)'", r"GRUB boots '\1'"),
    (r"Linux version (\S+)", r"Linux \1"),
    (r"Run /init as init process", "the initramfs begins"),
    (r"(cowroot: .*)", r"\1"),
    (r"systemd\[1\]: (systemd [\d.]\S*) running in system mode.*", r"\1 takes over"),
    (r"Reached target .*?(\S+\.target)", r"\1"),
    (r"^(\S+ login: )", "login prompt"),
    (r"reboot: (Restarting system|Power down)", r"\1"),
)
_TARGETS = ("local-fs.target", "sysinit.target", "basic.target", "multi-user.target", "poweroff.target", "reboot.target")


class Screen:
    """Standard output, flushed line by line."""

    def __init__(self) -> None:
        self._steps = 0

    def step(self, text: str) -> None:
        """Begin the next step."""
        self._steps += 1
        self._print(f"\n{self._steps}. {text}")

    def note(self, text: str) -> None:
        """Add something to the current step."""
        self._print(f"   {text}")

    def command(self, command: str, output: str) -> None:
        """Show a command that was typed in the guest, and what it said."""
        self._print(f"   # {command}")
        for line in output.splitlines():
            self._print(f"   | {line}")

    def failure(self, text: str, consoles: Path) -> None:
        """Say what went wrong and where to look."""
        self._print(f"\nThe demo failed: {text}\nConsoles: {consoles}")

    def summary(self, lines: Sequence[str], seconds: float) -> None:
        """End with what has been shown."""
        self._print("\nWhat was proven")
        for line in lines:
            self._print(f"  - {line}")
        self._print(f"\nAll of it in {seconds:.0f} s.")

    @staticmethod
    def _print(text: str) -> None:
        print(text, flush=True)


class Progress:
    """Shows a boot's milestones, each with the seconds since the machine's start."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._began = time.monotonic()
        self._partial = ""
        self._last = ""

    def __call__(self, text: str) -> None:
        """Take what the console has said."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._look_at(line.strip("\r"))
        if self._partial.endswith("login: "):
            self._look_at(self._partial)
            self._partial = ""

    def _look_at(self, line: str) -> None:
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line)
        for pattern, shown in _MILESTONES:
            match = re.search(pattern, plain)
            if match:
                text = match.expand(shown)
                # The kernel's log and systemd's own progress say some things twice.
                if text != self._last and (not text.endswith(".target") or text in _TARGETS):
                    self._last = text
                    self._screen.note(f"{time.monotonic() - self._began:6.1f} s  {text}")
                return
