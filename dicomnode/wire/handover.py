"""Between pynetdicom's thread that reads the network (3.0.4) and whoever reads in its place for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dicomnode.wire.pdus import PduReader

IDLE, DATA_TRANSFER = "Sta1", "Sta6"
"""States of the DICOM upper layer: without a connection, and with one on which data may go (PS3.8 9.2.1)."""


def look_again(provider: Any, reader: PduReader, look: Callable[[], bool]) -> bool:
    """As DULServiceProvider._is_transport_event, but what `reader` was given back comes first."""
    if reader.has_given_back and provider.state_machine.current_state != IDLE:
        provider._read_pdu_data()
        return True
    return bool(look())
