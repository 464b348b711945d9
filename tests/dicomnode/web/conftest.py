"""One page for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dicomnode.web.browsing import Page


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)
