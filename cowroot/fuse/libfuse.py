"""fusepy's bindings of libfuse 2, and what they lack.

From fusepy 3.0.1 come the loaded library, `c_stat`, `fuse_file_info` and the first part of `fuse_operations`, each right for the machine
at hand. Added here: the operations that libfuse 2.9 has after `ioctl` (its fuse.h), the session functions that fusepy has no
use for since it calls `fuse_main`, and callbacks that get plain addresses, because converting every path and structure costs more than
most requests.
"""

from __future__ import annotations

import ctypes
import os
import sys
import types
from typing import Any, Callable, Optional

from cowroot.errors import MountError

LIBRARY = "libfuse.so.2"
OLDEST = 29  # 2.9: the first that needs no path for what is done through a handle
LIBRARY_HINT = "install libfuse 2: package libfuse2 (Debian 12, Ubuntu 22.04 and older) or libfuse2t64 (Debian 13, Ubuntu 24.04 and newer)"
LATER_OPERATIONS = ("poll", "write_buf", "read_buf", "flock", "fallocate")

_address, _int, _uint, _size, _offset = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_int64
# What each operation is called with, an address for every pointer.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "getattr": (_address, _address), "fgetattr": (_address, _address, _address), "mknod": (_address, _uint, ctypes.c_uint64),
    "mkdir": (_address, _uint), "unlink": (_address,), "rmdir": (_address,), "symlink": (_address, _address),
    "rename": (_address, _address), "link": (_address, _address), "create": (_address, _uint, _address),
    "release": (_address, _address), "fsyncdir": (_address, _int, _address),
    "readdir": (_address, _address, _address, _offset, _address),
}  # fmt: skip
INIT_CALLBACK = ctypes.CFUNCTYPE(_address, _address)  # init does not return an error but private data
FILLER = ctypes.CFUNCTYPE(_int, _address, ctypes.c_char_p, _address, _offset)
SEND = ctypes.CFUNCTYPE(_int, _address, _address, _size)


class ChannelOperations(ctypes.Structure):
    """struct fuse_chan_ops: where a session's replies go (fuse_lowlevel.h)."""

    _fields_ = [("receive", _address), ("send", _address), ("destroy", _address)]


class ConnectionInfo(ctypes.Structure):
    """struct fuse_conn_info (fuse_common.h)."""

    _fields_ = [
        (name, _uint)
        for name in (
            "proto_major", "proto_minor", "async_read", "max_write", "max_readahead", "capable", "want", "max_background",
            "congestion_threshold",
        )
    ]  # fmt: skip


def load() -> Any:
    """Import fusepy and through it libfuse 2. Returns fusepy's module; raises MountError if one of them is missing.

    PyPI's fusepy calls its module `fuse`, Debian's python3-fusepy calls it `fusepy`, and Debian's python3-fuse is another library that
    is also called `fuse`. The library is named outright: fusepy's own search runs ldconfig or a compiler, which an initrd does not have.
    """
    os.environ.setdefault("FUSE_LIBRARY_PATH", LIBRARY)
    for name in ("fuse", "fusepy"):
        try:
            module = _import_fusepy(name)
        except ImportError:
            continue
        except OSError as e:  # what ctypes raises for a library that cannot be loaded
            raise MountError(f"cannot load libfuse 2: {e}", hint=LIBRARY_HINT) from None
        if hasattr(module, "fuse_operations") and hasattr(module, "c_stat"):
            version = module._libfuse.fuse_version()
            if version < OLDEST:
                raise MountError(f"libfuse {version / 10} is too old", hint="libfuse 2.9 is needed; " + LIBRARY_HINT)
            return module
    raise MountError("the Python module fusepy is missing", hint="pip install fusepy==3.0.1, or the package python3-fusepy")


def _import_fusepy(name: str) -> Any:
    """Import the module `name` in the presence of stand-ins for what fusepy imports and neither its structures nor we have a use for.

    logging, traceback, platform and ctypes.util bring thirty modules along, which take longer to import than all that is needed. If it
    is something else that is called so, or another version of fusepy, the stand-ins may not do: then it is imported as usual.
    """
    system = os.uname()
    wanted: dict[str, dict[str, Any]] = {
        "logging": {"getLogger": lambda name: None},
        "traceback": {"print_exc": None},
        "platform": {"machine": lambda: system.machine, "system": lambda: system.sysname},
        "ctypes.util": {"find_library": None},
    }
    stand_ins = {}
    for missing in wanted.keys() - sys.modules.keys():
        stand_ins[missing] = sys.modules[missing] = types.ModuleType(missing)
        vars(stand_ins[missing]).update(wanted[missing])
    try:
        return __import__(name)
    except (AttributeError, ImportError, TypeError):
        pass  # not there, or in need of more than the stand-ins: the import below tells
    finally:
        for missing in stand_ins:
            del sys.modules[missing]
    return __import__(name)


