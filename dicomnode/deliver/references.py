"""What storage commitment requests and reports say (PS3.4 J.3), as plain values and as data sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sequence import Sequence

from dicomnode.errors import PermanentError
from dicomnode.spool import is_uid
from dicomnode.study import text

ALL_COMMITTED = 1
FAILURES_EXIST = 2
MOST_REFERENCES = 50_000


@dataclass(frozen=True)
class Reference:
    """One SOP instance that a request or a report names."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Report:
    """What an SCP answers to a request."""

    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]
    """With the Failure Reason (0008,1197) of each."""

    @property
    def event_type(self) -> int:
        """Event Type ID of the N-EVENT-REPORT."""
        return FAILURES_EXIST if self.failed else ALL_COMMITTED


REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class and instance conflict",
    0x0122: "referenced SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""Failure reasons (PS3.3 C.14.1.1)."""


def reason_in_words(reason: int) -> str:
    """A failure reason as people read it."""
    return f"{reason:04X} {REASONS.get(reason, 'no known reason')}"


def action_information(transaction_uid: str, references: Iterable[Reference]) -> Dataset:
    """The data set of an N-ACTION (PS3.4 table J.3-1)."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    dataset.ReferencedSOPSequence = [_item(reference) for reference in references]
    return dataset


def event_information(transaction_uid: str, report: Report) -> Dataset:
    """The data set of an N-EVENT-REPORT (PS3.4 table J.3-2)."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    if report.committed:
        dataset.ReferencedSOPSequence = [_item(reference) for reference in report.committed]
    if report.failed:
        dataset.FailedSOPSequence = []
        for reference, reason in report.failed:
            item = _item(reference)
            item.FailureReason = reason
            dataset.FailedSOPSequence.append(item)
    return dataset


def read_transaction_uid(dataset: Dataset) -> str:
    """Raises PermanentError when it is missing or malformed."""
    uid = text(dataset, "TransactionUID")
    if not is_uid(uid):
        raise PermanentError("TransactionUID is missing or not a UID")
    return uid


def read_references(dataset: Dataset) -> tuple[Reference, ...]:
    """The instances of an N-ACTION. Raises PermanentError when there are none, too many or nonsense."""
    references = tuple(_reference(item) for item in _items(dataset, "ReferencedSOPSequence"))
    if not references:
        raise PermanentError("ReferencedSOPSequence is missing or empty")
    return references


def read_report(dataset: Dataset) -> Report:
    """What an N-EVENT-REPORT says. Raises PermanentError when it cannot be understood."""
    committed = tuple(_reference(item) for item in _items(dataset, "ReferencedSOPSequence"))
    failed = tuple(
        (_reference(item), int(item.get("FailureReason") or 0x0110))
        for item in _items(dataset, "FailedSOPSequence")
    )
    return Report(committed, failed)


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    items = dataset.get(keyword)
    if not items:
        return []
    if not isinstance(items, Sequence):
        raise PermanentError(f"{keyword} is not a sequence")
    if len(items) > MOST_REFERENCES:
        raise PermanentError(f"{keyword} has more than {MOST_REFERENCES} items")
    return list(items)


def _reference(item: Dataset) -> Reference:
    reference = Reference(text(item, "ReferencedSOPClassUID"), text(item, "ReferencedSOPInstanceUID"))
    if not (is_uid(reference.sop_class_uid) and is_uid(reference.sop_instance_uid)):
        raise PermanentError("a referenced SOP class or instance is not a UID")
    return reference


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item
