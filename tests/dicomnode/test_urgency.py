"""Urgent work first, and nothing starves: the order of a thousand jobs on a real database."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from pydicom import Dataset

from dicomnode.receive.intake import Intake
from dicomnode.records.audit import Audit
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import JobRow, StudyRow
from dicomnode.settings.node import PrioritySettings, WorkerSettings
from dicomnode.urgency import rank, steps, urgency
from dicomnode.work.jobs import JobQueue
from tests.dicomnode.parts import arrival, image

RULES = PrioritySettings(ageing_s=60)
START = utc_now() - timedelta(days=1)


def job(number: int, made_s: float, priority: int) -> JobRow:
    created_at = START + timedelta(seconds=made_s)
    return JobRow(
        study_instance_uid="1.2.3.4",
        series_instance_uid=f"1.2.3.{number}",
        generation=1,
        route="r",
        destinations={"names": []},
        model="m",
        model_digest="d",
        input_digest=f"{number}",
        notes={"lines": []},
        priority=priority,
        ranked_at=rank(created_at, priority, RULES),
        not_before=created_at,
        created_at=created_at,
    )


def order_of(database: Database, jobs: list[JobRow]) -> list[JobRow]:
    """The jobs in the order in which one worker leases them."""
    with database.transaction() as session:
        session.add_all(jobs)
    with database.engine.connect() as connection:  # a thousand leases would wait for the disk
        connection.connection.execute("PRAGMA synchronous=OFF")
    queue = JobQueue(database, Audit("test"), WorkerSettings(), "w", {})
    leased = []
    while found := queue.lease_next():
        leased.append(found[1])
    return leased


@pytest.fixture(autouse=True)
def study(intake: Intake) -> None:
    """Jobs belong to a study that is known."""
    intake.take(arrival(image()))


def test_a_thousand_jobs_come_by_urgency_and_age_and_none_waits_for_ever(database: Database) -> None:
    """One job a second is made and one is worked off, nine of ten urgent: still no routine job starves."""
    chance = random.Random(5)
    jobs = [
        job(n, float(n), 10 if chance.random() < 0.9 else chance.choice((-10, 0, 5))) for n in range(1000)
    ]
    leased = order_of(database, jobs)
    assert len(leased) == 1000
    assert leased == sorted(leased, key=lambda found: (found.ranked_at, found.id))
    place = {found.id: number for number, found in enumerate(leased)}
    for found in leased:
        overtaken_by = [
            o for o in leased if o.created_at > found.created_at and place[o.id] < place[found.id]
        ]
        longest_s = max(((o.created_at - found.created_at).total_seconds() for o in overtaken_by), default=0)
        assert longest_s <= (10 - found.priority) * RULES.ageing_s
    assert any(found.priority == 10 for found in leased[1:10])
    assert place[min(j.id for j in jobs if j.priority == 0)] < 999


def test_an_urgent_job_overtakes_a_routine_one_until_that_has_waited_long_enough(database: Database) -> None:
    routine, urgent, too_late = job(1, 0, 0), job(2, 599, 10), job(3, 601, 10)
    assert [found.id for found in order_of(database, [routine, urgent, too_late])] == [2, 1, 3]


@pytest.mark.parametrize(
    ("word", "found", "adds"),
    [("STAT", "STAT", 10), ("stat", "STAT", 10), ("HIGH", "HIGH", 5), ("ROUTINE", "ROUTINE", 0),
     ("LOW", "LOW", -5), ("soon", None, 0), ("", None, 0)],
)  # fmt: skip
def test_the_images_say_how_urgent_the_study_is(word: str, found: str | None, adds: int) -> None:
    assert urgency(image(RequestedProcedurePriority=word)) == found
    assert steps(found, PrioritySettings()) == adds


def test_the_request_attributes_count_too_and_the_most_urgent_word_stays(
    intake: Intake, database: Database
) -> None:
    item = Dataset()
    item.RequestedProcedurePriority = "STAT"
    intake.take(arrival(image(RequestAttributesSequence=[item])))
    intake.take(arrival(image(RequestedProcedurePriority="ROUTINE")))
    with database.snapshot() as session:
        assert session.get_one(StudyRow, "1.2.3.4").urgency == "STAT"
