"""A node with three versions of one model."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.receive.intake import Intake
from dicomnode.records.db import Database
from dicomnode.settings import Settings
from inference.registry import Registry, find_bundles
from tests.dicomnode.models.site import VERSIONS, Site
from tests.dicomnode.parts import arrival, image
from tests.phantoms.bundles import write_bundle


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of one model, all live by their cards."""
    models = tmp_path_factory.mktemp("models")
    for version in VERSIONS:
        write_bundle(models / version, version=version)
    return models


@pytest.fixture
def registry(folder: Path) -> Registry:
    return find_bundles(folder)


@pytest.fixture
def site(settings: Settings, database: Database, registry: Registry, intake: Intake) -> Site:
    intake.take(arrival(image()))
    found = Site(settings, database, registry)
    found.enrol()
    return found
