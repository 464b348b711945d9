"""docs/reliability.md is what its writers wrote, about exactly the kill points of the code.

Not covered: whether the figures are of this very commit; the page names the commit that was killed.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.crash.page import INTRODUCTION, PAGE, section, write_section
from tests.crash.points import ROWS


def test_the_page_lists_exactly_the_points_of_the_code_and_what_they_prove() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| \d+ \| \d+ \| (.+) \|$", PAGE.read_text("utf-8"), re.M)
    assert listed == [(row.name, row.role, row.proves) for row in ROWS]


def test_the_page_tells_of_a_kill_at_every_point() -> None:
    kills = re.findall(r"^\| `\w+` \| \w+ \| (\d+) \|", PAGE.read_text("utf-8"), re.M)
    assert min(map(int, kills)) >= 1
    assert sum(map(int, kills)) >= 200


def test_the_introduction_of_the_page_is_that_of_its_writer() -> None:
    assert PAGE.read_text("utf-8").startswith(INTRODUCTION)


def test_writing_one_section_leaves_the_other(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    write_section("crash", "kills\n", page)
    write_section("soak", "studies\n", page)
    write_section("crash", "more kills\n", page)
    text = page.read_text("utf-8")
    assert (section("crash", text), section("soak", text)) == ("more kills\n", "studies\n")
