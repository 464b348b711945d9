"""Has destinations asked again to commit whose reports may have come while nobody listened here."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.records.db import Database, utc_now
from dicomnode.records.states import DeliveryState
from dicomnode.records.tables import DeliveryRow

SOON_S = 3.0
"""Several receivers that open their ports one after another cause one request, not one each."""

log = structlog.get_logger()


def ask_again_soon(database: Database) -> None:
    """Make due in `SOON_S` what was asked for before the ports were open: its report had nowhere to go.

    A request whose report could not be heard is no attempt. Where the database is away, the requests are
    made again in their own time, after `delivery.commitment_timeout_s`.
    """
    soon = utc_now() + timedelta(seconds=SOON_S)
    asked = (
        DeliveryRow.state == DeliveryState.STORED.value,
        DeliveryRow.commitment_attempt > 0,
        DeliveryRow.not_before > soon,
    )
    try:
        with database.snapshot() as session:
            if session.scalar(select(DeliveryRow.id).where(*asked).limit(1)) is None:
                return
        with database.transaction() as session:
            session.execute(
                update(DeliveryRow)
                .where(*asked)
                .values(not_before=soon, commitment_attempt=DeliveryRow.commitment_attempt - 1)
            )
    except SQLAlchemyError as error:
        log.warning("commitment_not_asked_again", error=type(error).__name__)
