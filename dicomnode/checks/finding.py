"""One thing that was checked, and how it turned out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check turned out."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong, but somebody should know or look."""
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    subject: str
    verdict: Verdict
    detail: str


def ok(subject: str, detail: str) -> Finding:
    """It is as it should be."""
    return Finding(subject, Verdict.OK, detail)


def note(subject: str, detail: str) -> Finding:
    """Somebody should know."""
    return Finding(subject, Verdict.NOTE, detail)


def wrong(subject: str, detail: str) -> Finding:
    """The node does not work like this; the detail names the remedy."""
    return Finding(subject, Verdict.WRONG, detail)
