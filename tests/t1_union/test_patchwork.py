"""Large files are copied up block by block, and nobody can tell."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowroot.cli.complete import command
from cowroot.union import Handle, LayerSpec, Union, patchwork
from cowroot.union.check import check
from cowroot.union.syscalls import FALLOC_FL_KEEP_SIZE, fallocate
from tests.t1_union.conftest import Bench

PUNCH, ZERO = 2 | FALLOC_FL_KEEP_SIZE, 16


def disk_use(path: Path) -> int:
    return path.stat().st_blocks * 512


def big(bench: Bench, size: int = 10 << 20) -> bytes:
    data = os.urandom(size)
    (bench.lower / "big").write_bytes(data)
    return data


def test_changing_attributes_copies_no_data(bench: Bench) -> None:
    data = big(bench)
    bench.union.setattr(bench.node("big"), mode=0o600)
    assert disk_use(bench.upper / "big") < 1 << 16
    for _ in range(2):
        attr = bench.union.getattr(bench.node("big"))
        assert (attr.size, attr.mode & 0o777) == (len(data), 0o600)
        assert attr.blocks * 512 >= len(data)
        assert bench.read("big") == data
        bench.remount()


def test_changing_a_byte_copies_a_block(bench: Bench) -> None:
    data = bytearray(big(bench))
    bench.write("big", b"!", 5_000_001)
    data[5_000_001:5_000_002] = b"!"
    assert disk_use(bench.upper / "big") < 1 << 16
    assert bench.read("big") == data
    bench.union.rename(bench.union.root, b"big", bench.union.root, b"moved")
    bench.union.link(bench.node("moved"), bench.union.root, b"other")
    bench.remount()
    assert bench.read("moved") == bench.read("other") == data


def test_what_was_cut_off_does_not_come_back(bench: Bench) -> None:
    data = big(bench)
    bench.union.setattr(bench.node("big"), size=1_000_001)
    bench.union.setattr(bench.node("big"), size=2_000_000)
    for _ in range(2):
        assert bench.read("big") == data[:1_000_001].ljust(2_000_000, b"\0")
        bench.remount()


def test_hard_links_find_their_data_after_a_remount(bench: Bench) -> None:
    data = big(bench)
    os.link(bench.lower / "big", bench.lower / "same")
    bench.union.setattr(bench.node("big"), mode=0o600)
    bench.write("same", b"!", 0)
    bench.remount()
    assert bench.read("same") == b"!" + data[1:]
    assert bench.node("big") is bench.node("same")


def test_data_is_found_after_the_name_that_led_to_it_is_gone(bench: Bench) -> None:
    data = big(bench)
    os.link(bench.lower / "big", bench.lower / "same")
    handle = bench.union.open_file(bench.node("big"), os.O_WRONLY)
    bench.union.unlink(bench.union.root, b"big")
    bench.union.write(handle, b"!", 0)
    bench.union.release(handle)
    for _ in range(2):
        assert bench.read("same") == b"!" + data[1:]
        bench.remount()


def test_completing_is_no_change(bench: Bench) -> None:
    big(bench)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(bench.lower / "big", "security.capability", capability)
    bench.union.setattr(bench.node("big"), mode=0o4755, mtime_ns=10**18 + 7)
    before = bench.union.getattr(bench.node("big"))
    handle = bench.union.open_file(bench.node("big"), os.O_RDWR)
    with pytest.raises(OSError):
        bench.union.fallocate(handle, ZERO | PUNCH, 0, 4096)  # no file system has this pair
    bench.union.release(handle)
    after = bench.union.getattr(bench.node("big"))
    assert after._replace(ctime_ns=0, blocks=0) == before._replace(ctime_ns=0, blocks=0)
    assert bench.union.getxattr(bench.node("big"), b"security.capability") == capability


def test_without_metacopy_all_is_copied(bench: Bench) -> None:
    bench.metacopy = False
    data = big(bench)
    bench.union.setattr(bench.node("big"), mode=0o600)
    assert (bench.upper / "big").read_bytes() == data


def test_kernel_reads_a_metadata_only_copy(bench: Bench, tmp_path: Path) -> None:
    data = big(bench)
    (bench.lower / "d").mkdir()
    bench.union.setattr(bench.node("big"), mode=0o600)
    bench.union.rename(bench.union.root, b"big", bench.node("d"), b"moved")
    bench.close()
    where = tmp_path / "merged"
    where.mkdir()
    options = f"lowerdir={bench.lower},upperdir={bench.upper},workdir={bench.work},metacopy=on,redirect_dir=on"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(where)], check=True)
    try:
        assert (where / "d/moved").read_bytes() == data
        (where / "d/moved").chmod(0o640)
    finally:
        subprocess.run(["umount", str(where)], check=True)
    assert bench.read("d/moved") == data


def test_copy_without_its_data_is_an_error(bench: Bench) -> None:
    big(bench)
    bench.union.setattr(bench.node("big"), mode=0o600)
    bench.close()
    (bench.lower / "big").unlink()
    with pytest.raises(OSError) as caught:
        bench.node("big")
    assert caught.value.errno == errno.EIO


def test_partial_upper_as_a_lower(bench: Bench) -> None:
    data = bytearray(big(bench))
    bench.write("big", b"1", 0)
    bench.close()
    middle = bench.base / "middle"
    bench.upper.rename(middle)
    bench.upper.mkdir()
    bench.lowers = [middle, bench.lower]
    data[:1] = b"1"
    assert bench.read("big") == data
    bench.write("big", b"2", 1 << 20)
    data[1 << 20 : (1 << 20) + 1] = b"2"
    bench.remount()
    assert bench.read("big") == data


def test_huge_pages_are_found_unfit(tmp_path: Path) -> None:
    """On tmpfs with huge pages a written byte turns two megabytes into data, so holes tell nothing."""
    where = tmp_path / "huge"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "huge=always", "tmpfs", str(where)], capture_output=True).returncode:
        pytest.skip("this kernel has no huge pages on tmpfs")
    try:
        for name in ("l", "u", "w"):
            (where / name).mkdir()
        (where / "l/big").write_bytes(b"x" * (4 << 20))
        union = Union.open(LayerSpec([str(where / "l")], str(where / "u"), str(where / "w")))
        handle = union.open_file(union.lookup(union.root, b"big"), os.O_RDWR)
        union.write(handle, b"y", 1 << 20)
        expected = b"x" * (1 << 20) + b"y" + b"x" * ((3 << 20) - 1)
        assert union.read(handle, 1 << 23, 0) == expected
        union.release(handle)
        union.close()
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patchwork, "WORTHWHILE", 1)


SIZE = 5 * patchwork.BLOCK + 777
edges = [max(0, block * patchwork.BLOCK + near) for block in range(7) for near in (-1, 0, 1)]
offsets = st.one_of(st.integers(0, SIZE + 5000), st.sampled_from(edges))
actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), offsets, st.integers(1, 9000)),
        st.tuples(st.just("truncate"), offsets, st.just(0)),
        st.tuples(st.sampled_from(["remount", "freeze"]), st.just(0), st.just(0)),
        st.tuples(st.sampled_from(["punch", "zero", "allocate"]), offsets, st.integers(1, 9000)),
        st.tuples(st.just("seek"), offsets, st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE])),
    ),
    max_size=12,
)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("in_memory", [False, True], ids=["disk", "tmpfs"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lower_holes=st.lists(st.integers(0, 5), max_size=3), steps=actions)
def test_like_a_plain_file(
    tmp_path_factory: pytest.TempPathFactory, in_memory: bool, lower_holes: list[int], steps: list[tuple[str, int, int]]
) -> None:
    base = Path(tempfile.mkdtemp(dir="/dev/shm")) if in_memory else tmp_path_factory.mktemp("patch")
    try:
        compare(Bench(base), lower_holes, steps)
    finally:
        shutil.rmtree(base)


def compare(bench: Bench, lower_holes: list[int], steps: list[tuple[str, int, int]]) -> None:
    with (bench.lower / "f").open("wb") as file:
        for block in range(6):
            if block not in lower_holes:
                file.seek(block * patchwork.BLOCK)
                file.write(bytes([65 + block]) * (patchwork.BLOCK if block < 5 else 777))
        file.truncate(SIZE)
    plain = os.open(bench.base / "plain", os.O_RDWR | os.O_CREAT)
    with (bench.lower / "f").open("rb") as file:
        os.copy_file_range(file.fileno(), plain, SIZE)
    handle = bench.union.open_file(bench.node("f"), os.O_RDWR)
    try:
        for number, (what, offset, argument) in enumerate(steps):
            if what == "write":
                data = bytes([97 + number]) * argument
                assert bench.union.write(handle, data, offset) == os.pwrite(plain, data, offset)
            elif what == "truncate":
                bench.union.setattr(handle.node, size=offset)
                os.ftruncate(plain, offset)
            elif what in ("remount", "freeze"):
                bench.union.release(handle)
                (bench.remount if what == "remount" else bench.freeze)()
                handle = bench.union.open_file(bench.node("f"), os.O_RDWR)
            elif what == "seek":
                check_seek(bench.union, handle, plain, offset, argument)
            else:
                mode = {"punch": PUNCH, "zero": ZERO, "allocate": 0}[what]
                here = outcome(bench.union.fallocate, handle, mode, offset, argument)
                assert here == outcome(fallocate, plain, mode, offset, argument)  # tmpfs, for one, cannot zero a range
            assert bench.union.read(handle, 1 << 20, 0) == os.pread(plain, 1 << 20, 0), (number, what)
            assert bench.union.getattr(handle.node).size == os.fstat(plain).st_size
    finally:
        bench.union.release(handle)
        bench.close()
        os.close(plain)


def outcome(call: Callable[..., None], *arguments: object) -> int | None:
    """The errno with which a call fails; None if it does not."""
    try:
        call(*arguments)
    except OSError as e:
        return e.errno
    return None


def check_seek(union: Union, handle: Handle, plain: int, offset: int, whence: int) -> None:
    """Where holes are is the file system's to say, but what it calls a hole must read as zeros, and data must not be passed over."""
    content = os.pread(plain, 1 << 20, 0)
    try:
        found = union.seek(handle, offset, whence)
    except OSError as e:
        assert e.errno == errno.ENXIO
        assert offset >= len(content) or (whence == os.SEEK_DATA and not content[offset:].strip(b"\0"))
        return
    assert offset <= found <= len(content)
    if whence == os.SEEK_DATA:
        assert not content[offset:found].strip(b"\0")


