"""Whether the time can be trusted: audit and reports carry it, and certificates depend on it."""

from __future__ import annotations

import ctypes
from datetime import timedelta

from sqlalchemy import func, select

from dicomnode.checks.finding import Finding, note, ok, wrong
from dicomnode.records.db import Database, utc_now
from dicomnode.records.tables import AuditRow

TIME_ERROR = 5
"""What adjtimex(2) answers while the clock is not synchronised."""
TIMEX_BYTES = 512
"""More than `struct timex` needs anywhere; all zero means: change nothing, only say."""
TOLERANCE = timedelta(seconds=5)


def check_clock(database: Database) -> Finding:
    """Not behind the newest event of the audit, and kept right by a time service."""
    now = utc_now()
    with database.snapshot() as session:
        newest = session.scalar(select(func.max(AuditRow.at)))
    if newest is not None and newest > now + TOLERANCE:
        return wrong(
            "clock",
            f"it is {now:%Y-%m-%d %H:%M:%S} UTC here, but the audit goes on to {newest:%Y-%m-%d %H:%M:%S}; "
            "set the clock right",
        )
    synchronised = is_synchronised()
    if synchronised is None:
        return note("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC; whether it is synchronised cannot be told here")
    if not synchronised:
        return note("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC, not synchronised; run a time service (NTP)")
    return ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC, synchronised")


def is_synchronised() -> bool | None:
    """What the kernel knows of it; None where it cannot be asked."""
    try:
        answer: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != TIME_ERROR
