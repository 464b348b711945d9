"""Events of the trail as DICOM audit messages: the XML of PS3.15 A.5.1."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.etree.ElementTree import Element, SubElement, tostring

from dicomnode.records.events import Outcome, outcome_of
from dicomnode.records.story import sentence_of
from dicomnode.records.tables import AuditRow, StudyRow
from dicomnode.show.plain import plain
from dicomnode.syslog.meaning import (
    ABOUT_PATIENT_DATA,
    APPLICATION,
    DESTINATION_ROLE,
    PATIENT_NUMBER,
    SOURCE_ROLE,
    STUDY_UID,
    URI,
    USER_AUTHENTICATION,
    Code,
    Meaning,
    meaning_of,
    type_of,
)

LARGEST_GROUP = 40
"""Instances told in one message, so that it stays below the 8192 bytes that receivers take."""
LONGEST_DETAIL = 2000
PERSONS = ("admin ", "web ", "user ")
"""How the actors begin that are people."""


@dataclass(frozen=True)
class Source:
    """Who tells."""

    ae_title: str
    host: str
    """Name of this machine."""
    peers: dict[str, tuple[str, str]]
    """AE title and host of each peer, by the name that deliveries call it."""
    patient_id: bool = True


@dataclass(frozen=True)
class Known:
    """What the other tables hold about the events of a batch."""

    studies: dict[str, StudyRow]
    sop_classes: dict[str, str]
    """SOP Class UID by SOP Instance UID."""


@dataclass(frozen=True)
class Message:
    """One message, and the last event that it tells of."""

    last_id: int
    outcome: Outcome
    row: AuditRow
    """The first event."""
    xml: str


def messages(rows: Sequence[AuditRow], source: Source, known: Known) -> Iterator[Message]:
    """The events in order; instances of one study that came one after the other share a message."""
    for _, group in groupby(rows, key=_group_key):
        members = list(group)
        for start in range(0, len(members), LARGEST_GROUP):
            part = members[start : start + LARGEST_GROUP]
            yield Message(part[-1].id, outcome_of(part[0].event), part[0], _xml(part, source, known))


def _group_key(row: AuditRow) -> tuple[object, ...]:
    alone = row.id if meaning_of(row.event).flow != "in" else None
    detail = row.detail
    return (alone, row.event, row.study_instance_uid, row.peer, detail.get("address"), detail.get("reason"))


def _xml(rows: list[AuditRow], source: Source, known: Known) -> str:
    first, event = rows[0], rows[0].event
    meaning = meaning_of(event)
    message = Element("AuditMessage")
    identification = SubElement(
        message,
        "EventIdentification",
        EventActionCode=meaning.action,
        EventDateTime=first.at.isoformat(),
        EventOutcomeIndicator=str(int(outcome_of(event))),
    )
    _code(identification, "EventID", meaning.event_id)
    _code(identification, "EventTypeCode", type_of(event))
    description = sentence_of(first) + (f" ({len(rows)} times)" if len(rows) > 1 else "")
    SubElement(identification, "EventOutcomeDescription").text = plain(description)
    _participants(message, first, meaning, source)
    origin = SubElement(message, "AuditSourceIdentification", AuditSourceID=plain(source.ae_title))
    SubElement(origin, "AuditSourceTypeCode", {"csd-code": "4"})
    _objects(message, rows, meaning, source, known)
    return tostring(message, encoding="unicode")


def _participants(message: Element, row: AuditRow, meaning: Meaning, source: Source) -> None:
    """The node, and who or what stood at the other end, when there was one."""
    role = {"in": DESTINATION_ROLE, "out": SOURCE_ROLE, "none": APPLICATION}[meaning.flow]
    other = _other(row, meaning, source)
    ours = _participant(message, source.ae_title, source.host, "1", other is None or meaning.flow == "out")
    ours.set("UserName", plain(row.actor))
    _code(ours, "RoleIDCode", role)
    if other is not None:
        name, address = other
        theirs = _participant(message, name, address, "2", meaning.flow != "out")
        if meaning.flow != "none":
            _code(theirs, "RoleIDCode", SOURCE_ROLE if meaning.flow == "in" else DESTINATION_ROLE)


def _other(row: AuditRow, meaning: Meaning, source: Source) -> tuple[str, str | None] | None:
    """Name and address of who did it, or of whom it was done to."""
    detail = row.detail
    if meaning.flow == "out":
        destination = str(detail["destination"])
        return source.peers.get(destination, (destination, None))
    if "calling_ae_title" in detail:
        return str(detail["calling_ae_title"]), detail.get("address")
    if meaning.event_id is USER_AUTHENTICATION:
        return str(detail.get("user", row.actor)), detail.get("address")
    if row.actor.startswith(PERSONS):
        return row.actor.partition(" ")[2], detail.get("address")
    return None


def _participant(
    message: Element, name: str, address: str | None, address_type: str, requestor: bool
) -> Element:
    participant = SubElement(
        message, "ActiveParticipant", UserID=plain(name), UserIsRequestor=str(requestor).lower()
    )
    if address:
        participant.set("NetworkAccessPointID", plain(address))
        participant.set("NetworkAccessPointTypeCode", address_type)
    return participant


def _objects(message: Element, rows: list[AuditRow], meaning: Meaning, source: Source, known: Known) -> None:
    uid = rows[0].study_instance_uid
    study = known.studies.get(uid or "")
    if uid is not None:
        found = _object(message, uid, "2", "3", STUDY_UID, "study")
        description = SubElement(found, "ParticipantObjectDescription")
        if study is not None and study.accession_number:
            SubElement(description, "Accession", Number=plain(study.accession_number))
        _instances(description, rows, known)
    if study is not None and source.patient_id and meaning.event_id in ABOUT_PATIENT_DATA:
        number = study.patient_id or "(none)"
        _object(message, number, "1", "1", PATIENT_NUMBER, number)
    _event(message, rows)


def _event(message: Element, rows: list[AuditRow]) -> None:
    """The events of the trail themselves: their numbers, and the seal of the last one."""
    first, last = rows[0], rows[-1]
    numbers = str(last.id) if first is last else f"{first.id}..{last.id}"
    values = {"seal": last.sha256}
    if first is last:
        values["detail"] = json.dumps(last.detail, sort_keys=True)[:LONGEST_DETAIL]
    found = _object(message, f"dicomnode:audit_events/{numbers}", "2", "13", URI, "Security Audit Log")
    for key, value in values.items():
        SubElement(found, "ParticipantObjectDetail", type=key, value=b64encode(value.encode()).decode())


def _object(parent: Element, uid: str, kind: str, role: str, code: Code, name: str) -> Element:
    found = SubElement(
        parent,
        "ParticipantObjectIdentification",
        ParticipantObjectID=plain(uid),
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _code(found, "ParticipantObjectIDTypeCode", code)
    SubElement(found, "ParticipantObjectName").text = plain(name)
    return found


def _instances(description: Element, rows: list[AuditRow], known: Known) -> None:
    """The instances by SOP class."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.sop_instance_uid:
            by_class[known.sop_classes.get(row.sop_instance_uid, "")].append(row.sop_instance_uid)
    for sop_class, uids in by_class.items():
        element = SubElement(description, "SOPClass", NumberOfInstances=str(len(Counter(uids))))
        if sop_class:
            element.set("UID", plain(sop_class))
        for uid in Counter(uids):
            SubElement(element, "Instance", UID=plain(uid))


def _code(parent: Element, name: str, code: Code) -> None:
    SubElement(
        parent,
        name,
        {
            "csd-code": code.value,
            "codeSystemName": code.scheme,
            "displayName": code.meaning,
            "originalText": code.meaning,
        },
    )
