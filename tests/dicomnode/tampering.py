"""What somebody could do to the audit trail who rules the database."""

from __future__ import annotations

from sqlalchemy import text

from dicomnode.records.db import Database


def tamper(database: Database, *statements: str) -> None:
    """Take the triggers away that keep the trail append-only, and do as told."""
    place = "" if database.engine.dialect.name == "sqlite" else " ON audit_events"
    with database.engine.begin() as connection:
        for action in ("update", "delete"):
            connection.execute(text(f"DROP TRIGGER IF EXISTS audit_events_no_{action}{place}"))
        for statement in statements:
            connection.execute(text(statement))
