"""Judges a node from outside: was anything lost, done twice, stuck or tampered with?

Reads the database with its own client, the spool with hashlib and Orthanc by REST. It imports nothing of the
node and computes the seals of the audit trail on its own, so that it shares no mistake with the node.

    python tests/crash/invariants.py DATA_FOLDER [--orthanc URL] [--sent MANIFEST.json] [--database URL]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import struct
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

RESULT_SET = {"SEG": 1, "SR": 2}
"""What one result set is made of, by Modality."""
META_GROUP_LENGTH = slice(132, 144)
"""Where a file says how long its file meta information is (PS3.10 section 7.1)."""
STUDY_AT_REST = ("routed", "ignored")
JOB_AT_REST = ("succeeded", "superseded")
GENESIS = "0" * 64

QUERIES = {
    name: f"SELECT * FROM {table} ORDER BY {key}"
    for name, table, key in (
        ("instances", "instances", "id"),
        ("studies", "studies", "study_instance_uid"),
        ("jobs", "jobs", "id"),
        ("results", "results", "job_id, sop_instance_uid"),
        ("deliveries", "deliveries", "id"),
        ("events", "audit_events", "id"),
    )
}

Row = dict[str, Any]
Complaints = Iterator[str]


@dataclass(frozen=True)
class Sent:
    """What the senders know: the images that were acknowledged, and the studies that were sent as a whole."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID -> SHA-256 of its data set."""
    studies: frozenset[str] = frozenset()
    """Each of these must have one result set; the lesions of the phantom are in view."""


@dataclass(frozen=True)
class Node:
    """The tables of one node, read in one snapshot."""

    instances: list[Row]
    studies: list[Row]
    jobs: list[Row]
    results: list[Row]
    deliveries: list[Row]
    events: list[Row]
    spool: Path

    @classmethod
    def read(cls, data: Path, postgresql: str | None = None) -> Node:
        """Read the PostgreSQL database of that address, else `node.sqlite` in the node's data folder."""
        tables = _from_postgresql(postgresql) if postgresql else _from_sqlite(data / "node.sqlite")
        for row in (*tables["instances"], *tables["results"]):
            row["path"] = data / "spool" / row["path"].rpartition("/spool/")[2]  # the folder may be a copy
        return cls(**tables, spool=data / "spool")


def complaints(
    data: Path, sent: Sent | None = None, orthanc_url: str | None = None, postgresql: str | None = None
) -> list[str]:
    """Everything that is wrong with a node at rest; nothing when all promises hold."""
    node = Node.read(data, postgresql)
    sent = sent or Sent()
    found = [
        *files_are_whole(node),
        *acknowledged_is_kept(node, sent),
        *nothing_is_stuck(node),
        *one_result_set(node, sent),
        *chain_holds(node.events),
        *events_and_rows_agree(node),
    ]
    if orthanc_url:
        found += visible_results(node, sent, orthanc_url)
    return found


def _from_sqlite(file: Path) -> dict[str, list[Row]]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        database.execute("BEGIN")
        return {name: [dict(row) for row in database.execute(query)] for name, query in QUERIES.items()}


