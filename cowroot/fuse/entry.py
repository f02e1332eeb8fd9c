"""Where the daemon's process begins: run as a script, `python3 -I -S -B entry.py …`, which skips what an ordinary start looks for.

Without site-packages on the path it is told by `--modules` where fusepy is, if not beside the package.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from cowroot.fuse.daemon import main

main(sys.argv[1:])
