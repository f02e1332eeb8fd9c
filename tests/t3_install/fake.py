"""Trees that look like a root file system, snapshots of them that show every difference, and a kill at any step."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Union


class Link(str):
    """The target of a symbolic link."""


class Script(str):
    """The text of an executable."""


Content = Union[str, bytes, Link, Script, None]


# Long ago, and not on a full second: a restored time must be exact.
OLD_NS = 1_500_000_000_123_456_789


def make_fake_tree(root: Path, entries: dict[str, Content]) -> Path:
    """Make `root` hold the entries: path -> content, a Link, a Script, or None for a directory. All times are OLD_NS."""
    root.mkdir(parents=True, exist_ok=True)
    for path, content in entries.items():
        place = root / path.lstrip("/")
        (place if content is None else place.parent).mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            place.symlink_to(content)
        elif content is not None:
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
            program = isinstance(content, Script) or (isinstance(content, bytes) and content.startswith(b"\x7fELF"))
            place.chmod(0o755 if program else 0o644)
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            os.utime(os.path.join(directory, name), ns=(OLD_NS, OLD_NS), follow_symlinks=False)
        os.utime(directory, ns=(OLD_NS, OLD_NS))
    for directory, names, _ in os.walk(root):
        for name in names:
            if os.path.islink(os.path.join(directory, name)):
                os.utime(os.path.join(directory, name), ns=(OLD_NS, OLD_NS), follow_symlinks=False)
    return root


def snapshot(root: Path) -> dict[str, Any]:
    """Return everything that can be seen of a tree but inode numbers and the times of access and inode change."""
    seen = {}
    for directory, names, files in os.walk(root):
        for name in [".", *names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            facts: list[Any] = [oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns]
            if stat.S_ISREG(status.st_mode):
                facts.append(hashlib.sha256(Path(path).read_bytes()).hexdigest())
            if stat.S_ISLNK(status.st_mode):
                facts.append(os.readlink(path))
            else:
                facts.append({key: os.getxattr(path, key) for key in os.listxattr(path)})
            seen[os.path.normpath(os.path.relpath(path, root))] = facts
    return seen


_CHANGING = ("mkdir", "rmdir", "unlink", "rename", "symlink", "write", "chown", "fchown", "fchmod", "utime", "setxattr", "removexattr")


@contextmanager
def _watched(before_each: Callable[[], None]) -> Iterator[None]:
    """Have `before_each` called before every system call of this process that changes a file system."""

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            before_each()
            return call(*arguments, **options)

        return wrapper

    originals = {name: getattr(os, name) for name in _CHANGING}
    for name, call in originals.items():
        setattr(os, name, watched(call))
    try:
        yield
    finally:
        for name, call in originals.items():
            setattr(os, name, call)


def count_steps(action: Callable[[], object]) -> int:
    """Do `action`; return how many system calls it made that change a file system."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with _watched(count):
        action()
    return steps


def run_killed(step: int, action: Callable[[], object]) -> bool:
    """Do `action` in a child that is killed before its `step`th changing system call (counted from 0).

    Returns whether it came to its end before that. An exception in it fails the test.
    """
    child = os.fork()
    if child == 0:
        code, left = 1, step

        def count_down() -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        try:
            with _watched(count_down):
                action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, f"the action failed by itself, killed at no step before {step}"
    return True
