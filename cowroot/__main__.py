"""`python -m cowroot` is `cowroot`."""

from __future__ import annotations

import sys

from cowroot.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
