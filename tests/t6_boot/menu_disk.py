"""Disks on which nothing but the boot loader is real: extlinux from a BIOS, systemd-boot from UEFI (OVMF).

Each boots a kernel that prints its command line and ends QEMU, as `grub_disk` has one for GRUB: these loaders do not enter a kernel where
GRUB does. A boot takes a few seconds with extlinux; before systemd-boot comes the firmware, which takes most of the time.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.t6_boot.disk import FIRST_SECTOR, OFFSET, SECTOR
from tests.t6_boot.grub_disk import BOOTED, Console

SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
FIRMWARE = "/usr/share/ovmf/OVMF.fd"
_MODULES = Path("/usr/lib/syslinux/modules/bios")
_MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
_MIB = 32

# Entered in real mode, at the segment 0x20 behind the kernel's (Documentation/arch/x86/boot.rst, "Running the Kernel").
_REAL_MODE_AT = 0x3C
_REAL_MODE = bytes.fromhex(
    "66 8b 1e 28 02"  # mov ebx, [0x228] (cmd_line_ptr)
    "66 89 d8"  # mov eax, ebx
    "66 c1 e8 04"  # shr eax, 4
    "8e c0"  # mov es, ax
    "83 e3 0f"  # and bx, 15
    "be 8b 00"  # mov si, text
    "2e 8a 04 46"  # word: mov al, cs:[si]; inc si
    "e8 20 00 84 c0 75 f5"  # call put; test al, al; jnz word
    "26 8a 07 43"  # line: mov al, es:[bx]; inc bx
    "e8 15 00 84 c0 75 f5"  # call put; test al, al; jnz line
    "b0 0d e8 0c 00 b0 0a e8 07 00"  # mov al, "\r"; call put; mov al, "\n"; call put
    "b0 10 ba f4 00 ee f4"  # mov al, 0x10; mov dx, 0xf4 (isa-debug-exit); out dx, al; hlt
    "84 c0 74 0f"  # put: test al, al; jz return
    "88 c4 ba fd 03"  # mov ah, al; mov dx, 0x3fd (line status)
    "ec a8 20 74 fb"  # wait: in al, dx; test al, 0x20 (room for a byte); jz wait
    "b2 f8 88 e0 ee c3"  # mov dl, 0xf8 (data); mov al, ah; out dx, al; return: ret
)
# An EFI application: rdx is the system table, its boot services know the loaded image, and that the parameters in UTF-16.
_EFI = bytes.fromhex(
    "53 48 83 ec 30"  # push rbx; sub rsp, 0x30
    "48 8b 42 60"  # mov rax, [rdx + 0x60] (BootServices)
    "48 8d 15 68 00 00 00"  # lea rdx, [guid]
    "4c 8d 44 24 28"  # lea r8, [rsp + 0x28]
    "ff 90 98 00 00 00"  # call [rax + 0x98] (HandleProtocol)
    "48 8b 5c 24 28 48 8b 5b 38"  # mov rbx, [rsp + 0x28]; mov rbx, [rbx + 0x38] (LoadOptions)
    "48 8d 35 5d 00 00 00"  # lea rsi, [text]
    "8a 06 48 ff c6"  # word: mov al, [rsi]; inc rsi
    "e8 2e 00 00 00 84 c0 75 f2"  # call put; test al, al; jnz word
    "48 85 db 74 0f"  # test rbx, rbx; jz end
    "8a 03 48 83 c3 02"  # line: mov al, [rbx]; add rbx, 2
    "e8 1a 00 00 00 84 c0 75 f1"  # call put; test al, al; jnz line
    "b0 0d e8 0f 00 00 00 b0 0a e8 08 00 00 00"  # end: mov al, "\r"; call put; mov al, "\n"; call put
    "b0 10 66 ba f4 00 ee f4"  # mov al, 0x10; mov dx, 0xf4; out dx, al; hlt
    "84 c0 74 10"  # put: as above
    "88 c4 66 ba fd 03"
    "ec a8 20 74 fb"
    "b2 f8 88 e0 ee c3"
    "a1 31 1b 5b 62 95 d2 11 8e 3f 00 a0 c9 69 72 3b"  # guid: EFI_LOADED_IMAGE_PROTOCOL
)


def bios_kernel() -> bytes:
    """Return a bzImage (boot protocol 2.06) whose real-mode part does all of it."""
    setup = bytearray(2 * SECTOR)
    struct.pack_into("<B", setup, 0x1F1, 1)  # setup_sects, besides the boot sector
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)  # boot_flag
    setup[0x200:0x206] = b"\xeb\x3aHdrS"  # a jump over the header tells how long it is
    struct.pack_into("<H", setup, 0x206, 0x0206)  # version
    struct.pack_into("<B", setup, 0x211, 1)  # loadflags: LOADED_HIGH
    struct.pack_into("<I", setup, 0x214, 0x100000)  # code32_start
    struct.pack_into("<I", setup, 0x22C, 0x7FFFFFFF)  # initrd_addr_max
    struct.pack_into("<I", setup, 0x230, 0x1000)  # kernel_alignment
    struct.pack_into("<I", setup, 0x238, 2047)  # cmdline_size
    code = _REAL_MODE + BOOTED.encode() + b"\0"
    setup[0x200 + _REAL_MODE_AT : 0x200 + _REAL_MODE_AT + len(code)] = code
    return bytes(setup) + b"\x90" * 8192  # extlinux takes one of two kilobytes for an I/O error


def efi_kernel() -> bytes:
    """Return a PE32+ image with one section (Microsoft's PE format; the UEFI specification, 2.1.1)."""
    code = _EFI + BOOTED.encode() + b"\0"
    headers = bytearray(0x200)
    headers[:2] = b"MZ"
    struct.pack_into("<I", headers, 0x3C, 0x40)
    headers[0x40:0x44] = b"PE\0\0"
    struct.pack_into("<HHIIIHH", headers, 0x44, 0x8664, 1, 0, 0, 0, 240, 0x0206)  # x86-64, one section, executable and relocatable
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 0x200, 0, 0, 0x1000, 0x1000)  # entry and code at 0x1000
    optional += struct.pack("<QII", 0, 0x1000, 0x200) + bytes(16)  # base, alignment in memory and in the file, versions
    optional += struct.pack("<IIIHH", 0x2000, 0x200, 0, 10, 0) + struct.pack("<QQQQ", 0, 0, 0, 0) + struct.pack("<II", 0, 16)
    headers[0x58 : 0x58 + len(optional)] = optional
    struct.pack_into("<8sIIII12xI", headers, 0x58 + 240, b".text", len(code), 0x1000, 0x200, 0x200, 0x60000020)
    return bytes(headers) + code.ljust(0x200, b"\0")


