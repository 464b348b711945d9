"""Logging: one event per fact, JSON or console, never a patient's name, birth date or free text."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Any

import structlog

PATIENT_KEYS = frozenset(
    {
        "patient_name", "patient_id", "patient_birth_date", "patient_address", "accession_number",
        "study_description", "series_description", "referring_physician_name", "other_patient_ids",
    }
)  # fmt: skip

_role = ""


def logging_role() -> str:
    """The role of this process when it logs as one of the node's; empty for commands and tests."""
    return _role


def drop_patient_data(_: Any, __: str, event: Any) -> Any:
    """Remove every key that could identify a patient, wherever an event comes from."""
    return {key: value for key, value in event.items() if key not in PATIENT_KEYS}


def trace_without_words(_: Any, __: str, event: Any) -> Any:
    """Where an exception came from and of what type it is; its text may quote a patient's header."""
    if event.pop("exc_info", None):
        kind, _value, trace = sys.exc_info()
        if kind is not None:
            event["exception"] = "".join([*traceback.format_tb(trace), kind.__name__])
    return event


def visible(_: Any, __: str, event: Any) -> Any:
    """Foreign words for a terminal: what would steer it, or turn the direction of text, is shown instead.

    A trace is our own words, and has lines.
    """
    return {
        key: _visible(value) if isinstance(value, str) and key != "exception" else value
        for key, value in event.items()
    }


def _visible(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def configure_logging(role: str) -> None:
    """Log to standard error: coloured lines on a terminal, JSON otherwise; `role` and process id in each."""
    global _role
    _role = role
    terminal = sys.stderr.isatty()
    rendered: list[Any] = [structlog.processors.JSONRenderer()]  # which escapes whatever is no ASCII
    if terminal:
        rendered = [visible, structlog.dev.ConsoleRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lambda _, __, event: {"role": role, "pid": os.getpid(), **event},
            drop_patient_data,
            trace_without_words,
            *rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(
            sys.stderr
        ),  # a line is one write: those of others never come into it
        cache_logger_on_first_use=True,
    )
    # The libraries log data sets at lower levels, and those hold patient data.
    for name in ("pynetdicom", "pydicom", "highdicom", "apscheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "pydicom" else logging.ERROR)
