#!/usr/bin/python3
"""Write the programs that run the package's code below the directory that is named."""

import sys
from pathlib import Path

from cowroot.install.payload import programs

for program in programs("From the Debian package cowroot."):
    place = Path(sys.argv[1]) / program.path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(program.content)
    place.chmod(program.mode)
