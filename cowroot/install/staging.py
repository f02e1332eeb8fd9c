"""The target as it will be, before it is: an overlay of it on which files are written and the target's own tools run.

Whatever happens there (a tool that fails, a disk that would be too small, an initrd without the hook), the target knows nothing of it. What
has come of it is the difference: the overlay's upper directories hold exactly the paths that were made, changed or removed.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from cowroot.errors import CowrootError
from cowroot.install import namespace, sandbox
from cowroot.install.state import DIRECTORY, State, look
from cowroot.install.tree import Tree

Say = Callable[[str], None]

_OPAQUE = "trusted.overlay.opaque"
# How much of a tool's output an error message repeats.
_TAIL = 15


@dataclass(frozen=True)
class Device:
    """The block device that a target's root file system lies on, and the names that its boot may use for it."""

    node: str
    uuid: str = ""
    label: str = ""
    partuuid: str = ""


@dataclass(frozen=True)
class Staged:
    """A path that staging changed, with its states before and after."""

    path: str
    before: State | None
    after: State | None


class ToolError(CowrootError):
    """A program of the target failed."""


@dataclass
class Staging:
    """An overlay of the file systems of a target; made by `stage`, for as long as its block lasts."""

    tree: Tree
    target: Tree
    # Mount point (from the target's root, "" for it) -> the upper directory of its overlay.
    uppers: Mapping[str, Tree]
    # Those of them that are on FAT.
    fat: frozenset[str]
    device: Device | None
    trusted: bool

    def run(self, tool: Sequence[str], say: Say) -> str:
        """Run a program of the target in the sandbox (see there); pass each line of its output to `say` and return all of it.

        Raises ToolError if it fails, with the end of its output.
        """
        specification = {
            "root": str(self.tree.path),
            "device": vars(self.device) if self.device else None,
            "trusted": self.trusted,
        }
        command = [
            "unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child", "--propagation", "slave",
            sys.executable, "-I", sandbox.__file__, json.dumps(specification), *tool,
        ]  # fmt: skip
        lines: list[str] = []
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=namespace.die_with_parent,
        ) as process:
            assert process.stdout
            try:
                for line in process.stdout:
                    lines.append(line.rstrip())
                    say(f"{os.path.basename(tool[0])}: {line.rstrip()}")
            except BaseException:
                process.kill()
                process.stdout.read()  # until the tool itself, which dies with what was killed, is gone too
                raise
        if process.returncode != 0:
            tail = "\n".join(f"    {line}" for line in deque(lines, _TAIL))
            what = f"`{' '.join(tool)}` in the target ended with exit code {process.returncode}"
            raise ToolError(f"{what}:\n{tail}" if tail else what, hint=self._hint(tool[0]))
        return "\n".join(lines)

    def _hint(self, tool: str) -> str:
        if "grub" in tool and self.device is None:
            return "GRUB must know the device of /: mount it and give --root its mount point, or use --image"
        return f"nothing was changed; run {tool} in the target to look into it"

    def changes(self) -> list[Staged]:
        """Return the paths that differ from the target, sorted."""
        found = {}
        for point, upper in self.uppers.items():
            for path in _touched(upper, self.target, point, ""):
                after = look(self.tree, path)
                staged = Staged(path, look(self.target, path), after.on_fat() if after and point in self.fat else after)
                # A file that was only opened for writing, or the directory above a change, has been copied up unchanged.
                if staged.before is None and staged.after is None:
                    continue
                if staged.before and staged.after and _as_good_as(staged.before, staged.after):
                    continue
                found[path] = staged
        return [found[path] for path in sorted(found)]

    def open_content(self, path: str, _: State) -> int:
        """Return a descriptor of a staged file's content, from the upper itself: the overlay is undefined once the target changes."""
        point = max((point for point in self.uppers if path == point or path.startswith(f"{point}/")), key=len)
        return self.uppers[point].open_file(path[len(point) :])


@contextmanager
def stage(target: Tree, scratch: Path, submounts: Sequence[str], device: Device | None, *, trusted: bool) -> Iterator[Staging]:
    """Mount an overlay over `target` and yield it. Must be in a private mount namespace, with `scratch` a tmpfs there.

    `submounts` are the mount points of disk file systems inside the target (`/boot`); an overlay does not see through them.
    """
    base = scratch / "staging"
    lower, merged = base / "lower", base / "merged"
    for directory in (base, lower, merged):
        directory.mkdir()
    with ExitStack() as stack:
        # A path of our own: what users call their directories may hold what mount options cannot.
        namespace.bind(target.path, lower)
        stack.callback(namespace.unmount, lower)
        uppers, fat = {}, set()
        for number, point in enumerate(["", *sorted(submounts)]):
            upper = _directory_like(f"{lower}{point}", base / f"upper{number}")
            # The source's name is what grub-probe takes for the device of /.
            source = "cowroot" if point or not device else device.node if trusted else sandbox.DEVICE
            below = f"{lower}{point}"
            if point and target.is_on_fat(f"{point}/EFI"):
                below = _copy_of(below, base / f"fat{number}")
                fat.add(point)
            _mount_overlay(source, below, upper, f"{merged}{point}", 0 if trusted else namespace.MS_NOSUID | namespace.MS_NODEV)
            stack.callback(namespace.unmount, f"{merged}{point}")
            uppers[point] = stack.enter_context(Tree(upper))
        yield Staging(stack.enter_context(Tree(merged)), target, uppers, frozenset(fat), device, trusted)


def _copy_of(directory: str, place: Path) -> str:
    """Copy an EFI system partition into memory: overlayfs takes no file system for a lower whose names know no case."""
    shutil.copytree(directory, place)
    return str(place)


def _directory_like(model: str, place: Path) -> Path:
    """Make an upper directory: it is what is seen as the root directory of the overlay."""
    place.mkdir()
    status = os.stat(model)
    os.chown(place, status.st_uid, status.st_gid)
    os.chmod(place, stat.S_IMODE(status.st_mode))
    os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))
    return place


def _mount_overlay(source: str, lower: str, upper: Path, place: str, flags: int) -> None:
    work = upper.with_name(f"{upper.name}.work")
    work.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off,xino=off"
    try:
        namespace.mount(source, place, "overlay", flags, options)
    except OSError as error:
        raise CowrootError(
            f"the target cannot be overlaid, to try the changes out before making them: {error.strerror}",
            hint="this needs a kernel with overlayfs (modprobe overlay) and root's rights",
        ) from None


def _as_good_as(before: State, after: State) -> bool:
    return before == after or (before.kind == DIRECTORY and before.same(after))


def _touched(upper: Tree, target: Tree, point: str, inside: str) -> Iterator[str]:
    """Yield the paths (from the target's root) that an upper directory speaks of, whiteouts and what opaque directories hide included."""
    names = upper.listdir(inside)
    for name in names:
        path = f"{inside}/{name}"
        status = upper.lstat(path)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:  # a whiteout, as overlayfs writes them
            yield from _all_below(target, point + path)
            continue
        yield point + path
        if stat.S_ISDIR(status.st_mode):
            yield from _touched(upper, target, point, path)
            if upper.xattrs(path).get(_OPAQUE) == b"y":
                yield from _all_below(target, point + path)


def _all_below(target: Tree, path: str) -> Iterator[str]:
    """Yield `path` and, if it is a directory of the target, everything in it."""
    yield path
    try:
        is_directory = stat.S_ISDIR(target.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    if is_directory:
        for name in target.listdir(path):
            yield from _all_below(target, f"{path}/{name}")
