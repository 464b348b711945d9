"""Which database a test works with: a SQLite file, or one of its own on a real PostgreSQL server.

Tests marked `both_databases` run on either. The environment names the database, so that every process which
a test starts works with the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from dicomnode.records.db import Database, migrate
from dicomnode.selftest import temporary
from dicomnode.settings.database import DATABASE_URL, DatabaseSettings
from tests.postgres import Cluster, running_cluster

PATTERN = "pattern"


def pytest_configure() -> None:
    """Tests that run at once take their ports from ranges of their own: one is free until it is used."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    temporary.PORTS = temporary.PORTS[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_databases"):
        metafunc.parametrize("store", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server with one migrated database, of which each test gets a copy."""
    with running_cluster() as running:
        running.create_database(PATTERN)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(DATABASE_URL, running.url(PATTERN))
            pattern = Database(DatabaseSettings().address(running.folder))
        migrate(pattern)
        pattern.engine.dispose()
        yield running


@pytest.fixture(scope="session")
def new_database(cluster: Cluster) -> Callable[[], str]:
    """Makes one more migrated database; returns its name."""
    numbers = count(1)

    def make() -> str:
        name = f"test_{next(numbers)}"
        cluster.create_database(name, PATTERN)
        return name

    return make


@pytest.fixture(autouse=True)
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Kind of database that the test works with."""
    kind: str = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        yield kind
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    name = request.getfixturevalue("new_database")()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(DATABASE_URL, cluster.url(name))
        yield kind
    cluster.drop_database(name)
