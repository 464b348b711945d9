"""A database as after years of work: studies, jobs, results, deliveries and a sealed audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from dicomnode.records.chain import GENESIS, seal
from dicomnode.records.db import Database
from dicomnode.records.tables import (
    AuditRow,
    DecisionRow,
    DeliveryRow,
    InstanceRow,
    JobRow,
    ResultRow,
    StudyRow,
)
from tests.bench.bulk import Record, fill_tables

END = datetime(2026, 11, 1, tzinfo=UTC)
BETWEEN_STUDIES = timedelta(minutes=5)
EVENTS_PER_STUDY = 20
FAILED_EVERY, DEAD_EVERY, PARKED_EVERY = 1000, 500, 5000
KINDS = ("seg", "sr_measurements", "sr_volumes")


def fill(database: Database, study_count: int) -> None:
    """Fill an empty, migrated database; 20 events for every study. Nothing here need survive a crash."""
    fill_tables(
        database.engine,
        (
            (StudyRow, studies(study_count)),
            (InstanceRow, instances(study_count)),
            (DecisionRow, decisions(study_count)),
            (JobRow, jobs(study_count)),
            (ResultRow, results(study_count)),
            (DeliveryRow, deliveries(study_count)),
            (AuditRow, events(study_count)),
        ),
    )


def study_uid(number: int) -> str:
    """Study Instance UID of study `number` (from 0, the oldest)."""
    return f"1.2.826.0.1.3680043.10.511.3.{number}"


def _came_at(number: int, count: int) -> datetime:
    return END - BETWEEN_STUDIES * (count - number)


def studies(count: int) -> Iterator[Record]:
    """One in 5000 is parked."""
    for number in range(count):
        at = _came_at(number, count)
        yield {
            "study_instance_uid": study_uid(number),
            "state": "parked" if number % PARKED_EVERY == 7 else "routed",
            "generation": 1,
            "patient_id": f"PAT-{number // 3}",
            "accession_number": f"ACC-{number}",
            "calling_ae_title": "PACS",
            "first_received_at": at,
            "last_received_at": at + timedelta(seconds=20),
            "completed_at": at + timedelta(seconds=25),
            "completed_by": "expected_count",
            "received_count": 3,
            "expected_count": 3,
        }


def instances(count: int) -> Iterator[Record]:
    """Three of each study; their files do not exist."""
    for number in range(count):
        for index in range(3):
            yield {
                "sop_instance_uid": f"{study_uid(number)}.1.{index}",
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
                "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                "study_instance_uid": study_uid(number),
                "series_instance_uid": f"{study_uid(number)}.1",
                "version": 1,
                "own_result": False,
                "sha256": f"{number:032x}{index:032x}",
                "size_bytes": 500_000,
                "path": f"/nowhere/{number}/{index}.dcm",
                "calling_ae_title": "PACS",
                "calling_address": "192.0.2.1",
                "received_at": _came_at(number, count),
            }


def decisions(count: int) -> Iterator[Record]:
    """One routed series of each study."""
    for number in range(count):
        yield {
            "study_instance_uid": study_uid(number),
            "generation": 1,
            "series_instance_uid": f"{study_uid(number)}.1",
            "routed": True,
            "route": "lesions",
            "model": "ct-lung-nodule",
            "reason": f"matches route 'lesions'; job {number + 1}",
            "checks": {},
            "decided_at": _came_at(number, count) + timedelta(seconds=26),
        }


def jobs(count: int) -> Iterator[Record]:
    """One of each study; one in 1000 failed."""
    for number in range(count):
        at = _came_at(number, count) + timedelta(seconds=26)
        failed = number % FAILED_EVERY == 3
        yield {
            "id": number + 1,
            "study_instance_uid": study_uid(number),
            "series_instance_uid": f"{study_uid(number)}.1",
            "generation": 1,
            "route": "lesions",
            "destinations": {"names": ["PACS"]},
            "model": "ct-lung-nodule",
            "model_digest": "ab" * 32,
            "input_digest": f"{number:064x}",
            "notes": {"lines": []},
            "state": "failed" if failed else "succeeded",
            "priority": 0,
            "attempt": 1,
            "not_before": at,
            "worker": "cuda:0 pid 1",
            "fencing_token": 1,
            "created_at": at,
            "started_at": at + timedelta(seconds=1),
            "finished_at": at + timedelta(seconds=9),
            "error": "the slices are not evenly spaced" if failed else None,
        }


def results(count: int) -> Iterator[Record]:
    """Three objects of each job; their files do not exist."""
    for number in range(count):
        for kind in KINDS:
            yield {
                "sop_instance_uid": f"{study_uid(number)}.9.{KINDS.index(kind)}",
                "job_id": number + 1,
                "kind": kind,
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4",
                "study_instance_uid": study_uid(number),
                "series_instance_uid": f"{study_uid(number)}.9",
                "instance_number": 1,
                "sha256": "cd" * 32,
                "path": f"/nowhere/{number}/{kind}.dcm",
                "created_at": _came_at(number, count) + timedelta(seconds=35),
            }


def deliveries(count: int) -> Iterator[Record]:
    """Each object to one destination; of one study in 500 they are dead."""
    for number in range(count):
        dead = number % DEAD_EVERY == 11
        at = _came_at(number, count) + timedelta(seconds=36)
        for index in range(len(KINDS)):
            yield {
                "sop_instance_uid": f"{study_uid(number)}.9.{index}",
                "job_id": number + 1,
                "destination": "PACS",
                "state": "dead" if dead else "delivered",
                "attempt": 200 if dead else 1,
                "not_before": at,
                "last_status": "0xA900" if dead else "0x0000",
                "delivered_at": None if dead else at,
            }


def events(count: int) -> Iterator[Record]:
    """A sealed chain: arrivals, completion, routing, the job and its deliveries."""
    previous = GENESIS
    for number in range(count):
        for index in range(EVENTS_PER_STUDY):
            record = _event(number, index) | {"at": _came_at(number, count) + timedelta(seconds=2 * index)}
            record["previous_sha256"] = previous
            record["sha256"] = previous = seal(SimpleNamespace(**record))
            yield record


def _event(number: int, index: int) -> Record:
    uid = study_uid(number)
    of_job = index >= 9
    kinds: dict[int, tuple[str, Record]] = {
        7: ("study_completed", {"rule": "expected_count", "received_count": 3, "expected_count": 3}),
        8: ("series_routed", {"reason": "matches route 'lesions'", "modality": "CT", "instance_count": 3}),
        9: ("job_created", {"model": "ct-lung-nodule", "model_version": "1.0.0", "model_digest": "ab" * 32}),
        10: ("job_started", {"attempt": 1}),
        **{
            11 + place: ("stage_finished", {"stage": stage, "duration_s": 1.5})
            for place, stage in enumerate(("read", "segment", "measure", "encode"))
        },
        15: ("job_succeeded", {"duration_s": 8.0, "lesion_count": 2, "total_volume_mm3": 800.0}),
        16: ("result_created", {"kind": "seg", "sha256": "cd" * 32}),
        **{
            17 + place: ("result_delivered", {"kind": kind, "destination": "PACS", "status": "0x0000"})
            for place, kind in enumerate(KINDS)
        },
    }
    event, detail = kinds.get(index, ("instance_received", {"calling_ae_title": "PACS"}))
    return {
        "event": event,
        "actor": "worker cuda:0" if of_job else "receiver",
        "study_instance_uid": uid,
        "series_instance_uid": f"{uid}.1",
        "sop_instance_uid": f"{uid}.1.{index}" if index < 7 else None,
        "job_id": number + 1 if of_job else None,
        "detail": detail,
    }
