"""A hospital for the soak: modalities that send studies of many kinds at once, and a PACS that holds them."""

from __future__ import annotations

import itertools
import queue
import random
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.uid import generate_uid

from dicomnode.series_writer import SeriesIdentity, write_series
from inference.volume import IntensityUnit, Volume
from tests.crash.sender import Study, store
from tests.phantoms import phantom
from tests.system.node import AE_TITLE
from tests.system.orthanc import AE, Orthanc

PAUSE_S = 0.5
OPEN_WORK = """
    SELECT (SELECT count(*) FROM studies WHERE state IN ('receiving', 'complete'))
         + (SELECT count(*) FROM jobs WHERE state IN ('queued', 'running'))
         + (SELECT count(*) FROM deliveries WHERE state IN ('waiting', 'sending'))
"""
"""Studies, jobs and deliveries that are not at rest."""


@dataclass(frozen=True)
class Kind:
    """A kind of study; `share` says how common it is."""

    name: str
    modality: str
    spacing_mm: tuple[float, float, float]
    share: int
    routed: bool = True

    def volume(self) -> Volume:
        """A phantom whose lesions the tiny models see."""
        unit: IntensityUnit = "HU" if self.modality == "CT" else "arbitrary"
        return phantom(spacing_mm=self.spacing_mm, intensity_unit=unit).volume


KINDS = (
    Kind("small CT", "CT", (8.0, 2.0, 2.0), 5),
    Kind("large CT", "CT", (1.5, 0.75, 0.75), 1),
    Kind("small MR", "MR", (8.0, 2.0, 2.0), 3),
    Kind("MR of one image", "MR", (96.0, 0.5, 0.5), 1, routed=False),
)


@dataclass
class Hospital:
    """Sends until every image of every study is acknowledged."""

    folder: Path
    orthanc: Orthanc
    node_port: int
    studies: int
    seed: int
    kinds: tuple[Kind, ...] = KINDS
    acknowledged: dict[str, str] = field(default_factory=dict)
    routed: set[str] = field(default_factory=set)
    associations: int = 0

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        kinds = [kind for kind in self.kinds for _ in range(kind.share)]
        self._volumes = {kind: kind.volume() for kind in self.kinds}
        self._todo: queue.SimpleQueue[Kind] = queue.SimpleQueue()
        # every kind is there, however few studies are asked for
        for kind in itertools.islice(
            itertools.chain(self.kinds, iter(lambda: chance.choice(kinds), None)), self.studies
        ):
            self._todo.put(kind)
        self._lock = threading.Lock()

    def send_everything(self, senders: int) -> None:
        """All senders at once; returns when the last image is acknowledged."""
        threads = [threading.Thread(target=self._send, name=f"sender {n}") for n in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self) -> None:
        while True:
            try:
                kind = self._todo.get_nowait()
            except queue.Empty:
                return
            self._send_study(kind)

    def _send_study(self, kind: Kind) -> None:
        identity = SeriesIdentity(modality=kind.modality, study_instance_uid=generate_uid())
        folder = self.folder / identity.study_instance_uid
        study = Study(identity.study_instance_uid, tuple(write_series(self._volumes[kind], folder, identity)))
        self.orthanc.upload(list(study.paths))
        while study.missing:
            store(study, AE, AE_TITLE, self.node_port)
            with self._lock:
                self.associations += 1
            if study.missing:
                time.sleep(PAUSE_S)
        digests = study.digests()
        with self._lock:
            self.acknowledged |= digests
            if kind.routed:
                self.routed.add(study.study_instance_uid)
        shutil.rmtree(folder)
