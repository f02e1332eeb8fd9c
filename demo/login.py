"""A root shell on the serial console of a guest, as somebody at the keyboard has it."""
from __future__ import annotations

import re

from tests.t6_boot.machine import Machine
from tests.t6_boot.recipe import PASSWORD

_PROMPT_LIMIT = 120.0
# Debian's login(1) ends after LOGIN_TIMEOUT, a minute (login.defs(5)): too short for the first login in an emulator on a busy computer.
_GIVEN_UP = "login: timed out"
_ATTEMPTS = 4
# The marker is typed in two halves, so that a terminal's echo of the command is not taken for its end.
_MARKER = "<<<done "


class Login:
    """Log in as root when the prompt comes, at most ``limit`` seconds from now. Raises BootError."""

    def __init__(self, machine: Machine, limit: float) -> None:
        self._machine = machine
        for _ in range(_ATTEMPTS):
            machine.wait_for(r" login: ", limit, "login prompt")
            machine.send("root")
            machine.wait_for(r"Password: ", _PROMPT_LIMIT, "password prompt")
            machine.send(PASSWORD)
            if machine.wait_for(rf"# |{_GIVEN_UP}", _PROMPT_LIMIT, "shell prompt").group() != _GIVEN_UP:
                break
        else:
            raise machine.error(f"no shell after {_ATTEMPTS} logins")
        # No line editing, no echo, no kernel messages in between: what comes back is what the command says.
        machine.send("stty -echo cols 160; exec env PS1= PS2= PROMPT_COMMAND= bash --noediting --norc")
        machine.send("set -o pipefail; export DEBIAN_FRONTEND=noninteractive")
        machine.send("dmesg --console-level alert; bind 'set enable-bracketed-paste off' 2>/dev/null; echo '<<<re''ady>>>'")
        machine.wait_for(r"<<<ready>>>\r", _PROMPT_LIMIT, "shell")

    def run(self, command: str, limit: float = 300.0) -> tuple[str, int]:
        """Run ``command`` and return what it said (both streams) and its exit code. Raises BootError after ``limit`` seconds."""
        self._machine.send(f"{{ {command}\n}} 2>&1; echo '<<<do''ne' $?")
        match = self._machine.wait_for(re.escape(_MARKER) + r"(\d+)\r", limit, f"end of `{command}`")
        return self._machine.before.strip("\n"), int(match.group(1))

    def send(self, command: str) -> None:
        """Type ``command`` and do not wait for it: it ends the shell."""
        self._machine.send(command)
