"""Kinds of columns that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Integer, String, TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; databases without time zones (SQLite) keep it as naive UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Refuse naive times and store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times in the database are aware")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Give back an aware time in UTC; PostgreSQL answers in the time zone of its session."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


LargeNumber = BigInteger().with_variant(Integer, "sqlite")
"""SQLite's integers are as large, and number rows by themselves only under their own name."""


class Words(TypeDecorator[str]):
    """Text of any length without NUL, which PostgreSQL does not take; its sign takes its place."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """Write the sign."""
        return None if value is None else without_nul(value)


def without_nul(value: str) -> str:
    """The text with the sign of NUL in the place of each NUL."""
    return value.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
