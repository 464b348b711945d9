"""The table of kill points fits the code and the page.

Not covered: whether a point is reached; the run that writes the page says so when one is not.
"""

from __future__ import annotations

import functools
import importlib
import re

import pytest

from tests.crash.page import INTRODUCTION, PAGE, section, write_section
from tests.crash.points import POINTS, ROWS, KillPoint


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_every_point_is_a_function_of_the_code(point: KillPoint) -> None:
    module, _, attribute = point.target.partition(":")
    assert callable(functools.reduce(getattr, attribute.split("."), importlib.import_module(module)))


def test_the_page_lists_exactly_the_points_of_the_code_and_what_they_prove() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| \d+ \| \d+ \| (.+) \|$", PAGE.read_text("utf-8"), re.M)
    assert listed == [(row.name, row.role, row.proves) for row in ROWS]


def test_the_page_tells_of_two_hundred_kills_and_more() -> None:
    kills = re.findall(r"^\| `\w+` \| \w+ \| (\d+) \|", PAGE.read_text("utf-8"), re.M)
    assert sum(map(int, kills)) >= 200
    assert min(map(int, kills)) >= 1


def test_the_introduction_of_the_page_is_that_of_its_writer() -> None:
    assert PAGE.read_text("utf-8").startswith(INTRODUCTION)


def test_writing_one_section_leaves_the_other(tmp_path_factory: pytest.TempPathFactory) -> None:
    page = tmp_path_factory.mktemp("docs") / "reliability.md"
    write_section("crash", "kills\n", page)
    write_section("soak", "studies\n", page)
    write_section("crash", "more kills\n", page)
    text = page.read_text("utf-8")
    assert (section("crash", text), section("soak", text)) == ("more kills\n", "studies\n")