def test_completed_upper_is_the_kernels(bench: Bench, tmp_path: Path) -> None:
    data = bytearray(big(bench))
    (bench.lower / "d").mkdir()
    (bench.lower / "d/also").write_bytes(data)
    os.link(bench.lower / "big", bench.lower / "same")
    bench.write("big", b"1", 1_000_000)
    bench.union.setattr(bench.node("d/also"), size=5_000_000)
    bench.write("d/also", b"2", 7_000_000)
    bench.close()
    layers = f"lowerdir={bench.lower},upperdir={bench.upper},workdir={bench.work}"
    result = CliRunner().invoke(command, ["-o", layers])
    assert sorted(result.output.splitlines()) == ["3 files completed, 16 MiB", "big", "d/also", "same"]
    assert CliRunner().invoke(command, ["-o", layers]).output == "0 files completed, 0 MiB\n"
    assert list(check(str(bench.upper), str(bench.work), (str(bench.lower),))) == []
    where = tmp_path / "merged"
    where.mkdir()
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", str(where)], check=True)
    try:
        data[1_000_000:1_000_001] = b"1"
        assert (where / "big").read_bytes() == data
        content = (where / "d/also").read_bytes()
        assert content[:1_000_000] == (bench.lower / "d/also").read_bytes()[:1_000_000]
        assert content[5_000_000:] == b"\0" * 2_000_000 + b"2"
    finally:
        subprocess.run(["umount", str(where)], check=True)
