"""Small parts that the tests of the core are made of: a configuration, images, arrivals, peers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from dicomnode.config import load_settings
from dicomnode.deliver.reactor import parked_reactor
from dicomnode.encode.equipment import MANUFACTURER, PRODUCT
from dicomnode.part10 import ParsedHeader
from dicomnode.receive.arrival import Arrival, Origin
from dicomnode.records.db import Database
from dicomnode.records.tables import AuditRow
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.node import Settings
from dicomnode.study import Instance, Series

ORIGIN = Origin("PACS", "127.0.0.1", "LESIONNODE")
PATIENT = {
    "PatientName": "Zebrowska^Hildegard",
    "PatientID": "PAT-77431",
    "PatientBirthDate": "19480229",
    "AccessionNumber": "ACC-90210",
}
"""A patient whose every word would be noticed where it must not be."""

CONFIG = """
[node]
ae_title = "LESIONNODE"
host = "127.0.0.1"
port = {port}
data = "data"

[listener]
minimum_free_gb = 0.0

[[peer]]
name = "PACS"
ae_title = "PACS"
host = "127.0.0.1"
port = {peer_port}
may_send = true

[delivery]
response_timeout_s = 30.0

[[route]]
name = "lesions"
model = "threshold"
destinations = ["PACS"]
[route.when]
modality = "CT"
"""


def write_config(
    folder: Path, more: str = "", *, port: int = 0, peer_port: int = 0, response_timeout_s: float = 30.0
) -> Path:
    """A small `node.toml` in `folder`; `more` is appended to it."""
    path = folder / "node.toml"
    text = CONFIG.format(port=port or free_port(), peer_port=peer_port or free_port())
    text = text.replace("response_timeout_s = 30.0", f"response_timeout_s = {response_timeout_s}")
    path.write_text(text + more, "utf-8")
    return path


def settings_in(folder: Path, more: str = "", **ports: int) -> Settings:
    """The settings of `write_config`."""
    return load_settings(write_config(folder, more, **ports))


def image(**attributes: Any) -> FileDataset:
    """A tiny CT image; `attributes` are set on it (None removes them)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = "1.2.3.4"
    dataset.SeriesInstanceUID = "1.2.3.4.5"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality = "CT"
    dataset.Manufacturer = "Vendor"
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = "Thorax"
    dataset.SliceThickness = "1.5"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.Rows, dataset.Columns = 4, 4
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes(32)
    for keyword, value in (PATIENT | attributes).items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    return dataset


def own_result(**attributes: Any) -> FileDataset:
    """An object that says it was made by a node of our kind."""
    return image(Manufacturer=MANUFACTURER, ManufacturerModelName=PRODUCT, **attributes)


def series_of(count: int = 1, path: Path = Path("unread.dcm"), **attributes: Any) -> Series:
    """A series of headers; its digest follows from the SOP Instance UIDs."""
    headers = [image(**attributes) for _ in range(count)]
    return Series(
        tuple(Instance(path, ParsedHeader(header), str(header.SOPInstanceUID)) for header in headers)
    )


def encoded(dataset: Dataset, transfer_syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The data set as it goes over the network."""
    content = encode(
        dataset,
        transfer_syntax.is_implicit_VR,
        transfer_syntax.is_little_endian,
        transfer_syntax.is_deflated,
    )
    assert content is not None
    return bytes(content)


def arrival(dataset: FileDataset, requested_uid: str | None = None, origin: Origin = ORIGIN) -> Arrival:
    """`dataset` as the listener hands it to the intake."""
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, dataset.file_meta)
    content = encoded(dataset, UID(dataset.file_meta.TransferSyntaxUID))
    return Arrival(
        file_header=b"\0" * 128 + b"DICM" + buffer.getvalue(),
        encoded=content,
        sop_class_uid=str(dataset.file_meta.MediaStorageSOPClassUID),
        sop_instance_uid=requested_uid or str(dataset.file_meta.MediaStorageSOPInstanceUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        origin=origin,
    )


def events(database: Database, event: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Kind and detail of what the audit tells, in order."""
    query = select(AuditRow).order_by(AuditRow.id)
    with database.snapshot() as session:
        return [(r.event, r.detail) for r in session.scalars(query) if event in (None, r.event)]


def kinds(database: Database) -> list[str]:
    """Kinds of events that the audit tells of, in order."""
    return [event for event, _ in events(database)]


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until `condition` holds; fails the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


Answer = int | Callable[[Any], int]


class Peer:
    """A storage SCP that answers each C-STORE as told, and remembers what it was sent."""

    def __init__(
        self, answers: Iterable[Answer] = (), sop_classes: Iterable[str] | None = None, port: int = 0
    ) -> None:
        self.port = port or free_port()
        self.received: list[str] = []
        self.associations = 0
        self.rejecting: tuple[int, int, int] | None = None
        """Result, source and diagnostic with which associations are rejected."""
        self._answers: Iterator[Answer] = iter(answers)
        self._lock = threading.Lock()
        entity = AE(ae_title="PACS")
        offered = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
        for sop_class in (str(Verification), *(offered if sop_classes is None else sop_classes)):
            entity.add_supported_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        handlers = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_REQUESTED, self._on_requested)]
        self.server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def _on_requested(self, event: Any) -> None:
        self.associations += 1
        if self.rejecting:
            event.assoc.acse.send_reject(*self.rejecting)
            event.assoc.is_rejected = True
            event.assoc.kill()

    def _on_store(self, event: Any) -> int:
        with self._lock:
            self.received.append(str(event.request.AffectedSOPInstanceUID))
            answer = next(self._answers, 0x0000)
        return answer(event) if callable(answer) else answer


@contextmanager
def peer_answering(
    *answers: Answer, sop_classes: Iterable[str] | None = None, port: int = 0
) -> Iterator[Peer]:
    """A `Peer`, on a free port unless one is given; after the given answers it accepts everything."""
    peer = Peer(answers, sop_classes, port)
    try:
        yield peer
    finally:
        peer.server.shutdown()


def abort(event: Any) -> int:
    """Instead of answering, the peer drops the association."""
    event.assoc.abort()
    return 0x0000


def sleep_long(_: Any) -> int:
    """The peer does not answer in time."""
    time.sleep(3.0)
    return 0x0000


def save(dataset: FileDataset, path: Path) -> Path:
    """Write a data set as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def read(path: Path) -> Dataset:
    """Read a DICOM file."""
    return dcmread(path)


def stored(association: Association, dataset: Dataset) -> Dataset:
    """The answer to a C-STORE by pynetdicom, whose own thread else takes it away now and then."""
    with parked_reactor(association):
        answer: Dataset = association.send_c_store(dataset)
    return answer


def echoed(association: Association) -> Dataset:
    """The answer to a C-ECHO, likewise."""
    with parked_reactor(association):
        answer: Dataset = association.send_c_echo()
    return answer
