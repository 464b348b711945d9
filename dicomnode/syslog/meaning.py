"""What each event of the trail is called in DICOM audit messages (PS3.15 A.5.3, PS3.16 CID 400 to 403)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dicomnode.records.audit import Event

OWN_SCHEME = "99LESIONNODE"


@dataclass(frozen=True)
class Code:
    """A coded concept."""

    value: str
    meaning: str
    scheme: str = "DCM"


APPLICATION_ACTIVITY = Code("110100", "Application Activity")
AUDIT_LOG_USED = Code("110101", "Audit Log Used")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED = Code("110105", "DICOM Study Deleted")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")
USER_AUTHENTICATION = Code("110114", "User Authentication")

APPLICATION_START = Code("110120", "Application Start")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
USER_SECURITY_ATTRIBUTES = Code("110137", "User Security Attributes Changed")

APPLICATION = Code("110150", "Application")
DESTINATION_ROLE = Code("110152", "Destination Role ID")
SOURCE_ROLE = Code("110153", "Source Role ID")

STUDY_UID = Code("110180", "Study Instance UID")
PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
URI = Code("12", "URI", "RFC-3881")

ABOUT_PATIENT_DATA = frozenset({INSTANCES_ACCESSED, INSTANCES_TRANSFERRED, STUDY_DELETED, QUERY})
"""Messages that the standard wants to name the patient."""

Action = Literal["C", "R", "U", "D", "E"]
"""Create, read, update, delete, execute."""
Flow = Literal["in", "out", "none"]
"""Whether objects came from a peer, went to one, or stayed."""


@dataclass(frozen=True)
class Meaning:
    """What an event is to a DICOM audit repository."""

    event_id: Code
    action: Action
    type: Code | None = None
    """None: the name of our own event."""
    flow: Flow = "none"


_ACTIVITY = Meaning(APPLICATION_ACTIVITY, "E")

_MEANINGS: dict[str, Meaning] = {
    Event.NODE_STARTED: Meaning(APPLICATION_ACTIVITY, "E", APPLICATION_START),
    Event.ANCHOR_WRITTEN: Meaning(AUDIT_LOG_USED, "R"),
    Event.AUDIT_READ: Meaning(AUDIT_LOG_USED, "R"),
    Event.AUDIT_EXPORTED: Meaning(AUDIT_LOG_USED, "R"),
    Event.AUDIT_VERIFIED: Meaning(AUDIT_LOG_USED, "R"),
    Event.ASSOCIATION_REJECTED: Meaning(SECURITY_ALERT, "E", NODE_AUTHENTICATION),
    Event.ASSOCIATION_CUT: Meaning(SECURITY_ALERT, "E", NODE_AUTHENTICATION),
    Event.INSTANCE_RECEIVED: Meaning(INSTANCES_TRANSFERRED, "C", flow="in"),
    Event.INSTANCE_REPEATED: Meaning(INSTANCES_TRANSFERRED, "R", flow="in"),
    Event.INSTANCE_RECODED: Meaning(INSTANCES_TRANSFERRED, "R", flow="in"),
    Event.INSTANCE_ALTERED: Meaning(INSTANCES_TRANSFERRED, "U", flow="in"),
    Event.INSTANCE_REFUSED: Meaning(INSTANCES_TRANSFERRED, "C", flow="in"),
    Event.OWN_RESULT_RECEIVED: Meaning(INSTANCES_TRANSFERRED, "C", flow="in"),
    Event.JOB_STARTED: Meaning(INSTANCES_ACCESSED, "R"),
    Event.JOB_CHECKED: Meaning(INSTANCES_ACCESSED, "R"),
    Event.RESULT_CREATED: Meaning(INSTANCES_ACCESSED, "C"),
    Event.RESULT_MENDED: Meaning(INSTANCES_ACCESSED, "C"),
    Event.RESULT_STORED: Meaning(INSTANCES_TRANSFERRED, "C", flow="out"),
    Event.RESULT_DELIVERED: Meaning(INSTANCES_TRANSFERRED, "C", flow="out"),
    Event.DELIVERY_RETRIED: Meaning(INSTANCES_TRANSFERRED, "C", flow="out"),
    Event.DELIVERY_DEAD: Meaning(INSTANCES_TRANSFERRED, "C", flow="out"),
    Event.INSTANCES_PURGED: Meaning(STUDY_DELETED, "D"),
    Event.CONFIGURATION_CHANGED: Meaning(SECURITY_ALERT, "E", SECURITY_CONFIGURATION),
    Event.CERTIFICATE_RELOADED: Meaning(SECURITY_ALERT, "E", SECURITY_CONFIGURATION),
    Event.CERTIFICATE_NOT_RELOADED: Meaning(SECURITY_ALERT, "E", SECURITY_CONFIGURATION),
    Event.USER_ADDED: Meaning(SECURITY_ALERT, "E", USER_SECURITY_ATTRIBUTES),
    Event.USER_CHANGED: Meaning(SECURITY_ALERT, "E", USER_SECURITY_ATTRIBUTES),
    Event.USER_REMOVED: Meaning(SECURITY_ALERT, "E", USER_SECURITY_ATTRIBUTES),
    Event.LOGGED_IN: Meaning(USER_AUTHENTICATION, "E", LOGIN),
    Event.LOGIN_FAILED: Meaning(USER_AUTHENTICATION, "E", LOGIN),
    Event.LOGGED_OUT: Meaning(USER_AUTHENTICATION, "E", LOGOUT),
    Event.PATIENT_DATA_VIEWED: Meaning(INSTANCES_ACCESSED, "R"),
    Event.MODEL_ENROLLED: Meaning(SECURITY_ALERT, "E", SOFTWARE_CONFIGURATION),
    Event.MODEL_CHANGED: Meaning(SECURITY_ALERT, "E", SOFTWARE_CONFIGURATION),
}


def meaning_of(event: str) -> Meaning:
    """What `event` is called; an activity of this application when the standard has no better word."""
    return _MEANINGS.get(event, _ACTIVITY)


def type_of(event: str) -> Code:
    """The EventTypeCode."""
    return meaning_of(event).type or Code(event, event.replace("_", " "), OWN_SCHEME)
