"""A disk on which nothing but GRUB is real: it boots a kernel of some eighty bytes that prints its command line and ends QEMU.

So one boot through BIOS, boot.img, core image, grub.cfg and ``linux`` takes a few seconds without KVM, and what the console shows is
what GRUB did: wait at its menu, complain about the disk, or start an entry.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect

from tests.t2_render.grub_mkconfig import UUID
from tests.t6_boot.disk import FIRST_SECTOR, OFFSET, SECTOR
from tests.t6_boot.machine import PATIENCE

BOOTED = "BOOTED "
MENU = "GNU GRUB"
MODULES = Path("/usr/lib/grub/i386-pc")
KERNEL = "boot/vmlinuz-6.1.0-1-amd64"
INITRD = "boot/initrd.img-6.1.0-1-amd64"
EXIT_CODE = 33
"""QEMU's exit code when the kernel has run: (0x10 << 1) | 1."""

_MIB = 16
# What a PC's firmware needs to get here, GRUB's console included, is far below a minute even on a slow machine that has other work.
_LIMIT = 90 * PATIENCE


class Console(pexpect.spawn):  # type: ignore[misc]
    """GRUB's serial terminal. Everything seen so far is in `seen`."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command[0], command[1:], timeout=_LIMIT, encoding="utf-8", codec_errors="replace", echo=False)
        self.seen = ""

    def see(self, pattern: str, timeout: float = _LIMIT) -> str:
        """Wait for a regular expression and return what it matched; fail with all of the console if it does not come."""
        try:
            self.expect(pattern, timeout=timeout)
        except (pexpect.TIMEOUT, pexpect.EOF) as error:
            self.seen += self.before or ""
            raise AssertionError(f"no {pattern!r} on the console within {timeout} s ({type(error).__name__}):\n{self.seen}") from None
        self.seen += self.before + self.after
        return str(self.after)

    def open_menu(self) -> None:
        """Press Esc until the menu is there: GRUB looks for it only for a moment if the menu is hidden."""
        for _ in range(int(_LIMIT * 5)):
            self.send("\x1b")
            try:
                if self.expect([MENU, BOOTED], timeout=0.2) == 0:
                    return
            except (pexpect.TIMEOUT, pexpect.EOF):
                continue
            break
        raise AssertionError(f"Esc did not open the menu:\n{self.before}")

    def choose_last(self, title: str) -> None:
        """Go to the last entry of the menu (Ctrl-E is End), whose title begins so, and boot it."""
        for _ in range(int(_LIMIT)):
            # An Esc before it that GRUB has not read yet may swallow the key; an asterisk marks the entry that is highlighted.
            self.send("\x05")
            try:
                self.expect_exact(f"*{title}", timeout=1)
            except pexpect.TIMEOUT:
                continue
            self.send("\r")
            return
        raise AssertionError(f"the menu's last entry is not {title!r}:\n{self.before}")

    def silent(self, pattern: str, seconds: float) -> bool:
        """Watch the console for `seconds` and return whether the regular expression stayed away."""
        try:
            self.expect(pattern, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        self.seen += self.before + self.after
        return False

    def end(self) -> None:
        """End QEMU, and wait until it has: `close` alone waits for some tenths of a second, too short on a busy computer."""
        self.kill(signal.SIGKILL)
        self.wait()
        self.close()

    def booted(self) -> str:
        """Wait until the kernel runs and has ended QEMU; return its command line."""
        line = self.see(f"{BOOTED}[^\r\n]*[\r\n]").removeprefix(BOOTED).strip()
        self.expect(pexpect.EOF)
        self.wait()
        assert self.exitstatus == EXIT_CODE, f"QEMU ended with {self.exitstatus}:\n{self.seen}"
        return line


def kernel() -> bytes:
    """Return a bzImage (boot protocol 2.06) that prints BOOTED and its command line on the first serial port and ends QEMU.

    Field offsets: the kernel's Documentation/arch/x86/boot.rst. GRUB enters it in 32-bit mode with the boot parameters at ESI.
    """
    setup = bytearray(2 * SECTOR)
    struct.pack_into("<B", setup, 0x1F1, 1)  # setup_sects, besides the boot sector
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)  # boot_flag
    setup[0x200:0x202] = b"\xeb\x3a"  # a jump over the header tells how long it is
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x0206)  # version
    struct.pack_into("<B", setup, 0x211, 1)  # loadflags: LOADED_HIGH
    struct.pack_into("<I", setup, 0x214, 0x100000)  # code32_start
    struct.pack_into("<I", setup, 0x22C, 0x7FFFFFFF)  # initrd_addr_max
    struct.pack_into("<I", setup, 0x230, 0x1000)  # kernel_alignment
    struct.pack_into("<I", setup, 0x238, 2047)  # cmdline_size
    code = _code()
    return bytes(setup) + code + bytes(SECTOR - len(code))


def _code() -> bytes:
    put_string = bytes.fromhex(
        "8a 07"  # put_string: mov al, [edi]
        "84 c0"  # test al, al
        "74 13"  # jz return
        "88 c4"  # mov ah, al
        "66 ba fd 03"  # mov dx, 0x3fd (line status)
        "ec"  # wait: in al, dx
        "a8 20"  # test al, 0x20 (room for a byte)
        "74 fb"  # jz wait
        "b2 f8"  # mov dl, 0xf8 (data, 0x3f8)
        "88 e0"  # mov al, ah
        "ee"  # out dx, al
        "47"  # inc edi
        "eb e7"  # jmp put_string
        "c3"  # return: ret
    )
    text = BOOTED.encode() + b"\0"
    newline = b"\r\n\0"
    main = bytes.fromhex("bc 00 00 09 00")  # mov esp, 0x90000
    here = len(main) + 5  # what `call next; next: pop ebp` yields, from the start of the code

    def print_own(offset: int, at: int) -> bytes:  # lea edi, [ebp + offset - here]; call put_string
        return b"\x8d\xbd" + struct.pack("<i", offset - here) + call(at + 6)

    def call(at: int) -> bytes:
        return b"\xe8" + struct.pack("<i", put_string_at - (at + 5))

    put_string_at = len(main) + 5 + 1 + 11 + (6 + 5) + 11 + 8
    text_at = put_string_at + len(put_string)
    main += b"\xe8\0\0\0\0\x5d"  # call next; next: pop ebp
    main += print_own(text_at, len(main))
    main += bytes.fromhex("8b be 28 02 00 00")  # mov edi, [esi + 0x228] (cmd_line_ptr)
    main += call(len(main))
    main += print_own(text_at + len(text), len(main))
    main += bytes.fromhex("b0 10 66 ba f4 00 ee f4")  # mov al, 0x10; mov dx, 0xf4 (isa-debug-exit); out dx, al; hlt
    assert len(main) == put_string_at
    return main + put_string + text + newline


def add_kernel(root: Path) -> None:
    """Put the kernel and an initrd where the menu of `root` finds them."""
    (root / KERNEL).write_bytes(kernel())
    # No zeroes: mke2fs makes a hole of a block of them, and a file that is one hole is more than GRUB can read.
    (root / INITRD).write_bytes(b"initrd" * 100)


def make_disk(root: Path, path: Path, grubenv: bytes | None = None) -> Path:
    """Write `path`, a disk that GRUB starts from: boot/ of `root`, GRUB's modules, and `grubenv` (None: the one of `root`, if any)."""
    tree = path.with_suffix(".tree")
    shutil.copytree(root / "boot", tree / "boot")
    modules = tree / "boot/grub/i386-pc"
    modules.mkdir(parents=True)
    for module in MODULES.iterdir():
        if module.suffix in {".mod", ".lst"}:
            shutil.copyfile(module, modules / module.name)
    if grubenv is not None:
        (tree / "boot/grub/grubenv").write_bytes(grubenv)
    with path.open("wb") as file:
        file.truncate(_MIB << 20)
    _run(["sfdisk", "--quiet", str(path)], f"label: dos\nstart={FIRST_SECTOR}, type=83, bootable\n")
    _run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file,^has_journal", "-U", UUID, "-d", str(tree),
          "-E", f"offset={OFFSET}", str(path), f"{((_MIB << 20) - OFFSET) >> 10}k"])  # fmt: skip
    core = path.with_suffix(".core")
    _run(["grub-mkimage", "-O", "i386-pc", "-o", str(core), "-p", "(hd0,msdos1)/boot/grub", "biosdisk", "part_msdos", "ext2"])
    with path.open("r+b") as file:
        file.write((MODULES / "boot.img").read_bytes()[:440])
        file.seek(SECTOR)
        file.write(core.read_bytes())
    core.unlink()
    shutil.rmtree(tree)
    return path


def environment_block(*assignments: str) -> bytes:
    """Return a grubenv as grub-editenv writes it."""
    text = "# GRUB Environment Block\n" + "".join(f"{line}\n" for line in assignments)
    return text.encode().ljust(1024, b"#")


def grubenv_of(disk: Path) -> bytes:
    """Return what the disk's /boot/grub/grubenv holds now."""
    with_offset = f"{disk}?offset={OFFSET}"
    return subprocess.run(
        ["debugfs", "-R", "cat /boot/grub/grubenv", with_offset], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=True
    ).stdout


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def boot(disk: Path, *, writable: bool) -> Iterator[Console]:
    """Run QEMU on the disk, attached read-only or not, for as long as the context lasts."""
    drive = f"file={disk},format=raw,if=virtio,cache=unsafe" + ("" if writable else ",readonly=on")
    console = Console(
        ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "qemu64", "-m", "64", "-nodefaults", "-no-user-config", "-display", "none",
         "-no-reboot", "-serial", "stdio", "-drive", drive, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    )  # fmt: skip
    try:
        yield console
    finally:
        console.end()


def _run(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}"
