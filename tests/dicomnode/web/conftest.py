"""One page for each test: that of an empty node, or of one that has worked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dicomnode.web.browsing import Page
from tests.dicomnode.web.hospital import Hospital, build


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return build(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def worked(hospital: Hospital, tmp_path: Path) -> Page:
    return hospital.copy(tmp_path)