def _from_postgresql(url: str) -> dict[str, list[Row]]:
    """The same rows, with times and JSON as SQLite has them."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return {
            name: [
                {key: _as_in_sqlite(value) for key, value in row.items()}
                for row in connection.execute(query.encode())
            ]
            for name, query in QUERIES.items()
        }


def _as_in_sqlite(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
    return json.dumps(value) if isinstance(value, dict) else value


def data_set_digest(content: bytes) -> str:
    """SHA-256 of a DICOM file without its preamble and file meta information."""
    (length,) = struct.unpack("<I", content[META_GROUP_LENGTH][-4:])
    return hashlib.sha256(content[META_GROUP_LENGTH.stop + length :]).hexdigest()


def files_are_whole(node: Node) -> Complaints:
    """Every row has its file with the right digest, unless it is purged; every file has its row.

    The journals of running receivers are no such files: what was acknowledged must have left them for rows
    (`acknowledged_is_kept`).
    """
    for row in node.instances:
        yield from _file_matches(row, data_set_digest)
    for row in node.results:
        yield from _file_matches(row, lambda content: hashlib.sha256(content).hexdigest())
    known = {row["path"] for row in (*node.instances, *node.results)}
    journals = node.spool / "journals"
    for path in sorted(node.spool.rglob("*")):
        if path.is_file() and path not in known and not path.is_relative_to(journals):
            yield f"file without a row: {path}"


def _file_matches(row: Row, digest: Callable[[bytes], str]) -> Complaints:
    if row["purged_at"]:
        if row["path"].exists():
            yield f"file is purged and still there: {row['path']}"
        return
    try:
        content = row["path"].read_bytes()
    except FileNotFoundError:
        yield f"file is missing: {row['path']}"
        return
    if digest(content) != row["sha256"]:
        yield f"file has another digest than its row: {row['path']}"


def acknowledged_is_kept(node: Node, sent: Sent) -> Complaints:
    """Every image that a sender got a success for is recorded with the content that was sent."""
    kept = {(row["sop_instance_uid"], row["sha256"]) for row in node.instances}
    for uid, sha256 in sent.acknowledged.items():
        if (uid, sha256) not in kept:
            yield f"acknowledged instance is not recorded: {uid}"


def nothing_is_stuck(node: Node) -> Complaints:
    """Everything has come to its end."""
    for row in node.studies:
        if row["state"] not in STUDY_AT_REST:
            yield f"study {row['study_instance_uid']} is {row['state']}"
    for row in node.jobs:
        if row["state"] not in JOB_AT_REST:
            yield f"job {row['id']} is {row['state']} in stage {row['stage']}: {row['error']}"
    for row in node.deliveries:
        if row["state"] != "delivered":
            yield f"delivery {row['id']} is {row['state']}: {row['last_status']}"


def one_result_set(node: Node, sent: Sent) -> Complaints:
    """The database knows exactly one result set for every study that was sent."""
    succeeded = Counter(row["study_instance_uid"] for row in node.jobs if row["state"] == "succeeded")
    delivered = {row["sop_instance_uid"] for row in node.deliveries}
    for study in sent.studies:
        if succeeded[study] != 1:
            yield f"study {study} has {succeeded[study]} jobs that succeeded"
        results = [row for row in node.results if row["study_instance_uid"] == study]
        if len(results) != sum(RESULT_SET.values()):
            yield f"study {study} has {len(results)} results"
        for row in results:
            if row["sop_instance_uid"] not in delivered:
                yield f"result {row['sop_instance_uid']} has no delivery"


def chain_holds(events: list[Row]) -> Complaints:
    """Every audit row carries the seal of the one before and its own."""
    previous, expected_id = GENESIS, 1
    for row in events:
        if row["id"] != expected_id:
            yield f"audit row {expected_id} is missing"
        if row["previous_sha256"] != previous:
            yield f"audit row {row['id']} does not follow the one before it"
        if row["sha256"] != seal(row):
            yield f"audit row {row['id']} was changed"
        previous, expected_id = row["sha256"], row["id"] + 1


def seal(row: Row) -> str:
    """SHA-256 over the compact JSON of an audit row, as docs/audit.md describes it."""
    at = datetime.fromisoformat(row["at"]).replace(tzinfo=UTC).isoformat()
    about = [
        row[name] for name in ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "job_id")
    ]
    content = [at, row["event"], row["actor"], *about, json.loads(row["detail"]), row["previous_sha256"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def events_and_rows_agree(node: Node) -> Complaints:
    """What is in the tables is in the audit trail exactly once, and the other way round."""
    told = Counter(
        (row["event"], row["sop_instance_uid"] or row["job_id"] or row["study_instance_uid"])
        for row in node.events
        if row["event"] in FACTS
    )
    for row in node.instances:
        uid = row["sop_instance_uid"]
        if not any(told[event, uid] for event in ARRIVALS):
            yield f"no audit row tells that instance {uid} arrived"
    facts = Counter(("job_created", row["id"]) for row in node.jobs)
    facts += Counter(("job_succeeded", row["id"]) for row in node.jobs if row["state"] == "succeeded")
    facts += Counter(("result_created", row["sop_instance_uid"]) for row in node.results)
    facts += Counter(
        ("result_delivered", row["sop_instance_uid"])
        for row in node.deliveries
        if row["state"] == "delivered"
    )
    for fact in sorted({*facts, *(fact for fact in told if fact[0] not in ARRIVALS)}, key=str):
        if facts[fact] != told[fact]:
            yield f"{fact[0]} of {fact[1]}: {facts[fact]} in the tables, {told[fact]} in the audit trail"


ARRIVALS = ("instance_received", "instance_recoded", "instance_altered", "own_result_received")
FACTS = (*ARRIVALS, "job_created", "job_succeeded", "result_created", "result_delivered")


def visible_results(node: Node, sent: Sent, orthanc_url: str) -> Complaints:
    """What a radiologist sees in the PACS is one whole result set, byte for byte the one in the spool."""
    stored = {row["sop_instance_uid"]: row["path"] for row in node.results}
    for study in sorted(sent.studies):
        seen = [item for modality in RESULT_SET for item in _find(orthanc_url, study, modality)]
        count = Counter(modality for modality, _, _ in seen)
        if count != RESULT_SET:
            yield f"study {study} shows {dict(count)} in the PACS"
        for _, uid, orthanc_id in seen:
            if uid not in stored:
                yield f"the PACS shows {uid}, which the node does not know"
                continue
            shown = _request(f"{orthanc_url}/instances/{orthanc_id}/file")
            if data_set_digest(shown) != data_set_digest(stored[uid].read_bytes()):
                yield f"the PACS shows {uid} with another content"


def _find(orthanc_url: str, study: str, modality: str) -> Iterator[tuple[str, str, str]]:
    """(modality, SOP Instance UID, Orthanc's id) of the instances of one modality."""
    query = {"StudyInstanceUID": study, "Modality": modality}
    body = json.dumps({"Level": "Instance", "Expand": True, "Query": query}).encode()
    for found in json.loads(_request(f"{orthanc_url}/tools/find", body)):
        yield modality, found["MainDicomTags"]["SOPInstanceUID"], found["ID"]


def _request(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        content: bytes = answer.read()
    return content


def main() -> int:
    """Print every complaint; the exit status says whether there are any."""
    parser = argparse.ArgumentParser(description="Is everything there, once, whole and told of?")
    parser.add_argument("data", type=Path, help="the node's data folder")
    parser.add_argument("--orthanc", help="base address of Orthanc's REST interface")
    parser.add_argument("--sent", type=Path, help='JSON: {"acknowledged": {uid: sha256}, "studies": [uid]}')
    parser.add_argument("--database", help="address of the PostgreSQL database, where it is not SQLite")
    arguments = parser.parse_args()
    told = json.loads(arguments.sent.read_text()) if arguments.sent else {}
    sent = Sent(told.get("acknowledged", {}), frozenset(told.get("studies", ())))
    found = complaints(arguments.data, sent, arguments.orthanc, arguments.database)
    print("\n".join(found) or "no complaints")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
