"""How urgent work is, and the one formula by which it is ordered.

A job is ranked by the moment at which it was made, moved back by `ageing_s` for every step of its priority;
the earliest rank is next. An urgent job so overtakes only what is less than (difference in
priority) times `ageing_s` older: whatever waits longer than that comes first, and nothing starves.
The rank does not change while a job waits, so every database orders by a plain indexed column.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pydicom import Dataset

from dicomnode.header_index import HeaderIndex
from dicomnode.settings.node import PrioritySettings
from dicomnode.study import items, text

LEAST_TO_MOST = ("LOW", "ROUTINE", "MEDIUM", "HIGH", "STAT")
"""Values of RequestedProcedurePriority (0040,1003), PS3.3 section C.4.11."""


def urgency(header: Dataset | HeaderIndex) -> str | None:
    """RequestedProcedurePriority (0040,1003) of an image, at the top or in its request attributes."""
    found = None
    for item in (header, *items(header, "RequestAttributesSequence")):
        word = text(item, "RequestedProcedurePriority").upper()
        found = more_urgent(found, word if word in LEAST_TO_MOST else None)
    return found


def more_urgent(one: str | None, other: str | None) -> str | None:
    """The more urgent of two words; None counts least."""
    return max(one, other, key=lambda word: LEAST_TO_MOST.index(word) if word else -1)


def steps(urgency: str | None, rules: PrioritySettings) -> int:
    """What the study's own word adds to the priority of its jobs."""
    return {"STAT": rules.stat, "HIGH": rules.high, "LOW": rules.low}.get(urgency or "", 0)


def rank(created_at: datetime, priority: int, rules: PrioritySettings) -> datetime:
    """The place in the queue: the earliest comes first."""
    return created_at - timedelta(seconds=priority * rules.ageing_s)
