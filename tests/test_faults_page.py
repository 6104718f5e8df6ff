"""Every line of docs/faults.md names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what is wrong")]
NAMED = re.compile(r"`(test_\w+)::(test_\w+)`")


def test_every_line_has_three_cells_and_a_test():
    assert len(LINES) > 80
    for line in LINES:
        what, answer, tests = (cell.strip() for cell in line.strip("|").split("|"))
        assert what
        assert answer
        assert re.fullmatch(rf"{NAMED.pattern}(, {NAMED.pattern})*", tests), line


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED.findall(PAGE)}))
def test_the_tests_of_a_file_that_the_page_names_are_there(file):
    (path,) = (ROOT / "tests").rglob(f"{file}.py")
    defined = set(re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert {name for own, name in NAMED.findall(PAGE) if own == file} <= defined
