"""Where the daemon's process begins: run as a script, `python3 -I -S -B entry.py …`, which skips what an ordinary start looks for.

    entry.py [--modules DIR] [--report FD] OPTIONS MOUNTPOINT    be the daemon
    entry.py --boot SECONDS OPTIONS MOUNTPOINT                   leave a daemon behind, and return when it has mounted: 0 is success

Without site-packages on the path it is told by `--modules` where fusepy is, if not beside the package. The second form is the boot
script's. It takes one interpreter, since under emulation each costs a second: whoever runs it calls it `@cowroot` from the start, and the
daemon is a fork of it. A start that takes longer than SECONDS is ended, so that the boot can go on without it.
"""

import gc
import os
import select
import sys

gc.disable()  # until the daemon has settled: what is imported stays
# Last: the standard library is found without looking here first.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def main(arguments: "list[str]") -> None:
    from cowroot.fuse import daemon

    daemon.main(arguments)


def boot(seconds: float, arguments: "list[str]") -> int:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            main(["--report", str(writing), *arguments])
        except BaseException as e:  # a part of cowroot is missing or broken, and with it whoever would report that
            os.write(writing, f"error\x001\0\0{type(e).__name__}: {e}".encode(errors="replace"))
            os._exit(1)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], seconds)
    if not ready:
        os.kill(child, 9)
        return _complain(f"the daemon had not mounted the union after {seconds:.0f} seconds")
    kind, *said = os.read(reading, 1 << 16).decode(errors="replace").split("\0")
    if kind == "mounted":
        return 0
    if kind == "error":
        code, hint, message = said
        return _complain(message, f"hint: {hint}" if hint else "", code=int(code))
    return _complain("the daemon ended before it had mounted")


def _complain(*lines: str, code: int = 1) -> int:
    os.write(2, "".join(f"{line}\n" for line in lines if line).encode())
    return code


if sys.argv[1] == "--boot":
    os._exit(boot(float(sys.argv[2]), sys.argv[3:]))
main(sys.argv[1:])
