"""The states of studies, jobs, deliveries, destinations and models, and the only moves between them."""

from __future__ import annotations

from enum import StrEnum

from inference.bundle import ModelState


class StudyState(StrEnum):
    """Where a study stands."""

    RECEIVING = "receiving"
    """Instances may still arrive."""
    COMPLETE = "complete"
    """Nothing more is waited for; routing is due."""
    ROUTED = "routed"
    """At least one series became a job, or its earlier result still holds."""
    IGNORED = "ignored"
    """No series matched a route; the reasons are stored with each series."""
    PARKED = "parked"
    """Something is missing, or routing failed by a fault of ours; `dicomnode replay --study` goes on."""


class JobState(StrEnum):
    """Where one series on its way through one model stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """Another job of the same series took its place before this one was done."""


class DeliveryState(StrEnum):
    """Where one result object on its way to one destination stands."""

    WAITING = "waiting"
    SENDING = "sending"
    STORED = "stored"
    """The destination has it; it is asked to commit to it."""
    DELIVERED = "delivered"
    """Done: stored, and committed where that is asked for."""
    DEAD = "dead"
    """Refused for good, or tried too often; `dicomnode replay` tries again."""


class BreakerState(StrEnum):
    """Whether anything is sent to one destination."""

    CLOSED = "closed"
    """It is sent to."""
    OPEN = "open"
    """It failed again and again, or rejected us for good: nothing is sent until the pause is over."""
    HALF_OPEN = "half_open"
    """One object is tried; its answer decides."""


Move = tuple[StrEnum, StrEnum]

MOVES: frozenset[Move] = frozenset(
    {
        (StudyState.RECEIVING, StudyState.COMPLETE),
        (StudyState.RECEIVING, StudyState.PARKED),  # something is missing at the deadline
        (StudyState.COMPLETE, StudyState.ROUTED),
        (StudyState.COMPLETE, StudyState.IGNORED),
        (StudyState.COMPLETE, StudyState.RECEIVING),  # a late instance reopens the study
        (StudyState.COMPLETE, StudyState.PARKED),
        (StudyState.PARKED, StudyState.COMPLETE),  # replay
        (StudyState.PARKED, StudyState.RECEIVING),
        (StudyState.ROUTED, StudyState.RECEIVING),
        (StudyState.IGNORED, StudyState.RECEIVING),
        (JobState.QUEUED, JobState.RUNNING),
        (JobState.QUEUED, JobState.SUPERSEDED),
        (JobState.QUEUED, JobState.FAILED),  # its model was retired
        (JobState.RUNNING, JobState.SUCCEEDED),
        (JobState.RUNNING, JobState.FAILED),
        (JobState.RUNNING, JobState.SUPERSEDED),  # its input changed before it began to read
        (JobState.RUNNING, JobState.QUEUED),  # a transient failure, or the worker died
        (JobState.FAILED, JobState.QUEUED),  # replay
        (JobState.SUPERSEDED, JobState.QUEUED),  # what took its place is not wanted any more
        (DeliveryState.WAITING, DeliveryState.SENDING),
        (DeliveryState.SENDING, DeliveryState.DELIVERED),
        (DeliveryState.SENDING, DeliveryState.STORED),
        (DeliveryState.STORED, DeliveryState.DELIVERED),
        (DeliveryState.STORED, DeliveryState.WAITING),  # the destination does not hold it after all
        (DeliveryState.STORED, DeliveryState.DEAD),
        (DeliveryState.SENDING, DeliveryState.WAITING),
        (DeliveryState.SENDING, DeliveryState.DEAD),
        (DeliveryState.DEAD, DeliveryState.WAITING),  # replay
        (ModelState.DRAFT, ModelState.SHADOW),
        (ModelState.SHADOW, ModelState.LIVE),
        (ModelState.LIVE, ModelState.SHADOW),
        (ModelState.SHADOW, ModelState.DRAFT),
        (ModelState.DRAFT, ModelState.RETIRED),
        (ModelState.SHADOW, ModelState.RETIRED),
        (ModelState.LIVE, ModelState.RETIRED),
        (ModelState.RETIRED, ModelState.SHADOW),
        (ModelState.RETIRED, ModelState.LIVE),  # rollback
        (BreakerState.CLOSED, BreakerState.OPEN),
        (BreakerState.OPEN, BreakerState.HALF_OPEN),
        (BreakerState.HALF_OPEN, BreakerState.OPEN),
        (BreakerState.HALF_OPEN, BreakerState.CLOSED),
    }
)


def moved(old: StrEnum, new: StrEnum) -> StrEnum:
    """`new`, when the table allows the move from `old`; raises ValueError otherwise (a bug of ours)."""
    if (old, new) not in MOVES:
        raise ValueError(f"{type(old).__name__}: no move from {old} to {new}")
    return new
