"""What a daemon gives up for good before it answers the first request, so that a fault of its own is worth little to an attacker.

Root's capabilities but those that files need; whatever a program could be started with; and the system calls by which one reaches beyond
files. What is refused fails with EPERM: a daemon that was ended for it would take `/` along.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from cowroot.fuse.kernel import last_error

_libc = ctypes.CDLL(None, use_errno=True)

# linux/capability.h, and what each is for.
CAPABILITIES = {
    "chown": 0,  # files get their creators' owners
    "dac_override": 1,  # and are reached by whatever the kernel has found their callers to be allowed
    "fowner": 3,  # chmod, utimes, ACLs; O_NOATIME
    "fsetid": 4,  # set-group-ID on files of groups that root is not in
    "sys_admin": 21,  # trusted.* attributes; passthrough; to unmount
    "mknod": 27,
    "lease": 28,  # passthrough finds out by them who may still write to a file
    "setfcap": 31,  # security.capability
}
TO_LOCK = {"ipc_lock": 14}  # to get more memory, where all of it is locked

# Calls by which one reaches beyond files, by architecture: asm/unistd_64.h and asm-generic/unistd.h. From 424 on they are everywhere the
# same. Timers, signals and threads of its own are the daemon's business.
_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
}  # fmt: skip
_X86_64 = {
    "socket": 41, "connect": 42, "fork": 57, "vfork": 58, "execve": 59, "ptrace": 101, "syslog": 103, "uselib": 134, "personality": 135,
    "vhangup": 153, "modify_ldt": 154, "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165,
    "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "unshare": 272, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "clock_adjtime": 305,
    "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321,
    "execveat": 322, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "vhangup": 58, "quotactl": 60, "acct": 89, "personality": 92,
    "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117,
    "reboot": 142, "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "socket": 198, "connect": 203,
    "add_key": 217, "request_key": 218, "keyctl": 219, "execve": 221, "swapon": 224, "swapoff": 225, "perf_event_open": 241,
    "fanotify_init": 262, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
    "kcmp": 272, "finit_module": 273, "bpf": 280, "execveat": 281, "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip
# architecture of a call (linux/audit.h); seccomp(2) and clone(2); what is refused
MACHINES: dict[str, tuple[int, int, int, dict[str, int]]] = {
    "x86_64": (0xC000003E, 317, 56, {**_X86_64, **_EVERYWHERE}),
    "aarch64": (0xC00000B7, 277, 220, {**_AARCH64, **_EVERYWHERE}),
}
_CLONE3 = 435
_CLONE_THREAD = 0x10000  # linux/sched.h
_CLONE_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
# What a process may still do besides serving: unmount in the end, where it is the only one; and, as a keeper, make further processes.
ALONE, KEEPING = frozenset(("umount2",)), frozenset(("umount2", "fork", "vfork"))
_X32 = 0x40000000  # other numbers for the calls of x86-64

# linux/bpf_common.h: load a word of what linux/seccomp.h calls seccomp_data, compare, return
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000  # with an errno in the low bits

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38  # linux/prctl.h
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # linux/seccomp.h
_CAPABILITY_VERSION_3 = 0x20080522


def give_up_capabilities(locked: bool = False) -> None:
    """Keep of the capabilities those in CAPABILITIES, and let no program that is started from here get others. Raises OSError.

    Argument: `locked`: keep that in TO_LOCK too.
    """
    wanted = {*CAPABILITIES.values(), *(TO_LOCK.values() if locked else ())}
    for number in range(64):
        if _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) < 0:
            break  # the kernel does not know that many
        if number not in wanted:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # EPERM without CAP_SETPCAP: there is nothing that could be got back then
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    kept = capabilities() & sum(1 << number for number in wanted)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)):
        raise last_error("capset")


def capabilities() -> int:
    """This thread's effective capabilities, as bits. Raises OSError."""
    header, sets = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)), ctypes.create_string_buffer(24)
    if _libc.capget(header, sets):
        raise last_error("capget")
    low, _, _, high, _, _ = struct.unpack("=6I", sets.raw)
    return int(low | high << 32)


def names(bits: int) -> list[str]:
    """Capabilities by their names, as far as they have one here."""
    known = {number: name for name, number in (*CAPABILITIES.items(), *TO_LOCK.items())}
    return [known.get(number, str(number)) for number in range(64) if bits >> number & 1]


def refuse_system_calls(spared: frozenset[str] = frozenset()) -> str:
    """Have the kernel refuse, to this thread and those it starts, what a file server never asks for; no program gets more rights than it.

    What was refused before stays refused: a process that is to have less than its parent refuses the rest. Argument: `spared`: calls
    that are still needed. Returns why nothing is refused; nothing if it is.
    """
    machine = os.uname().machine
    if machine not in MACHINES or sys.maxsize < 1 << 32:  # a 32-bit program's calls have other numbers
        return f"no numbers are known of a {machine}'s system calls" if machine not in MACHINES else "this is a 32-bit program"
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return f"no_new_privs: {last_error('').strerror}"
    text = _filter(machine, spared)
    instructions = ctypes.create_string_buffer(text, len(text))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(text) // 8, ctypes.addressof(instructions)))
    seccomp = MACHINES[machine][1]
    # Without the flag, kernels before 5.16 would make the processor run slower, for the sake of programs that are not trusted.
    for flags in (_SPEC_ALLOW, 0):
        if _libc.syscall(seccomp, _SET_MODE_FILTER, flags, program) == 0:
            return ""
    return f"seccomp: {last_error('').strerror}"


def _filter(machine: str, spared: frozenset[str]) -> bytes:
    """The program that the kernel asks about each call: struct sock_filter, one after the other."""
    architecture, _, clone, numbers = MACHINES[machine]
    refused = sorted(number for name, number in numbers.items() if name not in spared)
    # of clone(2): a thread, not a process; or whatever shares the namespaces
    allows, flags = (0, _CLONE_NAMESPACES) if "fork" in spared else (1, _CLONE_THREAD)
    end = len(refused) + 9  # the line that refuses; the next allows
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, end - 2, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, end - 4, 0, _X32),
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),  # what clone3(2) is to do cannot be seen from here; libc then takes clone(2)
        *((_EQUAL, end - 7 - place, 0, number) for place, number in enumerate(refused)),
        (_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_HAS_BITS, allows, 1 - allows, flags),
        (_RETURN, 0, 0, _REFUSE | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
