"""The portable engine: the union served through fusepy and libfuse 2, on every kernel that has FUSE.

fusepy's own class hands libfuse's loop the control and translates each path and structure. Here libfuse mounts, agrees on the protocol,
keeps the table of names and serves directories, but the loop is ours: it reads each request, looks at its header, and then lets libfuse
process it, or answers it without. That gives what libfuse's path interface leaves out, and spares requests that are not about names
the detour:

- the node a request is about, without walking a path, also after its path is gone;
- one kernel inode for all names of a file (`inodes`);
- answers to what is about one file, and to what libfuse 2 cannot express, without it (`node_answers`, `file_answers`);
- protocol features which need nothing of libfuse but that the kernel hears of them: see `_send_init`.

One thread serves everything: the GIL would let no two run anyway, and one request at a time is how the union wants to be called. It never
touches the mounted file system, for that would be waiting for itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from typing import Any, Callable, Optional
from typing import Union as EitherOf

from cowroot.fuse import libfuse
from cowroot.fuse import protocol as p
from cowroot.fuse.file_answers import FileAnswers
from cowroot.fuse.inodes import Inode, Inodes
from cowroot.fuse.latency import LAP, Latency
from cowroot.fuse.node_answers import NO_ENTRY, YEAR, NodeAnswers, entry_out
from cowroot.fuse.operations import Operations
from cowroot.fuse.options import MountOptions
from cowroot.fuse.request import OpenFiles, Request
from cowroot.fuse.shortage import keep_off, lends
from cowroot.fuse.writers import Writers
from cowroot.union import Node, Union

MAX_TRANSFER = 1 << 20  # bytes of one read or write where the kernel can (MAX_PAGES), else libfuse's 128 KiB
BUFFER_SIZE = MAX_TRANSFER + 8192
LIBFUSE_BUFFER = 0x21000  # what libfuse's own channel would have (MIN_BUFSIZE in fuse_kern_chan.c): from it follows max_write
BEYOND_LIBFUSE = ("no_opendir_support", "passthrough", "readdirplus")
WANTED = p.PARALLEL_DIROPS | p.POSIX_ACL | p.MAX_PAGES | p.CACHE_SYMLINKS | p.HANDLE_KILLPRIV_V2 | p.SETXATTR_EXT
RENAME2_MINOR = 23  # from this protocol version on the kernel sends renames with flags
CAP_ATOMIC_O_TRUNC, CAP_BIG_WRITES, CAP_DONT_MASK = 1 << 3, 1 << 5, 1 << 6
RENAME_EXCHANGE = 2
LIBRARY_OPTIONS = [
    "use_ino",  # inode numbers are the union's
    "hard_remove",  # no `.fuse_hidden` names: files that are open live on without one
    *(f"{what}_timeout={YEAR}" for what in ("entry", "attr", "negative")),  # the kernel's caches are the truth
]
NO_HANDLE = 0  # of a directory that was opened here; libfuse's handles are addresses
_FORGOTTEN = "the kernel asks about an inode that it has forgotten"
FORGET_TOGETHER = 32  # names that libfuse is told to forget at once
_IOVECS = struct.Struct("PNPN")
_IOVEC = struct.Struct("PN")
_SECOND_BASE = struct.Struct("P")  # where the second of two points
_PARKED = b"\x01cowroot-exchange"  # a name in libfuse's table for the time of an exchange

Report = Callable[[str, BaseException], None]


class FusepyEngine:
    """One mounted union.

    Arguments: `union`: what to serve; `report(operation, exception)` is told of what should not happen; `latency`: to be asked for while
    requests come.
    """

    name = "fusepy"

    def __init__(self, union: Union, report: Report, latency: Latency) -> None:
        fusepy = libfuse.load()
        self._union = union
        self._report = report
        self._latency = latency
        self._fusepy = fusepy
        self._session = libfuse.Session(fusepy._libfuse)
        self.buffer = bytearray(BUFFER_SIZE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        self.request = Request(self.buffer)
        self.inodes = Inodes(union.root)
        self.files = OpenFiles()
        self.writers = Writers()
        union.tree.on_copy_up = self._copied_up
        self._operations = Operations(fusepy, union, self.inodes, self.files, self.request, self.writers)
        self._nodes = NodeAnswers(union, self.request)
        self._open = FileAnswers(union, self.inodes, self.files, self.request, self._nodes, self.writers)
        self._reply_buffer = memoryview(bytearray(BUFFER_SIZE))
        self._reply_data = self._reply_buffer[p.OUT_HEADER.size :]
        self.counts = [0] * p.OPCODE_LIMIT  # requests, by opcode
        self.protocol = self.kernel_protocol = (0, 0)
        self.features: list[str] = []
        self.missing: dict[str, str] = {}
        self._on_ready: Callable[[], None] = lambda: None
        self._fuse: Optional[int] = None
        self._mountpoint = ctypes.c_void_p()
        self._forgotten: list[tuple[int, int]] = []  # what libfuse is yet to forget: (its number, look-ups)
        self._scratch = ctypes.create_string_buffer(4096)  # for requests of our own making
        self._handlers = self._handler_table()
        self.fd = -1

    @property
    def open_files(self) -> int:
        return len(self.files)

    # -- coming up and going down

    def mount(self, mountpoint: str, options: MountOptions) -> None:
        """Mount with libfuse. Raises MountError, with what libfuse had to say."""
        library = self._session
        callbacks = {name: self._guarded(name, function) for name, function in self._operations.table().items()}
        init = libfuse.INIT_CALLBACK(self._init)
        table, self._keep = libfuse.operations_table(self._fusepy, callbacks, init)
        self._keep.append(table)
        words = ",".join([*options.libfuse_options(), *LIBRARY_OPTIONS])
        arguments = [b"cowroot", b"-f", b"-o", os.fsencode(words), os.fsencode(mountpoint)]
        argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments)
        size, threads = ctypes.sizeof(table), ctypes.byref(ctypes.c_int())
        fuse, said = libfuse.overheard(
            lambda: library.setup(len(arguments), argv, ctypes.addressof(table), size, ctypes.byref(self._mountpoint), threads, None)
        )
        if not fuse:
            raise libfuse.explain(mountpoint, said)
        self._fuse = fuse
        self._fuse_session = library.session_of(fuse)
        self._channel = library.next_channel(self._fuse_session, None)
        self.fd = library.channel_fd(self._channel)
        self._entry_channel = library.channel(self._send_entry, self.fd, LIBFUSE_BUFFER)
        self._init_channel = library.channel(self._send_init, self.fd, LIBFUSE_BUFFER)
        self._silent_channel = library.channel(lambda channel, vectors, count: 0, -1, LIBFUSE_BUFFER)

    def close(self) -> None:
        """Give the mount up: unmount if it is still there."""
        if self._fuse is not None:
            self._session.teardown(self._fuse, self._mountpoint)
            self._fuse = None

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer requests until the file system is unmounted. `on_ready()` is called once the kernel has got its first answer."""
        self._on_ready = on_ready
        fd, buffer, request, counts, handlers = self.fd, self.buffer, self.request, self.counts, self._handlers
        unpack, readv, vector = p.IN_HEADER.unpack_from, os.readv, [buffer]
        self._latency.begin()
        lap = 0
        reserve = self._union.reserve
        while True:
            try:
                readv(fd, vector)
            except OSError as e:
                if e.errno in (errno.ENODEV, errno.ECONNABORTED):  # unmounted; aborted
                    return
                if e.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):  # the request was interrupted before it was read
                    continue
                raise
            lap += 1
            if lap == LAP:
                lap = 0
                self._latency.lap()
            request.length, opcode, request.unique, number, request.uid, request.gid, request.pid, _ = unpack(buffer)
            request.opcode = opcode
            try:
                if opcode < p.OPCODE_LIMIT:
                    counts[opcode] += 1
                    if reserve.lacking and request.uid:
                        keep_off(self._union, opcode, buffer, self.files.find)
                    handlers[opcode](number)
                else:
                    self._unknown(number)
            except OSError as e:
                self._fail(e, number)
            except Exception as e:
                self._report(p.OPCODES.get(opcode, str(opcode)), e)
                self._reply_error(errno.EIO)

    def _copied_up(self, node: Node) -> None:
        if node.kind == stat.S_IFREG:
            self.writers.note(node.ino, self.request.pid)

    def _fail(self, error: OSError, number: int) -> None:
        """Answer with an error, unless the request can be done after all, with room that it is given."""
        opcode = self.request.opcode
        try:
            while error.errno == errno.ENOSPC and lends(self._union, opcode, self.request.uid, self.buffer):
                try:
                    self._handlers[opcode](number)
                    return
                except OSError as e:
                    error = e
        except Exception as e:
            self._report(p.OPCODES.get(opcode, str(opcode)), e)
        self._reply_error(error.errno or errno.EIO)

    # -- which way a request goes

    def _handler_table(self) -> list[Callable[[int], None]]:
        handlers: list[Callable[[int], None]] = [self._unknown] * p.OPCODE_LIMIT
        for answers in (self._nodes.table(), self._open.table()):
            for opcode, answer in answers.items():
                handlers[opcode] = self._answering(answer)
        handlers[p.READ], handlers[p.OPENDIR], handlers[p.LOOKUP] = self._read, self._opendir, self._lookup
        for opcode in (p.MKNOD, p.MKDIR, p.SYMLINK, p.CREATE):
            handlers[opcode] = self._entry
        for opcode in (p.UNLINK, p.RMDIR, p.RENAME, p.READDIR, p.RELEASEDIR, p.FSYNCDIR):
            handlers[opcode] = self._in_directory
        handlers[p.LINK], handlers[p.RENAME2] = self._link, self._rename_with_flags
        handlers[p.INIT], handlers[p.DESTROY] = self._start, self._to_libfuse
        handlers[p.FORGET], handlers[p.BATCH_FORGET] = self._forget, self._forget_many
        handlers[p.INTERRUPT] = lambda number: None  # one thread: what it is about is answered, or not yet read
        # None is passed on: what a layer's file system could be asked says nothing of the union. ENOSYS would be for good. Without an
        # exception, since systemd asks for each line that it reads whether that is a terminal: close to half of a boot's requests.
        handlers[p.IOCTL] = lambda number: self._reply_error(errno.ENOTTY)
        return handlers

    def _find(self, number: int) -> Inode:
        inode = self.request.inode = self.inodes.find(number)  # type: ignore[assignment]
        if inode is None:
            raise OSError(errno.ESTALE, _FORGOTTEN)
        return inode

    def _to_libfuse(self, number: int) -> None:
        self._session.process(self._fuse_session, self._address, self.request.length, self._channel)

    def _unknown(self, number: int) -> None:
        """Never to libfuse: it aborts over a number that it does not know. The kernel takes ENOSYS for an answer once and for all."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def _answering(self, answer: Callable[[], bytes]) -> Callable[[int], None]:
        """A handler that answers a request about one file with what `answer()` returns."""
        request, find = self.request, self.inodes.find

        def handle(number: int) -> None:
            inode = find(number)
            if inode is None:
                raise OSError(errno.ESTALE, _FORGOTTEN)
            request.inode = inode
            if self._reply(answer()) and request.opcode in (p.OPEN, p.TMPFILE):
                self._open.take_back()

        return handle

    def _read(self, number: int) -> None:
        header = p.OUT_HEADER.size
        size = header + self._open.read(self._reply_data)
        p.OUT_HEADER.pack_into(self._reply_buffer, 0, size, 0, self.request.unique)
        self._write(self._reply_buffer[:size])

    def _lookup(self, number: int) -> None:
        """libfuse keeps what is there under a name; that nothing is there it need not know."""
        request = self.request
        directory, name = self._find(number), request.name(0)
        try:
            request.entry = self._union.lookup(directory.node, name)
        except FileNotFoundError:
            self._reply(NO_ENTRY)
            return
        request.place = (number, name)
        self._session.process(self._fuse_session, self._address, request.length, self._entry_channel)

    def _opendir(self, number: int) -> None:
        """libfuse needs a path of the directory, but any does."""
        lid = self._find(number).living_lid()
        if not lid:
            self._reply(p.OPEN_OUT.pack(NO_HANDLE, 0, 0))
            return
        p.U64.pack_into(self.buffer, p.NODEID_OFFSET, lid)
        self._to_libfuse(number)

    def _entry(self, number: int) -> None:
        """A request that is answered with an entry, whose number has to be translated."""
        self._find(number)
        self._session.process(self._fuse_session, self._address, self.request.length, self._entry_channel)

    def _in_directory(self, number: int) -> None:
        request = self.request
        self._find(number)
        request.rename_flags = 0
        if request.opcode in (p.READDIR, p.RELEASEDIR, p.FSYNCDIR) and p.U64.unpack_from(self.buffer, p.BODY)[0] == NO_HANDLE:
            if request.opcode == p.READDIR:
                raise OSError(errno.ENOENT, "the directory is removed")
            self._reply(b"")
            return
        self._to_libfuse(number)

    def _link(self, number: int) -> None:
        request = self.request
        old = self._find(p.U64.unpack_from(self.buffer, p.BODY)[0])
        directory = self._find(number)
        request.entry = old.node
        lid = old.living_lid()
        if lid:
            p.U64.pack_into(self.buffer, p.BODY, lid)
        else:  # libfuse has no path to link: it is done already when libfuse finds the new name
            name = request.name(p.U64.size)
            self._union.link(old.node, directory.node, name)
            request.place = (number, name)
            self._rewrite(p.LOOKUP, name + b"\0")
        self._entry(number)

    def _rename_with_flags(self, number: int) -> None:
        request = self.request
        target, flags, _ = p.RENAME2_IN.unpack_from(self.buffer, p.BODY)
        directory, target_directory = self._find(number), self._find(target)
        if not flags & RENAME_EXCHANGE:
            names = self.buffer[p.BODY + p.RENAME2_IN.size : request.length]
            self._rewrite(p.RENAME, p.U64.pack(target) + names)
            request.inode, request.rename_flags = directory, flags
            self._to_libfuse(number)
            return
        old, new = request.names(p.RENAME2_IN.size)
        first, second = (self.inodes.of(self._union.lookup(d.node, name)) for d, name in ((directory, old), (target_directory, new)))
        self._union.rename(directory.node, old, target_directory.node, new, flags)
        one, two, parked = (number, old), (target, new), (number, _PARKED)
        for inode, source, goal in ((first, one, parked), (second, two, one), (first, parked, two)):
            self._send_own(p.RENAME, source[0], p.U64.pack(goal[0]) + source[1] + b"\0" + goal[1] + b"\0")
            self.inodes.rename(inode, source, goal)
        self._reply(b"")

    def _rewrite(self, opcode: int, body: bytes) -> None:
        """Make another request of the one in hand."""
        request = self.request
        request.opcode, request.length = opcode, p.BODY + len(body)
        self.buffer[p.BODY : request.length] = body
        p.REWRITTEN.pack_into(self.buffer, 0, request.length, opcode)

    def _send_own(self, opcode: int, number: int, body: bytes) -> None:
        """Have libfuse process a request that the kernel did not make; its reply goes nowhere."""
        length = p.BODY + len(body)
        ctypes.memmove(self._scratch, p.IN_HEADER.pack(length, opcode, 0, number, 0, 0, 0, 0) + body, length)
        self._session.process(self._fuse_session, ctypes.addressof(self._scratch), length, self._silent_channel)

    def _forget(self, number: int) -> None:
        self._forget_one(number, p.U64.unpack_from(self.buffer, p.BODY)[0])

    def _forget_many(self, number: int) -> None:
        (count, _) = p.OPEN_IN.unpack_from(self.buffer, p.BODY)  # fuse_batch_forget_in: count and a dummy
        for entry in range(count):
            self._forget_one(*p.FORGET_ONE.unpack_from(self.buffer, p.BODY + 8 + entry * p.FORGET_ONE.size))

    def _forget_one(self, number: int, count: int) -> None:
        inode = self.inodes.find(number)
        if inode is None or number == p.ROOT_ID:
            return
        self._forgotten += self.inodes.forget(inode, count)
        self._union.forget(inode.node, count)
        if len(self._forgotten) >= FORGET_TOGETHER:
            body = p.OPEN_IN.pack(len(self._forgotten), 0) + b"".join(p.FORGET_ONE.pack(*each) for each in self._forgotten)
            self._forgotten.clear()
            self._send_own(p.BATCH_FORGET, 0, body)

    # -- replies

    def _reply(self, body: bytes) -> int:
        return self._write(p.OUT_HEADER.pack(p.OUT_HEADER.size + len(body), 0, self.request.unique) + body)

    def _reply_error(self, number: int) -> None:
        if self.request.opcode not in (p.FORGET, p.BATCH_FORGET, p.INTERRUPT):  # those get no reply
            self._write(p.OUT_HEADER.pack(p.OUT_HEADER.size, -number, self.request.unique))

    def _write(self, message: EitherOf[bytes, bytearray, memoryview]) -> int:
        """Answer the kernel; returns 0 or a negative errno. ENOENT: whoever asked has been killed."""
        try:
            os.write(self.fd, message)
        except OSError as e:
            return -(e.errno or errno.EIO)
        return 0

    def _send_entry(self, channel: int, vectors: int, count: int) -> int:
        """libfuse answers with an entry: take its number for the name, and tell the kernel the file's."""
        try:
            return self._translate_entry(vectors, count)
        except Exception as e:
            self._report("reply", e)
            return self._write(p.OUT_HEADER.pack(p.OUT_HEADER.size, -errno.EIO, self.request.unique))

    def _translate_entry(self, vectors: int, count: int) -> int:
        request = self.request
        lid = 0
        if count > 1:  # a header, and an entry, which begins with its number
            (entry,) = _SECOND_BASE.unpack(ctypes.string_at(vectors + _IOVEC.size, _SECOND_BASE.size))
            (lid,) = p.U64.unpack(ctypes.string_at(entry, p.U64.size))
        if not lid:  # an error, or a name that is not there
            return self._write(_gather(vectors, count))
        inode = self.inodes.remember(lid, request.entry, *request.place)
        self._union.retain(request.entry)
        body = entry_out(inode.number, request.attr)
        if request.opcode == p.CREATE:
            body += p.OPEN_OUT.pack(request.opened, p.FOPEN_KEEP_CACHE, 0)
        result = self._reply(body)
        if result == -errno.ENOENT:
            self.inodes.take_back(inode, lid)
            self._union.forget(request.entry, 1)
        return result

    def _init(self, connection: int) -> None:
        """libfuse's init operation: wishes that libfuse 2 knows how to pass on."""
        info = libfuse.ConnectionInfo.from_address(connection)
        info.want |= info.capable & (CAP_ATOMIC_O_TRUNC | CAP_BIG_WRITES | CAP_DONT_MASK)

    def _start(self, number: int) -> None:
        self._session.process(self._fuse_session, self._address, self.request.length, self._init_channel)
        self._on_ready()

    def _send_init(self, channel: int, vectors: int, count: int) -> int:
        """Add to libfuse's answer what it does not know of, each offered by the kernel and harmless to libfuse.

        POSIX_ACL: the kernel checks ACLs. HANDLE_KILLPRIV_V2: it need not ask for security.capability before every write; `operations`
        does the killing. SETXATTR_EXT: it says when setting an ACL is to clear the setgid bit; libfuse would misread that longer form of
        SETXATTR, and sees none from then on. MAX_PAGES: requests of 1 MiB. CACHE_SYMLINKS, PARALLEL_DIROPS: nothing changes for the
        server. Version 7.23: renames with flags; between libfuse's 7.19 and that, no message changed its form.
        """
        message = _gather(vectors, count)
        major, minor, _, offered = p.INIT_IN.unpack_from(self.buffer, p.BODY)
        size = len(message) - p.OUT_HEADER.size
        if size >= 24:
            body = bytes(message[p.OUT_HEADER.size :]).ljust(p.INIT_OUT.size, b"\0")
            major, own_minor, readahead, flags, background, congestion, max_write, _, _, _, _ = p.INIT_OUT.unpack(body)
            pages = 0
            if minor >= RENAME2_MINOR:  # the reply has room for more than libfuse's 24 bytes
                flags |= offered & WANTED
                own_minor = max(own_minor, RENAME2_MINOR)
                if flags & p.MAX_PAGES:
                    max_write, pages = MAX_TRANSFER, MAX_TRANSFER // os.sysconf("SC_PAGE_SIZE")
                size = p.INIT_OUT.size
            self.protocol = (major, min(minor, own_minor))
            self.kernel_protocol = (7, minor)
            self.features = p.flag_names(flags)
            self.missing = dict.fromkeys(p.flag_names(WANTED & ~flags), "not offered by the kernel")
            self.missing.update(dict.fromkeys(BEYOND_LIBFUSE, "libfuse 2 cannot"))
            self._nodes.extended = bool(flags & p.SETXATTR_EXT)
            body = p.INIT_OUT.pack(major, own_minor, readahead, flags, background, congestion, max_write, 0, pages, 0, 0)[:size]
            message = bytearray(p.OUT_HEADER.pack(p.OUT_HEADER.size + size, 0, self.request.unique) + body)
        return self._write(message)

    def _guarded(self, name: str, function: Callable[..., int]) -> Callable[..., int]:
        """`function` for libfuse: errors as negative numbers, and nothing unexpected ends the daemon."""
        report = self._report

        def call(*arguments: Any) -> int:
            while True:
                try:
                    return function(*arguments)
                except OSError as e:
                    if e.errno != errno.ENOSPC or not lends(self._union, self.request.opcode, self.request.uid, self.buffer):
                        return -(e.errno or errno.EIO)
                except BaseException as e:
                    report(name, e)
                    return -errno.EIO

        return call


def _gather(vectors: int, count: int) -> bytearray:
    """The message that libfuse wants to write: it uses one or two parts for these."""
    if count == 2:
        first, first_size, second, second_size = _IOVECS.unpack(ctypes.string_at(vectors, _IOVECS.size))
        return bytearray(ctypes.string_at(first, first_size) + ctypes.string_at(second, second_size))
    first, first_size = _IOVEC.unpack(ctypes.string_at(vectors, _IOVEC.size))
    return bytearray(ctypes.string_at(first, first_size))
