"""A node on a temporary disk: its settings, database, spool and logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database
from dicomnode.settings.node import Settings
from dicomnode.spool import Spool
from tests.databases import migrated_database
from tests.dicomnode.parts import settings_in


@pytest.fixture
def settings(tmp_path: Path, store: str) -> Settings:
    """Settings made from a TOML text; everything lies below `tmp_path`."""
    return settings_in(tmp_path)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The node's database with its schema."""
    found = migrated_database(settings)
    yield found
    found.engine.dispose()


@pytest.fixture
def spool(settings: Settings) -> Spool:
    """The node's spool, prepared."""
    found = Spool(settings.spool)
    found.prepare()
    return found


@pytest.fixture
def intake(spool: Spool, database: Database) -> Intake:
    """What takes arrivals in."""
    return Intake(spool, database, Audit("receiver"))


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """Every log event while the test runs."""
    with capture_logs() as captured:
        found: list[Any] = captured
        yield found