def operations_table(fusepy: Any, callbacks: dict[str, Callable[..., int]], init: Any) -> tuple[ctypes.Structure, list[Any]]:
    """Fill libfuse's table of operations with `callbacks`. Returns it and what has to live as long as it."""

    class Operations(ctypes.Structure):
        _fields_ = [
            field if len(field) > 2 else (field[0], ctypes.c_void_p)  # the three entries of a bit field keep their form
            for field in fusepy.fuse_operations._fields_
        ] + [(name, ctypes.c_void_p) for name in LATER_OPERATIONS]

    table = Operations()
    keep: list[Any] = [init]
    for name, function in callbacks.items():
        callback = ctypes.CFUNCTYPE(_int, *SIGNATURES[name])(function)
        keep.append(callback)
        setattr(table, name, ctypes.cast(callback, ctypes.c_void_p))
    table.init = ctypes.cast(init, ctypes.c_void_p)
    table.flag_nullpath_ok = table.flag_nopath = table.flag_utime_omit_ok = 1
    return table, keep


def overheard(action: Callable[[], Any]) -> tuple[Any, str]:
    """What `action` returns and what it writes to stderr: libfuse, and the fusermount that it may run, say there why they fail."""
    reading, writing = os.pipe()
    stderr = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    try:
        result = action()
    finally:
        os.dup2(stderr, 2)  # closes the last writing end
        os.close(stderr)
    with os.fdopen(reading, "rb") as said:
        return result, said.read().decode(errors="replace")


def explain(mountpoint: str, said: str) -> MountError:
    """The error for what libfuse has `said` when it could not mount."""
    text = "; ".join(line.replace("fuse: ", "", 1).strip() for line in said.splitlines() if line.strip()) or "libfuse could not mount"
    return MountError(f"{mountpoint}: {text}", hint=_hint(said))


def _hint(said: str) -> str:
    if "device not found" in said or "/dev/fuse" in said:
        return "load the kernel's fuse module: modprobe fuse; in a container, make /dev/fuse available"
    if "fusermount" in said and "exec" in said:
        return "mounting without being root needs fusermount: package fuse3"
    if "allow_other" in said:
        return "let users ask for allow_other with user_allow_other in /etc/fuse.conf, or leave it away"
    if "ermi" in said or "no write access" in said:  # permission, Permission, permitted
        return "mount as root, or on a directory of your own"
    return ""


class Session:
    """libfuse's session functions over the library that fusepy has loaded."""

    def __init__(self, library: Any) -> None:
        self._library = library

        def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
            # one object of our own for each: fusepy sets prototypes on the library's attributes
            found: Callable[..., Any] = ctypes.CFUNCTYPE(result, *arguments)((name, library))
            return found

        pointer = ctypes.POINTER
        self.setup = function("fuse_setup", _address, _int, _address, _address, _size, pointer(_address), pointer(_int), _address)
        self.teardown = function("fuse_teardown", None, _address, _address)
        self.session_of = function("fuse_get_session", _address, _address)
        self.next_channel = function("fuse_session_next_chan", _address, _address, _address)
        self.channel_fd = function("fuse_chan_fd", _int, _address)
        self.process = function("fuse_session_process", None, _address, _address, _size, _address)
        self._new_channel = function("fuse_chan_new", _address, _address, _int, _size, _address)
        self._keep: list[Any] = []

    def channel(self, send: Callable[[int, int, int], int], fd: int, size: int) -> Optional[int]:
        """A channel whose replies go to `send(channel, iovecs, count)`, for the requests that are processed with it."""
        callback = SEND(send)
        operations = ChannelOperations(None, ctypes.cast(callback, _address), None)
        self._keep += [callback, operations]
        found: Optional[int] = self._new_channel(ctypes.addressof(operations), fd, size, None)
        return found
