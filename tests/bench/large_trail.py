"""How long questions take with 100 000 studies and 2 000 000 events; prints a table.

python -m tests.bench.large_trail DATABASE_URL

The database is filled first, unless it is already.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from dicomnode.records.audit import Event
from dicomnode.records.chain import GENESIS, seal, verify_chain
from dicomnode.records.db import Database, migrate
from dicomnode.records.events import EventFilter, Outcome, event_page, events_with
from dicomnode.records.lookup import StudyCursor, StudyFilter, events_about, find, find_one, study_page
from dicomnode.records.tables import AuditRow, InstanceRow, JobRow, StudyRow

STUDIES = 100_000
EVENTS_OF_A_STUDY = 20
BATCH = 1000
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
STEPS = [
    *[Event.INSTANCE_RECEIVED] * 9, Event.STUDY_COMPLETED, Event.SERIES_ROUTED, Event.JOB_CREATED,
    Event.JOB_STARTED, *[Event.STAGE_FINISHED] * 4, Event.JOB_SUCCEEDED, Event.RESULT_CREATED,
    Event.RESULT_DELIVERED,
]  # fmt: skip


def fill(database: Database) -> None:
    """Studies of five minutes each; one in a thousand fails, and one peer and one model are rare."""
    began, previous = time.monotonic(), GENESIS
    for first in range(0, STUDIES, BATCH):
        studies: list[dict[str, Any]] = []
        jobs: list[dict[str, Any]] = []
        instances: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        for number in range(first, first + BATCH):
            at = BEGIN + timedelta(minutes=5 * number)
            study = _study(number, at)
            studies.append(study)
            jobs.append(_job(number, at))
            instances.append(_instance(number, study, at))
            for row in _events(number, study["calling_ae_title"], at):
                row["previous_sha256"] = previous
                row["sha256"] = previous = seal(AuditRow(**row))
                events.append(row)
        with database.transaction() as session:
            for table, rows in (
                (StudyRow, studies),
                (JobRow, jobs),
                (InstanceRow, instances),
                (AuditRow, events),
            ):
                session.execute(insert(table), rows)
        if first % 10_000 == 0:
            print(f"{first} studies, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    with database.engine.begin() as connection:
        connection.execute(text("ANALYZE"))


def _study(number: int, at: datetime) -> dict[str, Any]:
    return {
        "study_instance_uid": f"1.2.3.{number}", "state": "parked" if number % 1000 == 0 else "routed",
        "generation": 1, "patient_id": f"P{number // 3}", "accession_number": f"A{number}",
        "calling_ae_title": "RARE" if number == 77 else "PACS",
        "first_received_at": at, "last_received_at": at,
    }  # fmt: skip


def _job(number: int, at: datetime) -> dict[str, Any]:
    return {
        "id": number + 1, "study_instance_uid": f"1.2.3.{number}", "series_instance_uid": f"1.2.3.{number}.1",
        "generation": 1, "route": "r", "destinations": {"names": []},
        "model": "rare" if number == 99 else "m",
        "model_digest": "d", "input_digest": "i", "notes": {"lines": []}, "state": "succeeded", "priority": 0,
        "attempt": 1, "not_before": at, "fencing_token": 1, "created_at": at,
    }  # fmt: skip


def _instance(number: int, study: dict[str, Any], at: datetime) -> dict[str, Any]:
    return {
        "sop_instance_uid": f"1.2.3.{number}.1.1", "sop_class_uid": "1", "transfer_syntax_uid": "1",
        "study_instance_uid": study["study_instance_uid"], "series_instance_uid": f"1.2.3.{number}.1",
        "version": 1, "own_result": False, "sha256": "0", "size_bytes": 1, "path": "p",
        "calling_ae_title": "PACS", "calling_address": "::1", "received_at": at,
    }  # fmt: skip


def _events(number: int, calling: str, at: datetime) -> list[dict[str, Any]]:
    rows = []
    for step, event in enumerate(STEPS):
        of_job = step >= STEPS.index(Event.JOB_CREATED)
        if number % 1000 == 0 and event is Event.JOB_SUCCEEDED:
            event = Event.JOB_FAILED
        detail = {"stage": "read", "duration_s": 0.1, "reason": "x"}
        if event is Event.INSTANCE_RECEIVED:
            detail["calling_ae_title"] = calling
        rows.append(
            {
                "at": at + timedelta(seconds=step),
                "event": event.value,
                "actor": "bench",
                "study_instance_uid": f"1.2.3.{number}",
                "series_instance_uid": None if event is Event.STUDY_COMPLETED else f"1.2.3.{number}.1",
                "sop_instance_uid": f"1.2.3.{number}.1.1" if event is Event.INSTANCE_RECEIVED else None,
                "job_id": number + 1 if of_job else None,
                "detail": detail,
            }
        )
    return rows


def questions() -> dict[str, Callable[[Session], object]]:
    """What people ask, by its name."""
    middle = BEGIN + timedelta(minutes=5 * STUDIES // 2)
    failures = frozenset(Event) - events_with(Outcome.SUCCESS)
    rejected = frozenset({Event.ASSOCIATION_REJECTED})
    return {
        "find by accession number": lambda s: find(s, "A54321"),
        "find by patient ID": lambda s: find(s, "P12345"),
        "find by series": lambda s: find(s, "1.2.3.54321.1"),
        "find by instance": lambda s: find(s, "1.2.3.54321.1.1"),
        "find by job": lambda s: find(s, "54321"),
        "find nothing": lambda s: find(s, "9.9.9.9"),
        "story of a study": lambda s: events_about(s, find_one(s, "1.2.3.54321")),
        "studies, first page": lambda s: study_page(s, StudyFilter()),
        "studies, page in the middle": lambda s: study_page(s, StudyFilter(), StudyCursor(middle, "")),
        "studies parked": lambda s: study_page(s, StudyFilter(state="parked")),
        "studies of a rare peer": lambda s: study_page(s, StudyFilter(calling_ae_title="RARE")),
        "events, first page": lambda s: event_page(s, EventFilter()),
        "events, page in the middle": lambda s: event_page(s, EventFilter(), before=1_000_000),
        "events of an hour a year ago": lambda s: event_page(
            s, EventFilter(since=middle, until=middle + timedelta(hours=1))
        ),
        "events that failed": lambda s: event_page(s, EventFilter(events=failures)),
        "events of a kind without any": lambda s: event_page(s, EventFilter(events=rejected)),
        "events of a rare peer": lambda s: event_page(s, EventFilter(peer="RARE")),
        "events of a rare model": lambda s: event_page(s, EventFilter(model="rare")),
        "events of a busy model": lambda s: event_page(s, EventFilter(model="m")),
    }


def main(url: str) -> None:
    """Fill where needed, ask each question five times, and print the median and the longest."""
    database = Database(url)
    migrate(database)
    with database.snapshot() as session:
        filled = session.scalar(select(func.count()).select_from(StudyRow))
    if not filled:
        fill(database)
    for name, ask in questions().items():
        times = []
        for _ in range(5):
            with database.snapshot() as session:
                began = time.perf_counter()
                ask(session)
                times.append((time.perf_counter() - began) * 1000)
        print(f"{name:32} {sorted(times)[2]:8.1f} ms  (longest {max(times):8.1f})", flush=True)
    began = time.monotonic()
    with database.snapshot() as session:
        check = verify_chain(session)
    seconds = time.monotonic() - began
    print(f"verify {check.event_count} events: {seconds:.0f} s, {len(check.faults)} faults", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
