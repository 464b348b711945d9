"""One event of the trail as a FHIR AuditEvent (R4), with the codes of the DICOM audit messages."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from dicomnode.records.events import outcome_of
from dicomnode.records.story import sentence_of
from dicomnode.records.tables import AuditRow
from dicomnode.show.plain import plain
from dicomnode.syslog.meaning import OWN_SCHEME, Code, meaning_of, type_of

SYSTEMS = {"DCM": "http://dicom.nema.org/resources/ontology/DCM", OWN_SCHEME: "urn:dicomnode:events"}
OBJECT_TYPES = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
SOURCE_TYPES = "http://terminology.hl7.org/CodeSystem/security-source-type"


def audit_event(row: AuditRow) -> dict[str, Any]:
    """The resource. The study is an identifier, not a reference: no server needs to know it."""
    meaning = meaning_of(row.event)
    return {
        "resourceType": "AuditEvent",
        "id": f"event-{row.id}",
        "type": _coding(meaning.event_id),
        "subtype": [_coding(type_of(row.event))],
        "action": meaning.action,
        "recorded": row.at.isoformat(),
        "outcome": str(int(outcome_of(row.event))),
        "outcomeDesc": plain(sentence_of(row)),
        "agent": _agents(row),
        "source": {
            "observer": {"display": "dicomnode"},
            "type": [{"system": SOURCE_TYPES, "code": "4", "display": "Application Server"}],
        },
        "entity": [*_study(row), _event(row)],
    }


def _coding(code: Code) -> dict[str, str]:
    return {"system": SYSTEMS[code.scheme], "code": code.value, "display": code.meaning}


def _agents(row: AuditRow) -> list[dict[str, Any]]:
    """Who did it, and who stood at the other end."""
    agents: list[dict[str, Any]] = [{"altId": plain(row.actor), "requestor": row.peer is None}]
    if row.peer is not None:
        other: dict[str, Any] = {"altId": plain(row.peer), "requestor": True}
        if address := row.detail.get("address"):
            other["network"] = {"address": plain(address), "type": "2"}
        agents.append(other)
    return agents


def _study(row: AuditRow) -> list[dict[str, Any]]:
    parts = {
        "series_instance_uid": row.series_instance_uid,
        "sop_instance_uid": row.sop_instance_uid,
        "job": row.job_id,
    }
    if row.study_instance_uid is None and not any(parts.values()):
        return []
    uid = row.study_instance_uid or row.sop_instance_uid or ""
    entity: dict[str, Any] = {
        "what": {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{plain(uid)}"}},
        "type": {"system": OBJECT_TYPES, "code": "2", "display": "System Object"},
    }
    told = {key: plain(value) for key, value in parts.items() if value is not None}
    details = [{"type": key, "valueString": value} for key, value in told.items()]
    return [entity | ({"detail": details} if details else {})]


def _event(row: AuditRow) -> dict[str, Any]:
    """The event of the trail itself, with its seal."""
    detail = b64encode(json.dumps(row.detail, sort_keys=True).encode()).decode()
    return {
        "what": {"identifier": {"system": "urn:dicomnode:audit_events", "value": str(row.id)}},
        "type": {"system": OBJECT_TYPES, "code": "2", "display": "System Object"},
        "detail": [
            {"type": "sha256", "valueString": row.sha256},
            {"type": "detail", "valueBase64Binary": detail},
        ],
    }
