"""What the answers of a peer mean for a delivery: the one table of statuses, and that of rejections."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dicomnode.errors import TransientError


class Fate(StrEnum):
    """What follows for one object from one attempt to send it."""

    ACCEPTED = "accepted"
    TRY_LATER = "try_later"
    REFUSED = "refused"
    NO_ANSWER = "no_answer"
    """The association broke or the peer fell silent while this object was in flight."""
    NOT_SENT = "not_sent"
    """The association ended before this object's turn came; that is no attempt."""


@dataclass(frozen=True)
class StatusRange:
    """C-STORE statuses from `first` to `last`, both included, and what they mean."""

    first: int
    last: int
    fate: Fate
    meaning: str


C_STORE_STATUSES = (
    StatusRange(0x0000, 0x0000, Fate.ACCEPTED, "success"),
    StatusRange(0x0001, 0x0001, Fate.ACCEPTED, "warning: optional attributes not supported"),
    StatusRange(0x0107, 0x0107, Fate.ACCEPTED, "warning: attribute list"),
    StatusRange(0x0111, 0x0111, Fate.ACCEPTED, "there already"),
    StatusRange(0x0116, 0x0116, Fate.ACCEPTED, "warning: attribute value out of range"),
    StatusRange(0xB000, 0xBFFF, Fate.ACCEPTED, "warning: stored, with coercion or elements discarded"),
    StatusRange(0x0110, 0x0110, Fate.TRY_LATER, "processing failure"),
    StatusRange(0x0213, 0x0213, Fate.TRY_LATER, "resource limitation"),
    StatusRange(0xA700, 0xA7FF, Fate.TRY_LATER, "out of resources"),
    StatusRange(0x0122, 0x0122, Fate.REFUSED, "SOP class not supported"),
    StatusRange(0x0124, 0x0124, Fate.REFUSED, "not authorized"),
    StatusRange(0xA900, 0xA9FF, Fate.REFUSED, "data set does not match SOP class"),
    StatusRange(0xC000, 0xCFFF, Fate.REFUSED, "cannot understand"),
)
"""PS3.4 table B.2-1 and PS3.7 annex C. Whatever is not listed is refused: asking again would not help."""

LASTING_REJECTION = 1
"""Result of an A-ASSOCIATE-RJ (PS3.8 table 9-21): 1 is rejected-permanent, 2 rejected-transient."""


def fate_of(status: int) -> Fate:
    """What follows from a C-STORE status."""
    for known in C_STORE_STATUSES:
        if known.first <= status <= known.last:
            return known.fate
    return Fate.REFUSED


class PeerUnavailable(TransientError):
    """No association, or none that does anything.

    `lasting` when the peer said that it will not take us: only an administrator can change that.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting
