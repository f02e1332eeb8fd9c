"""Where a backend can be told from the copy, and why. A test named here must fail: one that begins to pass has to be taken off the list. A
reason that begins with "sometimes" is about a race, which a test can win.

Keys are test functions, or `function[parameter]` for one of its cases.
"""

from __future__ import annotations

OVERLAYFS = {
    "test_rename_leaves_a_whiteout_device": "a device 0:0 in an upper means that the name is hidden",
    "test_a_device_that_looks_like_a_whiteout": "a device 0:0 in an upper means that the name is hidden",
    "test_holes_stay_holes": "copies up in steps of 2 MiB",
    "test_seek_data_and_hole": "copies up in steps of 2 MiB",
    "test_open_for_writing_alone_changes_nothing": "copies up at open",
    "test_reading_writes_nothing_to_the_upper": "copies up at open",
    "test_a_mapping_sees_later_writes": "a mapping keeps the lower file that it was made from",
    "test_a_reader_changes_attributes_of_what_is_gone": "cannot copy up what has no name",
    "test_a_reference_outlives_the_name[unlink-lower]": "cannot copy up what has no name",
    "test_a_reference_outlives_the_name[rename over-lower]": "cannot copy up what has no name",
    "test_a_fifo_outlives_its_name[unlink-lower]": "counts the lower's name",
    "test_a_fifo_outlives_its_name[rename over-lower]": "counts the lower's name",
    "test_stress": "sometimes: d_ino and st_ino of a hard-linked file differ",
    "test_lowers[squashfs]": "cannot keep hard links together without file handles",
    "test_lowers[overlayfs]": "without xino, inode numbers of readdir and stat differ over several file systems",
    "test_any_byte_in_a_name": "a redirect holds at most 256 bytes, so that a directory with a long name cannot be renamed",
    "test_the_unions_own_marks_cannot_be_set": "since Linux 6.7 they are kept under an escaped name",
}

CORE: dict[str, str] = {}

# fs/fuse/file.c, fuse_file_fallocate: the kernel refuses before any engine is asked.
_FUSE = {"test_fallocate_shifts": "the kernel's FUSE client knows neither FALLOC_FL_COLLAPSE_RANGE nor FALLOC_FL_INSERT_RANGE"}

FUSEPY = {**_FUSE}

DIRECT = {**_FUSE}

# Without HANDLE_KILLPRIV_V2 (7.33) the kernel's FUSE client itself says what mode a truncation leaves (fs/fuse/dir.c, fuse_setattr).
_SGID = "the kernel's FUSE client leaves set-group-ID without group execution alone"
OLDEST = {**DIRECT, "test_strangers_to_a_group_clear_sgid[truncate]": _SGID}

_NAMELESS = "sometimes: what was removed first and opened then has no name under which a successor could find it"
DYING = {
    **DIRECT,
    "test_a_reference_outlives_the_name": _NAMELESS,
    "test_a_reference_to_a_link_outlives_its_name": _NAMELESS,
    "test_a_fifo_outlives_its_name": _NAMELESS,
    "test_root_changing_content_clears_capabilities_alone": "sometimes: what the two requests of one write have in common is forgotten",
}

KNOWN_GAPS = {
    "overlayfs": OVERLAYFS, "core": CORE, "fusepy": FUSEPY, "direct": DIRECT, "direct-7.39": DIRECT, "direct-7.31": OLDEST,
    "dying": DYING, "dying-7.39": DYING,
}  # fmt: skip
