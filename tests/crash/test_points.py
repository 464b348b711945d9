"""The table of kill points fits the code.

Not covered: whether a point is reached; the run that writes the page says so when one is not.
"""

from __future__ import annotations

import functools
import importlib

import pytest

from tests.crash.points import POINTS, KillPoint


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_every_point_is_a_function_of_the_code(point: KillPoint) -> None:
    module, _, attribute = point.target.partition(":")
    assert callable(functools.reduce(getattr, attribute.split("."), importlib.import_module(module)))
