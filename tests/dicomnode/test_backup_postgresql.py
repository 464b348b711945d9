"""A node on PostgreSQL is saved by pg_dump and comes back in another database, or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from sqlalchemy import inspect, select, text

from dicomnode.backups.make import Made, make_backup
from dicomnode.backups.manifest import DUMP, Content
from dicomnode.backups.restore import restore_backup
from dicomnode.config import load_settings
from dicomnode.errors import PermanentError
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.chain import verify_chain
from dicomnode.records.db import Database
from dicomnode.records.tables import InstanceRow
from dicomnode.settings.database import DATABASE_URL
from dicomnode.settings.node import Settings
from tests.dicomnode.parts import arrival, image, kinds
from tests.dicomnode.tampering import tamper
from tests.postgres import Cluster
from tests.real_parts import require_program

pytestmark = pytest.mark.parametrize("store", ["postgresql"], indirect=True)

ADMIN = Audit("admin test")
CRON_JOB = yaml.safe_load((Path(__file__).parents[2] / "deploy/kubernetes/base/backup.yaml").read_text())


@pytest.fixture
def empty(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Points to an empty database from now on."""

    def point() -> None:
        cluster.create_database("empty")
        monkeypatch.setenv(DATABASE_URL, cluster.url("empty"))

    return point


@pytest.fixture(autouse=True)
def _no_empty_database_stays(cluster: Cluster) -> None:
    with cluster.engine().connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS empty WITH (FORCE)"))


def backup(settings: Settings, database: Database) -> Made:
    require_program("pg_dump")
    config = settings.node.data.parent / "node.toml"
    return make_backup(settings, database, ADMIN, config, config.parent / "backups", Content.ALL)


def test_what_was_saved_comes_back_in_another_database(
    settings: Settings, database: Database, intake: Intake, tmp_path: Path, empty: Callable[[], None]
) -> None:
    intake.take(arrival(image()))
    made = backup(settings, database)
    intake.take(arrival(image()))  # too late for the backup
    assert DUMP in made.manifest.files
    empty()
    found = restore_backup(made.folder, tmp_path / "new" / "node.toml", tmp_path / "new" / "data", ADMIN)
    back = Database(found.settings.database_url)
    with back.snapshot() as session:
        (row,) = session.scalars(select(InstanceRow))
        assert Path(row.path).is_relative_to(tmp_path / "new" / "data")
        assert Path(row.path).exists()
        assert verify_chain(session).faults == ()
    assert kinds(back) == ["instance_received", "backup_restored"]
    with pytest.raises(PermanentError, match="is not empty"):
        restore_backup(made.folder, tmp_path / "again" / "node.toml", tmp_path / "again" / "data", ADMIN)
    back.engine.dispose()


def test_a_broken_trail_leaves_the_new_database_empty(
    settings: Settings, database: Database, intake: Intake, tmp_path: Path, empty: Callable[[], None]
) -> None:
    intake.take(arrival(image()))
    tamper(database, "UPDATE audit_events SET actor = 'nobody'")
    made = backup(settings, database)
    empty()
    with pytest.raises(PermanentError, match="broken at event 1"):
        restore_backup(made.folder, tmp_path / "new" / "node.toml", tmp_path / "new" / "data", ADMIN)
    left = Database(load_settings(settings.node.data.parent / "node.toml").database_url)
    assert inspect(left.engine).get_table_names() == []
    left.engine.dispose()


def test_a_backup_goes_to_its_own_kind_of_database(
    settings: Settings, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = backup(settings, database)
    monkeypatch.delenv(DATABASE_URL)
    with pytest.raises(PermanentError, match="is of a PostgreSQL database"):
        restore_backup(made.folder, tmp_path / "new" / "node.toml", tmp_path / "new" / "data", ADMIN)


def test_without_the_client_programs_the_remedy_is_named(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermanentError, match=r"pg_dump is not installed; install .*postgresql-client"):
        make_backup(settings, database, ADMIN, tmp_path / "node.toml", tmp_path / "backups", Content.NONE)
    assert list((tmp_path / "backups").iterdir()) == []


def test_the_nightly_job_of_kubernetes_makes_a_dump_that_comes_back_and_forgets_old_ones(
    settings: Settings,
    database: Database,
    intake: Intake,
    cluster: Cluster,
    tmp_path: Path,
    empty: Callable[[], None],
) -> None:
    intake.take(arrival(image()))
    (container,) = CRON_JOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (variable,) = container["env"]
    old = tmp_path / "node-2020-01-01.dump"
    old.touch()
    os.utime(old, (0, 0))
    (script,) = container["args"]
    command = [*container["command"], script.replace("/backups", str(tmp_path))]
    url = settings.database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run(command, check=True, env={**os.environ, variable["name"]: url})
    (dump,) = tmp_path.glob("node-*")
    assert dump.suffix == ".dump"
    empty()
    restored = cluster.url("empty")
    subprocess.run([require_program("pg_restore"), "--dbname", restored, str(dump)], check=True)
    with Database(restored.replace("postgresql:", "postgresql+psycopg:")).snapshot() as session:
        assert session.scalars(select(InstanceRow.sop_instance_uid)).all()
        assert verify_chain(session).faults == ()
