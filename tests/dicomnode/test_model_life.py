"""What a model may do here: its state by command, the configuration's limit, and what becomes of open jobs.

Not covered: that a running node follows (tests/system/test_shadow.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicomnode.errors import PermanentError
from dicomnode.models.life import Life
from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.model_tables import ModelRow
from dicomnode.records.standing import enrol, missing_live, state_here
from dicomnode.records.tables import DeliveryRow, JobRow, ResultRow
from dicomnode.settings import Settings
from dicomnode.work.orders import Order, create_job
from inference.bundle import ModelBundle, ModelState
from inference.registry import Registry, find_bundles
from tests.dicomnode.parts import arrival, events, image, series_of, settings_in
from tests.phantoms.bundles import write_bundle

AUDIT = Audit("admin jdoe")
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")


@pytest.fixture(scope="module")
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
def site(settings: Settings, database: Database, registry: Registry, intake: Intake) -> Iterator[Site]:
    intake.take(arrival(image()))
    found = Site(settings, database, registry)
    found.enrol()
    yield found


class Site:
    """Three versions of "threshold" at one node: the first is live, the others are candidates."""

    def __init__(self, settings: Settings, database: Database, registry: Registry) -> None:
        self.settings, self.database, self.registry = settings, database, registry
        self.life = Life(settings, registry, AUDIT)

    def enrol(self) -> None:
        with self.database.transaction() as session:
            enrol(session, AUDIT, self.settings.models, self.registry.versions("threshold"))

    def bundle(self, version: str) -> ModelBundle:
        return self.registry.find(f"threshold@{version}")

    def promote(self, version: str, reason: str = "better") -> None:
        with self.database.transaction() as session:
            self.life.promote(session, self.bundle(version), reason)

    def demote(self, version: str) -> None:
        with self.database.transaction() as session:
            self.life.demote(session, self.bundle(version), "worse")

    def retire(self, version: str) -> None:
        with self.database.transaction() as session:
            self.life.retire(session, self.bundle(version), "broken")

    def rollback(self) -> None:
        with self.database.transaction() as session:
            self.life.rollback(session, "threshold", "complaints")

    def states(self) -> list[str]:
        with self.database.snapshot() as session:
            return [state_here(session, self.settings.models, self.bundle(v)).value for v in VERSIONS]

    def job(self, version: str, *, send: bool = True, state: str = "queued", uid: str = "1.2.1") -> int:
        series = series_of(SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.1")
        order = Order(series, 1, self.settings.route[0], self.bundle(version), send)
        with self.database.transaction() as session:
            job, _ = create_job(session, AUDIT, order)
            job.state = state
            return job.id

    def jobs(self) -> list[JobRow]:
        with self.database.snapshot() as session:
            return list(session.scalars(select(JobRow).order_by(JobRow.id)))


def test_beside_a_live_version_a_new_one_begins_as_candidate(site: Site) -> None:
    assert site.states() == ["live", "shadow", "shadow"]
    told = [(d["model_version"], d["state"]) for _, d in events(site.database, "model_enrolled")]
    assert told == [("1.0.0", "live"), ("1.1.0", "shadow"), ("1.2.0", "shadow")]
    site.enrol()
    assert len(events(site.database, "model_enrolled")) == 3


def test_promoting_a_candidate_retires_what_was_live(site: Site) -> None:
    site.promote("1.1.0", "Dice 0.93 on 40 studies")
    assert site.states() == ["retired", "live", "shadow"]
    changes = events(site.database, "model_changed")
    assert [(d["model_version"], d["before"], d["state"]) for _, d in changes] == [
        ("1.0.0", "live", "retired"),
        ("1.1.0", "shadow", "live"),
    ]
    assert {d["reason"] for _, d in changes} == {"Dice 0.93 on 40 studies"}
    with site.database.snapshot() as session:
        row = session.get_one(ModelRow, site.bundle("1.1.0").digest)
        assert (row.changed_by, row.reason) == ("admin jdoe", "Dice 0.93 on 40 studies")


def test_rolling_back_goes_back_version_by_version(site: Site) -> None:
    site.promote("1.1.0")
    site.promote("1.2.0")
    site.rollback()
    assert site.states() == ["retired", "live", "retired"]
    site.rollback()
    assert site.states() == ["live", "retired", "retired"]
    with pytest.raises(PermanentError, match="replaced no other version"):
        site.rollback()
    assert site.states() == ["live", "retired", "retired"]


def test_a_version_that_comes_back_by_promotion_is_no_loop_for_rollbacks(site: Site) -> None:
    site.promote("1.1.0")
    site.promote("1.0.0")  # from retired to shadow
    site.promote("1.0.0")
    site.rollback()
    assert site.states() == ["retired", "live", "shadow"]
    with pytest.raises(PermanentError, match="replaced no other version"):
        site.rollback()


def test_the_configuration_limits_every_version(site: Site, tmp_path: Path) -> None:
    limited = settings_in(tmp_path, '[models.states]\nthreshold = "shadow"\n')
    with site.database.snapshot() as session:
        states = [state_here(session, limited.models, site.bundle(v)) for v in VERSIONS]
    assert states == [ModelState.SHADOW] * 3
    site.life = Life(limited, site.registry, AUDIT)
    with pytest.raises(PermanentError, match=r"models\.states in node\.toml limits threshold to shadow"):
        site.promote("1.1.0")
    assert site.states() == ["live", "shadow", "shadow"]


def test_the_first_state_is_the_configurations_word_before_the_cards(
    database: Database, registry: Registry, tmp_path: Path
) -> None:
    limited = settings_in(tmp_path, '[models.states]\nthreshold = "draft"\n')
    site = Site(limited, database, registry)
    assert site.states() == ["draft"] * 3
    site.enrol()
    assert site.states() == ["draft"] * 3


def test_what_is_not_a_move_is_refused_with_a_remedy(site: Site) -> None:
    with pytest.raises(PermanentError, match="is live already"):
        site.promote("1.0.0")
    with pytest.raises(PermanentError, match="say why"):
        site.promote("1.1.0", "  ")
    site.demote("1.1.0")
    with pytest.raises(PermanentError, match="is draft; only live and shadow models can be demoted"):
        site.demote("1.1.0")
    site.retire("1.1.0")
    with pytest.raises(PermanentError, match="is retired already"):
        site.retire("1.1.0")
    assert site.states() == ["live", "retired", "shadow"]


@pytest.mark.parametrize("state", ["queued", "running"])
def test_open_jobs_go_to_the_version_that_takes_over(site: Site, state: str) -> None:
    job_id = site.job("1.0.0", state=state)
    site.promote("1.1.0")
    old, new = site.jobs()
    assert (old.id, old.state, new.state) == (job_id, "superseded", "queued")
    assert new.model_digest == site.bundle("1.1.0").digest
    assert (new.destinations, new.shadow, new.input_digest) == ({"names": ["PACS"]}, False, old.input_digest)
    assert "1.1.0" in events(site.database, "job_superseded")[0][1]["reason"]


def test_what_the_candidate_has_already_seen_is_sent_when_it_takes_over(site: Site) -> None:
    site.job("1.0.0")
    seen = site.job("1.1.0", send=False, state="succeeded")
    with site.database.transaction() as session:
        session.add(
            ResultRow(sop_instance_uid="1.9", job_id=seen, kind="seg", sop_class_uid="1.2", path="x",
                      study_instance_uid="1.2.3.4", series_instance_uid="1.8", instance_number=1,
                      sha256="ab", created_at=utc_now())
        )  # fmt: skip
    site.promote("1.1.0")
    assert [job.state for job in site.jobs()] == ["superseded", "succeeded"]
    assert site.jobs()[1].shadow is False
    with site.database.snapshot() as session:
        (delivery,) = session.scalars(select(DeliveryRow))
        assert (delivery.sop_instance_uid, delivery.destination) == ("1.9", "PACS")


def test_a_demoted_model_sends_nothing_more(site: Site) -> None:
    site.job("1.0.0", state="running")
    site.demote("1.0.0")
    (job,) = site.jobs()
    assert (job.state, job.shadow, job.destinations) == ("running", True, {"names": []})


def test_open_jobs_of_a_retired_model_end_with_the_reason(site: Site) -> None:
    for uid, state in (("1.2.1", "queued"), ("1.2.2", "running")):
        site.job("1.0.0", state=state, uid=uid)
    site.job("1.1.0", send=False)
    site.retire("1.0.0")
    site.retire("1.1.0")
    first, second, shadow = site.jobs()
    assert (first.state, second.state, shadow.state) == ("failed", "failed", "superseded")
    assert first.error is not None
    assert "became retired: broken; when it may work again, replay the job" in first.error


def test_a_candidate_does_not_supersede_the_live_job_of_the_same_series(site: Site) -> None:
    site.job("1.0.0")
    site.job("1.1.0", send=False)
    assert [job.state for job in site.jobs()] == ["queued", "queued"]


def test_a_live_version_whose_bundle_is_gone_is_named(site: Site, tmp_path: Path) -> None:
    empty = find_bundles(tmp_path / "nothing")
    with site.database.snapshot() as session:
        (sentence,) = missing_live(session, empty, "threshold")
        assert "the live version threshold 1.0.0" in sentence
        assert missing_live(session, site.registry, "threshold") == []
