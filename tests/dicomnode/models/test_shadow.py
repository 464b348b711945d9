"""Candidates look at what the live model looks at, when there is time, and are compared with it.

Not covered: real voxels (test_compare.py) and a running node (tests/system/test_shadow.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicomnode.errors import PermanentError
from dicomnode.models.agreement import Usage, agreement, usage
from dicomnode.models.comparing import Comparing
from dicomnode.records.audit import Audit
from dicomnode.records.model_tables import ComparisonRow
from dicomnode.route.versions import Request, Versions
from dicomnode.work.jobs import JobQueue
from inference.registry import find_bundles
from tests.dicomnode.models.site import ADMIN, Site
from tests.dicomnode.parts import events, kinds, series_of

SUMMARY = {"slice_count": 1, "lesion_count": 0, "total_volume_mm3": 0.0}


def ask(site: Site, uid: str = "1.2.1") -> tuple[bool, str]:
    """Route one series to "threshold"."""
    series = series_of(SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.1")
    request = Request(series, 1, site.settings.route[0], 0, ())
    with site.database.transaction() as session:
        return Versions(site.settings, site.registry, ADMIN).make_jobs(session, request)


def with_rules(site: Site, **rules: int) -> None:
    models = site.settings.models.model_copy(update=rules)
    site.settings = site.settings.model_copy(update={"models": models})


def queue(site: Site) -> JobQueue:
    return JobQueue(site.database, ADMIN, site.settings.worker, "w", {})


def work_all(site: Site) -> list[int]:
    """Let every job succeed without a result; returns them in the order in which they were leased."""
    order = []
    while (leased := queue(site).lease_next()) is not None:
        queue(site).succeed(leased[0], (), SUMMARY)
        order.append(leased[0].job_id)
    return order


def comparisons(site: Site) -> list[ComparisonRow]:
    with site.database.snapshot() as session:
        return list(session.scalars(select(ComparisonRow).order_by(ComparisonRow.id)))


def test_without_the_bundle_of_the_live_version_no_candidate_looks_alone(site: Site, tmp_path: Path) -> None:
    for version in ("1.1.0", "1.2.0"):
        shutil.copytree(site.registry.folder / version, tmp_path / version)
    site.registry = find_bundles(tmp_path)
    with pytest.raises(PermanentError, match=r"the live version threshold 1\.0\.0 .* replay the study"):
        ask(site)
    assert site.jobs() == []


def test_the_live_version_and_every_candidate_look_at_a_series(site: Site) -> None:
    routed, told = ask(site)
    assert routed
    assert told == "job 1; in shadow threshold 1.1.0: job 2; in shadow threshold 1.2.0: job 3"
    jobs = site.jobs()
    assert [job.shadow for job in jobs] == [False, True, True]
    assert [job.destinations["names"] for job in jobs] == [["PACS"], [], []]


def test_shadow_jobs_wait_until_no_other_job_is_due(site: Site) -> None:
    ask(site, "1.2.1")
    ask(site, "1.2.2")
    assert work_all(site) == [1, 4, 2, 3, 5, 6]


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"shadow_backlog": 1}, "1 shadow jobs wait already"),
        ({"shadow_load": 1}, "1 other jobs wait"),
        ({"shadow_backlog": 0}, "0 shadow jobs wait already"),
    ],
)
def test_a_candidate_skips_a_series_when_too_much_waits(
    site: Site, rules: dict[str, int], reason: str
) -> None:
    with_rules(site, **rules)
    routed, told = ask(site)
    assert routed
    assert told.endswith(f"in shadow threshold 1.2.0: skipped, {reason}")
    skipped = events(site.database, "shadow_skipped")
    assert skipped[-1][1]["model_version"] == "1.2.0"
    assert skipped[-1][1]["reason"] == reason


def test_a_candidate_alone_is_not_compared(site: Site) -> None:
    site.demote("1.0.0")
    ask(site)
    assert all(job.shadow for job in site.jobs())
    work_all(site)
    assert comparisons(site) == []


def test_when_both_are_done_they_are_compared_once_whoever_is_first(site: Site) -> None:
    ask(site)
    first = work_all(site)
    assert first == [1, 2, 3]
    pairs = [(row.live_job_id, row.candidate_job_id, row.compared_at) for row in comparisons(site)]
    assert pairs == [(1, 2, None), (1, 3, None)]
    Comparing(site.database, Audit("comparing")).compare_due()
    Comparing(site.database, Audit("comparing")).compare_due()
    assert kinds(site.database).count("models_compared") == 2
    row = comparisons(site)[0]
    assert row.compared_at is not None
    assert (row.dice, row.live_voxels, row.found_by_both) == (None, 0, 0)


def test_a_live_job_that_ends_after_the_candidate_is_compared_too(site: Site) -> None:
    ask(site)
    live = queue(site).lease_next()
    assert live is not None
    work_all(site)
    assert comparisons(site) == []
    queue(site).succeed(live[0], (), SUMMARY)
    assert [(row.live_job_id, row.candidate_job_id) for row in comparisons(site)] == [(1, 2), (1, 3)]


def test_what_cannot_be_compared_says_why_and_is_not_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(site)
    work_all(site)

    def gone(*_: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr("dicomnode.models.comparing.seen_in", gone)
    comparing = Comparing(site.database, Audit("comparing"))
    comparing.compare_due()
    monkeypatch.undo()
    comparing.compare_due()
    assert {row.error for row in comparisons(site)} == {"a segmentation is not kept any more"}
    with site.database.snapshot() as session:
        found = agreement(session, site.bundle("1.0.0").digest, site.bundle("1.1.0").digest)
    assert (found.compared, found.failed, found.dice) == (1, 1, None)


def test_what_a_version_has_done_is_counted(site: Site) -> None:
    ask(site, "1.2.1")
    work_all(site)
    site.job("1.0.0", state="failed", uid="1.2.2")
    site.job("1.0.0", uid="1.2.3")
    with site.database.snapshot() as session:
        assert usage(session)[site.bundle("1.0.0").digest] == Usage(1, 1, 1, 1)
        assert usage(session)[site.bundle("1.1.0").digest] == Usage(1, 1, 0, 0)
