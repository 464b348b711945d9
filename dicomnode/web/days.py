"""Days as the forms of lists ask for them, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dicomnode.errors import PermanentError


def day(words: str) -> datetime | None:
    """When a day begins; None for an empty field. Raises PermanentError for what is no day."""
    if not words:
        return None
    try:
        return datetime.strptime(words, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise PermanentError("A day is written as 2026-11-27.") from error


def day_after(words: str) -> datetime | None:
    """When a day is over; None for an empty field, and for the last day that there is."""
    begins = day(words)
    try:
        return begins and begins + timedelta(days=1)
    except OverflowError:
        return None
