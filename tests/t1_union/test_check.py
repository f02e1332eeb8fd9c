"""`cowroot check`: what the union writes is clean, and each kind of damage is found, explained and, where that is safe, repaired."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from cowroot.cli.check import command
from cowroot.errors import LayerError
from cowroot.union.check import Problem, check
from tests.t1_union.conftest import ROOT, Bench


def problems(bench: Bench) -> list[Problem]:
    bench.close()
    return list(check(str(bench.upper), str(bench.work), tuple(str(low) for low in bench.lowers)))


def busy(bench: Bench) -> None:
    """Have everything in an upper that the union can write."""
    (bench.lower / "d/sub").mkdir(parents=True)
    (bench.lower / "d/f").write_text("x")
    (bench.lower / "big").write_bytes(b"x" * (1 << 20))
    (bench.lower / "a").write_text("x")
    os.link(bench.lower / "a", bench.lower / "b")
    union = bench.union
    union.rename(bench.node("d"), b"sub", union.root, b"moved")
    union.unlink(bench.node("d"), b"f")
    bench.write("big", b"y", 70_000)
    bench.write("a", b"y")
    union.rename(union.root, b"b", bench.node("moved"), b"c")
    union.link(bench.node("a"), union.root, b"e")
    union.mkdir(bench.node("d"), b"f", 0o755, ROOT)
    union.mknod(union.root, b"null", stat.S_IFCHR | 0o600, 0, ROOT)


def test_what_the_union_writes_is_clean(bench: Bench) -> None:
    busy(bench)
    assert problems(bench) == []


def count_one(bench: Bench) -> None:
    [entry] = (bench.work / "cowroot/links").iterdir()
    entry.unlink()
    entry.symlink_to("1 0")


DAMAGES: dict[str, tuple[Callable[[Bench], None], str, bool]] = {
    "opaque file": (lambda b: os.setxattr(b.upper / "a", "trusted.overlay.opaque", b"y"), "only a directory can be opaque", True),
    "opaque value": (lambda b: os.setxattr(b.upper / "d", "trusted.overlay.opaque", b"z"), "is marked y", True),
    "impure file": (lambda b: os.setxattr(b.upper / "a", "trusted.overlay.impure", b"y"), "only a directory can be impure", True),
    "metacopy directory": (lambda b: os.setxattr(b.upper / "d", "trusted.overlay.metacopy", b""), "only a regular file can be", True),
    "climbing redirect": (lambda b: os.setxattr(b.upper / "moved", "trusted.overlay.redirect", b"/../x"), "cannot be looked up", False),
    "dangling redirect": (lambda b: os.setxattr(b.upper / "moved", "trusted.overlay.redirect", b"/no"), "no directory in the lower", False),
    "redirected file": (lambda b: os.setxattr(b.upper / "a", "trusted.overlay.redirect", b"/a"), "neither a directory", True),
    "same redirect": (lambda b: os.setxattr(b.upper / "d", "trusted.overlay.redirect", b"/d/sub"), "both redirect to /d/sub", False),
    "lost data": (lambda b: (b.lower / "big").unlink(), "where there is no file: it cannot be read", False),
    "bad limit": (lambda b: os.setxattr(b.upper / "big", "trusted.cowroot.limit", b"-1"), "not a number", True),
    "bad number": (lambda b: os.setxattr(b.upper / "a", "trusted.cowroot.ino", b"\xff\n"), "not a number", True),
    "marked device": (lambda b: os.setxattr(b.upper / "a", "trusted.cowroot.device", b"y"), "told from a whiteout", True),
    "same number": (
        lambda b: os.setxattr(b.upper / "d", "trusted.cowroot.ino", os.getxattr(b.upper / "moved", "trusted.cowroot.ino")),
        "programs would take them for one file",
        True,
    ),
    "not impure": (lambda b: os.removexattr(b.upper / "moved", "trusted.overlay.impure"), "not marked impure", True),
    "probe": (lambda b: (b.upper / ".cowroot-probe").touch(), "a mount that was interrupted", True),
    "directory as probe": (lambda b: (b.upper / ".cowroot-probe/in").mkdir(parents=True), "a mount that was interrupted", True),
    "temporary": (lambda b: (b.work / "cowroot/tmp/5").touch(), "left from a crash", True),
    "orphan": (lambda b: (b.work / "cowroot/orphans/5").touch(), "left from a crash", True),
    "nonsense count": (lambda b: (b.work / "cowroot/links/0-99").symlink_to("many"), "is not a link count", True),
    "low count": (lambda b: count_one(b), "more than its link count", False),
    "outside name": (lambda b: os.link(b.upper / "a", b.base / "outside"), "but 3 of them are in the upper", False),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_and_repaired(bench: Bench, kind: str) -> None:
    damage, expected, repairable = DAMAGES[kind]
    busy(bench)
    bench.close()
    damage(bench)
    found = problems(bench)
    assert [expected in each.what for each in found] == [True], found
    assert (found[0].repair is not None) == repairable
    result = run(bench, "--repair")
    assert expected in result.output
    assert result.exit_code == (0 if repairable else 1)
    if repairable:
        assert problems(bench) == []


def run(bench: Bench, *options: str) -> Result:
    bench.close()
    return CliRunner().invoke(command, [str(bench.upper), "--work", str(bench.work), "--lower", str(bench.lower), *options])


def test_told_to_people_and_programs(bench: Bench) -> None:
    busy(bench)
    assert run(bench).output == f"{bench.upper}: clean\n"
    os.setxattr(bench.upper / "a", "trusted.overlay.opaque", b"y")
    result = run(bench)
    assert result.output.splitlines()[0].endswith("only a directory can be opaque (--repair can mend this)")
    assert result.exit_code == 1
    [told] = json.loads(run(bench, "--json").output)
    assert (told["path"] in ("a", "e", "moved/c"), told["repairable"], told["repaired"]) == (True, True, False)


def test_it_stops_when_the_time_is_up(bench: Bench) -> None:
    """And says where; of links nothing, since it has not seen all names."""
    busy(bench)
    count_one(bench)
    result = run(bench, "--seconds", "0")
    assert result.output.splitlines()[0] == ".: and what comes after it was not looked at: the time was up"
    assert (result.exit_code, len(result.output.splitlines())) == (1, 2)
    assert run(bench, "--seconds", "60").output == run(bench).output


def test_a_mounted_upper_is_refused(bench: Bench) -> None:
    bench.remount()
    with pytest.raises(LayerError, match="mounted"):
        list(check(str(bench.upper), str(bench.work)))


def test_upper_of_the_kernel_is_clean(bench: Bench) -> None:
    """Marks that only the kernel writes (origin, nlink, protattr) are none of our business."""
    where = bench.base / "merged"
    where.mkdir()
    (bench.lower / "d").mkdir()
    (bench.lower / "f").write_text("x")
    assert os.system(f"mount -t overlay overlay -o lowerdir={bench.lower},upperdir={bench.upper},workdir={bench.work} {where}") == 0
    try:
        (where / "f").write_text("y")
        (where / "d").rmdir()
        (where / "d").mkdir()
    finally:
        assert os.system(f"umount {where}") == 0
    assert problems(bench) == []
