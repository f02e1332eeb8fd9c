"""/dev/fuse: opened and mounted by mount(2) where that is allowed, otherwise by fusermount3, which hands over a descriptor."""

from __future__ import annotations

import errno
import os

from cowroot.errors import MountError
from cowroot.fuse import kernel
from cowroot.fuse.direct.features import MAX_WRITE
from cowroot.fuse.options import FLAGS, LIBFUSE_FLAGS, MountOptions

KIND = "fuse.cowroot"


def mount(mountpoint: str, options: MountOptions) -> int:
    """Mount at the directory `mountpoint`. Returns the descriptor on which the kernel asks. Raises MountError."""
    if os.geteuid() != 0:
        return _mount_as_user(mountpoint, options)
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise MountError(
            f"/dev/fuse: {e.strerror}", hint="load the kernel's fuse module: modprobe fuse; in a container, make /dev/fuse available"
        ) from None
    words = [f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read={MAX_WRITE}"]
    words += ["allow_other"] if options.allow_other else []
    try:
        kernel.mount(options.fsname or "cowroot", mountpoint, KIND, options.flags, ",".join(words))
    except OSError as e:
        os.close(fd)
        hint = "mount as root of the initial user namespace, or as an ordinary user with fusermount3" if e.errno == errno.EPERM else ""
        raise MountError(f"{mountpoint}: cannot mount: {e.strerror}", hint=hint) from None
    return fd


def unmount(mountpoint: str) -> None:
    """Take a mount away that did not come up. What is not there is fine."""
    if os.geteuid() == 0:
        try:
            kernel.unmount_lazily(mountpoint)
        except OSError:
            pass  # never mounted, or unmounted by somebody else
    else:
        import subprocess

        subprocess.run([_fusermount(), "-u", "-q", "-z", "--", mountpoint], check=False)


def _fusermount() -> str:
    import shutil

    for name in ("fusermount3", "fusermount"):
        found = shutil.which(name)
        if found:
            return found
    raise MountError("neither fusermount3 nor fusermount is installed", hint="mounting without being root needs package fuse3")


def _mount_as_user(mountpoint: str, options: MountOptions) -> int:
    """fusermount3 mounts, if its rules allow it, and sends the descriptor through a socket (its protocol since FUSE's beginnings)."""
    import array  # these take longer to import than the union; a boot goes without
    import socket
    import subprocess

    words = ["subtype=cowroot", "default_permissions", f"max_read={MAX_WRITE}"]
    words += [name for name in LIBFUSE_FLAGS if options.flags & FLAGS[name][0]]
    words += ["allow_other"] if options.allow_other else []
    words.append("fsname=" + (options.fsname or "cowroot").replace("\\", "\\\\").replace(",", "\\,"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [_fusermount(), "-o", ",".join(words), "--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        theirs.close()
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split()) or f"exit {done.returncode}"
            hint = "mount as root, or on a directory of your own"
            if "allow_other" in said:
                hint = "write user_allow_other into /etc/fuse.conf, or leave allow_other away"
            raise MountError(f"{mountpoint}: {said}", hint=hint)
        fds = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_LEN(fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not fds:
        raise MountError(f"{mountpoint}: fusermount3 sent no descriptor")
    os.set_inheritable(fds[0], False)
    return fds[0]