def make_extlinux_disk(path: Path, files: dict[str, bytes]) -> Path:
    """Write a disk with an ext4 file system that extlinux starts from, and these files in it. Mounts it, which takes root."""
    tree = path.with_suffix(".tree")
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    for module in ("ldlinux.c32", "menu.c32", "libutil.c32", "libcom32.c32"):
        shutil.copyfile(_MODULES / module, tree / "boot/extlinux" / module)
    with path.open("wb") as file:
        file.write(_MBR.read_bytes())
        file.truncate(_MIB << 20)
    _run("sfdisk", "--quiet", str(path), text=f"label: dos\nstart={FIRST_SECTOR}, type=83, bootable\n")
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^64bit,^metadata_csum,^metadata_csum_seed,^orphan_file,^has_journal", "-d", str(tree),
         "-E", f"offset={OFFSET}", str(path), f"{((_MIB << 20) - OFFSET) >> 10}k")  # fmt: skip
    # Its boot sector knows where ldlinux.sys lies, which only the mounted file system tells.
    install = 'mount -o loop,offset="$2" "$1" "$3" && extlinux --install "$3/boot/extlinux" && umount "$3"'
    _run("unshare", "--mount", "sh", "-euc", install, "sh", str(path), str(OFFSET), str(tree))
    shutil.rmtree(tree)
    return path


def make_efi_disk(path: Path, files: dict[str, bytes]) -> Path:
    """Write a disk that is one EFI system partition, with systemd-boot and these files in it."""
    with path.open("wb") as file:
        file.truncate(_MIB << 20)
    _run("sfdisk", "--quiet", str(path), text=f"label: gpt\nstart={FIRST_SECTOR}, size={((_MIB - 2) << 20) // SECTOR}, type=uefi\n")
    _run("mkfs.vfat", "-F", "16", "--offset", str(FIRST_SECTOR), str(path), str((_MIB - 2) << 10))
    tree = path.with_suffix(".tree")
    for name, content in {"EFI/BOOT/BOOTX64.EFI": SYSTEMD_BOOT.read_bytes(), **files}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    _run("mcopy", "-s", "-i", f"{path}@@{OFFSET}", *(str(each) for each in sorted(tree.iterdir())), "::/")
    shutil.rmtree(tree)
    return path


def entries_of(path: Path) -> list[str]:
    """Return the names of the entries on such a disk."""
    listed = _run("mdir", "-b", "-i", f"{path}@@{OFFSET}", "::/loader/entries")
    return sorted(line.rpartition("/")[2] for line in listed.splitlines() if line)


@contextmanager
def boot(disk: Path, *, writable: bool, efi: bool = False) -> Iterator[Console]:
    """Run QEMU on the disk, attached read-only or not, for as long as the context lasts."""
    drive = f"file={disk},format=raw,if=virtio,cache=unsafe" + ("" if writable else ",readonly=on")
    firmware = ["-bios", FIRMWARE, "-m", "256"] if efi else ["-m", "64"]
    console = Console(
        ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "qemu64", *firmware, "-nodefaults", "-no-user-config", "-display", "none",
         "-no-reboot", "-serial", "stdio", "-drive", drive, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    )  # fmt: skip
    try:
        yield console
    finally:
        console.end()


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}"
    return done.stdout
