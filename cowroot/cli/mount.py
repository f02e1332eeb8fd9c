"""`cowroot mount`, and the helper that mount(8) runs for the type fuse.cowroot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple, Optional

import click

from cowroot.cli.completion import directory, mount_options
from cowroot.errors import ConfigError, CowrootError

_EPILOG = """
\b
Options for -o, separated by commas:
  lowerdir=A[:B…]      what is read, topmost first; \\: and \\, stand for a colon and a comma
  upperdir=U,workdir=W what is written; two directories on one file system. Without both: read-only
  create               make U and W where they are not there, U with owner and permissions of A
  engine=E             auto (default), fusepy, direct, overlayfs
  metacopy=off         copy large files up whole, not block by block as they are written
  low_latency=off      let idle processors sleep between requests that come in quick succession: slower, saves power
  lock_memory=on       lock the daemon's memory: none of it is swapped out
  reserve=SIZE         keep so much of the upper for root, at most a twentieth of it: 16M, 2%; default 0
  whiteouts=oci        read the whiteouts of OCI and AUFS (.wh.NAME) in lowers too; oci:overlay:… says it for each
  protocol=7.N         engine direct: use nothing that FUSE has learnt after this version (7.31 to 7.45)
  userxattr            keep marks in user.* attributes: for layers used without privileges
  fsname=NAME          the source that df and findmnt show
  control=DIR          where the control socket goes
  allow_other          let other users in (default for root)
  boot                 serves /: not ended by signals
  ro rw dev nodev suid nosuid exec noexec sync dirsync noatime nodiratime strictatime nosymfollow
  remount              with ro, rw and their like: change a mounted union's flags
"""

_USAGE = "mount.fuse.cowroot SOURCE MOUNTPOINT [-sfnv] -o lowerdir=DIR,…"


@click.command(epilog=_EPILOG)
@click.option(
    "-o",
    "options",
    metavar="OPTION[,OPTION…]",
    multiple=True,
    shell_complete=mount_options,
    help="The layers and how to mount them, see below.",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; ^C unmounts.")
@click.argument("mountpoint", shell_complete=directory)
def command(options: tuple[str, ...], foreground: bool, mountpoint: str) -> None:
    """Mount a union of directories at MOUNTPOINT; returns once it is there.

    Reads fall through to the lower directories, writes go to the upper one. `umount MOUNTPOINT` ends it.
    """
    _mount(",".join(options), mountpoint, foreground)


def _mount(text: str, mountpoint: str, foreground: bool, sloppy: bool = False) -> None:
    from cowroot.fuse.mounting import mount
    from cowroot.fuse.options import MountOptions

    mount(MountOptions.parse(text, sloppy), mountpoint, foreground)


def mount_helper(arguments: Optional[Sequence[str]] = None) -> int:
    """/sbin/mount.fuse.cowroot SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE], as mount(8) calls it. The exit code.

    -s: unknown options are no error; -f: pretend; the other letters say nothing new.
    """
    try:
        call = _parse_call(list(sys.argv[1:] if arguments is None else arguments))
        if "f" not in call.switches:
            _mount(_with_source(call.options, call.source), call.mountpoint, False, sloppy="s" in call.switches)
    except CowrootError as e:
        sys.stderr.write(f"mount.fuse.cowroot: error: {e.message}\n" + (f"hint: {e.hint}\n" if e.hint else ""))
        return e.exit_code
    return 0


class _HelperCall(NamedTuple):
    source: str
    mountpoint: str
    options: str
    switches: str


def _parse_call(arguments: list[str]) -> _HelperCall:
    """mount(8) puts its switches behind the operands, which getopt would take for the end of the switches."""
    operands: list[str] = []
    options: list[str] = []
    switches = ""
    words = iter(arguments)
    for word in words:
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        for place, letter in enumerate(word[1:], 2):
            if letter in "otN":
                value = word[place:] or next(words, None)
                if value is None:
                    raise ConfigError(f"-{letter} without a value", hint=_USAGE)
                options += [value] if letter == "o" else []
                break
            if letter not in "sfnv":
                raise ConfigError(f"unknown switch -{letter}", hint=_USAGE)
            switches += letter
    if len(operands) != 2:
        raise ConfigError("a source and a mount point are needed", hint=_USAGE)
    return _HelperCall(operands[0], operands[1], ",".join(options), switches)


def _with_source(text: str, source: str) -> str:
    """The source becomes the name that df shows, so that `mount -a` finds what is mounted already."""
    from cowroot.fuse.options import split

    if any(word.startswith("fsname=") for word in split(text, ",")):
        return text
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    return f"{text},fsname={escaped}" if text else f"fsname={escaped}"
