"""A node with three versions of one model."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.receive.intake import Intake
from dicomnode.records.db import Database
from dicomnode.settings.node import Settings
from inference.registry import Registry, find_bundles
from tests.dicomnode.models.site import Site, write_versions
from tests.dicomnode.parts import arrival, image


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_versions(tmp_path_factory.mktemp("models"))


@pytest.fixture
def registry(models: Path) -> Registry:
    return find_bundles(models)


@pytest.fixture
def site(settings: Settings, database: Database, registry: Registry, intake: Intake) -> Site:
    intake.take(arrival(image()))
    found = Site(settings, database, registry)
    found.enrol()
    return found
