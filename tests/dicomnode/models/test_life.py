"""What a model may do here: its state by command, the configuration's limit, and what becomes of open jobs.

Not covered: that a running node follows (tests/system/test_shadow.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from dicomnode.errors import PermanentError
from dicomnode.models.life import Life
from dicomnode.records.db import Database, utc_now
from dicomnode.records.model_tables import ModelRow
from dicomnode.records.standing import missing_live, state_here
from dicomnode.records.tables import DeliveryRow, ResultRow
from inference.bundle import ModelState
from inference.registry import Registry, find_bundles
from tests.dicomnode.models.site import ADMIN, VERSIONS, Site
from tests.dicomnode.parts import events, settings_in


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
    site.life = Life(limited, site.registry, ADMIN)
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


@pytest.mark.parametrize("state", ["queued", "running"])
def test_open_jobs_come_back_with_a_rollback(site: Site, state: str) -> None:
    site.job("1.0.0", state=state)
    site.promote("1.1.0")
    site.rollback()
    first, second = site.jobs()
    assert (first.state, second.state) == ("queued", "superseded")
    assert (first.destinations, first.shadow, first.finished_at) == ({"names": ["PACS"]}, False, None)
    assert len(events(site.database, "job_replayed")) == 1
    site.promote("1.1.0")  # from retired to shadow
    site.promote("1.1.0")
    assert [job.state for job in site.jobs()] == ["superseded", "queued"]


def test_a_candidate_that_was_a_draft_for_a_while_gets_the_open_jobs_all_the_same(site: Site) -> None:
    site.job("1.0.0")
    site.job("1.1.0", send=False)
    site.demote("1.1.0")
    site.promote("1.1.0")
    site.promote("1.1.0")
    first, second = site.jobs()
    assert (first.state, second.state) == ("superseded", "queued")
    assert (second.destinations, second.shadow) == ({"names": ["PACS"]}, False)


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
