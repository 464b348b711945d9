"""A small archive that plays the PACS: holds a study, forwards it, counts it, receives results."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicomnode.deliver.sender import Response, send
from dicomnode.settings.node import PeerSettings
from dicomnode.study import read_instance

RESPONSE_TIMEOUT_S = 60.0


class Archive:
    """Listens on a port and keeps every object in `folder`."""

    def __init__(self, ae_title: str, port: int, folder: Path) -> None:
        self.ae_title = ae_title
        self.port = port
        self.folder = folder
        self._objects: dict[str, tuple[str, Path]] = {}
        """SOP Instance UID -> (Study Instance UID, file)."""
        self._lock = threading.Lock()
        self._server: Any = None

    def start(self) -> None:
        """Open the port."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entity = AE(ae_title=self.ae_title)
        entity.add_supported_context(Verification)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(
                context.abstract_syntax, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
            )
        self._server = entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._on_store), (evt.EVT_C_FIND, self._on_find)],
        )

    def stop(self) -> None:
        """Close the port, if it is open."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def add(self, paths: list[Path]) -> None:
        """Take files into the archive as if a modality had sent them."""
        for path in paths:
            instance = read_instance(path)
            self._keep(str(instance.header.StudyInstanceUID), instance.sop_instance_uid, path)

    def forward(self, node: PeerSettings) -> list[Response]:
        """Send all that is here to the node, as an auto-forwarding rule would."""
        with self._lock:
            paths = [path for _, path in self._objects.values()]
        return list(send(self.ae_title, node, paths, RESPONSE_TIMEOUT_S))

    def results(self) -> list[Path]:
        """The files that were received over the network, in order of their names."""
        return sorted(self.folder.glob("*.dcm"))

    def _keep(self, study_uid: str, sop_uid: str, path: Path) -> None:
        with self._lock:
            self._objects[sop_uid] = (study_uid, path)

    def _on_store(self, event: Any) -> int:
        dataset = event.dataset
        path = self.folder / f"{dataset.Modality}_{dataset.SeriesNumber}_{dataset.SOPInstanceUID}.dcm"
        part = path.with_suffix(".part")
        part.write_bytes(event.encoded_dataset())
        part.replace(path)  # others look for what has come
        self._keep(str(dataset.StudyInstanceUID), str(dataset.SOPInstanceUID), path)
        return 0x0000

    def _on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        wanted = str(event.identifier.get("StudyInstanceUID", ""))
        with self._lock:
            count = sum(study == wanted for study, _ in self._objects.values())
        if count:
            answer = Dataset()
            answer.QueryRetrieveLevel = "STUDY"
            answer.StudyInstanceUID = wanted
            answer.NumberOfStudyRelatedInstances = count
            yield 0xFF00, answer
