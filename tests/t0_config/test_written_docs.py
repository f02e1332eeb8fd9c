"""The documentation that is written from the code is current, and well-formed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from docs import man_pages, settings_page
from provisioning import settings_types

MAN = sorted(man_pages.FOLDER.iterdir())


def test_the_reference_of_settings_is_current() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "run `make docs`"


def test_the_manual_pages_are_current() -> None:
    assert {file.name: file.read_text() for file in MAN} == man_pages.pages(), "run `make man`"


def test_what_ansible_and_puppet_know_of_the_settings_is_current() -> None:
    written = settings_types.files()
    assert {path: path.read_text() for path in written} == written, "run `make provisioning`"


@pytest.mark.parametrize("page", MAN, ids=lambda page: page.name)
def test_manual_page_has_no_warning(page: Path) -> None:
    for checker in (["mandoc", "-T", "lint", "-W", "style"], ["groff", "-man", "-T", "utf8", "-ww", "-z"]):
        run = subprocess.run([*checker, page], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60)
        assert (run.stdout.decode(), run.returncode) == ("", 0)


@pytest.mark.parametrize("page", MAN, ids=lambda page: page.name)
def test_manual_page_reads_as_text(page: Path) -> None:
    run = subprocess.run(["mandoc", "-T", "ascii", page], stdout=subprocess.PIPE, check=True, timeout=60)
    text = run.stdout.decode()
    for leftover in ("\\f", "\\-", "`", "{{", "{%"):
        assert leftover not in text
