"""The reactor of an association does not run while we send, so it cannot take our responses."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage

from dicomnode.deliver.answers import Fate
from dicomnode.deliver.outgoing import UNCOMPRESSED
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.deliver.sender import associate, send
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.settings.node import PeerSettings
from inference.volume import Volume
from tests.dicomnode.parts import wait_until


@pytest.fixture
def peer() -> Iterator[PeerSettings]:
    entity = AE(ae_title="PEER")
    entity.add_supported_context(CTImageStorage, list(UNCOMPRESSED))
    server: Any = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0x0000)]
    )
    yield PeerSettings(name="PEER", ae_title="PEER", host="127.0.0.1", port=server.server_address[1])
    server.shutdown()


def test_the_reactor_rests_within_the_block_and_goes_on_after_it(peer: PeerSettings) -> None:
    association = associate("NODE", peer, [(CTImageStorage, UNCOMPRESSED)], 10.0)
    looked = 0
    get_message = association.dimse.get_msg

    def count(block: bool = False) -> Any:
        nonlocal looked
        looked += 1
        return get_message(block)

    association.dimse.get_msg = count
    with parked_reactor(association):
        before = looked
        time.sleep(0.2)
        assert looked == before
    wait_until(lambda: looked > before)
    association.release()
    assert association.is_released


def test_an_association_can_be_aborted_within_the_block(peer: PeerSettings) -> None:
    association = associate("NODE", peer, [(CTImageStorage, UNCOMPRESSED)], 10.0)
    with parked_reactor(association):
        association.abort()
    assert not association.is_established
    with pytest.raises(RuntimeError):
        association.send_c_store(Dataset())


@pytest.mark.slow
def test_no_response_is_lost_among_thousands_under_load(peer: PeerSettings, tmp_path: Path) -> None:
    volume = Volume(np.zeros((200, 32, 32), np.int16), np.eye(4), "HU")
    paths = write_series(volume, tmp_path, SeriesIdentity())
    burners = [multiprocessing.get_context("spawn").Process(target=_burn, daemon=True) for _ in range(2)]
    for burner in burners:
        burner.start()
    try:
        fates = [response.fate for _ in range(5) for response in send("NODE", peer, paths, 10.0)]
    finally:
        for burner in burners:
            burner.kill()
    assert len(fates) == 1000
    assert set(fates) == {Fate.ACCEPTED}


def _burn() -> None:
    while True:
        sum(range(10000))
