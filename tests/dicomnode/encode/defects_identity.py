"""Objects that belong to somebody else, or that nobody would find again."""

from __future__ import annotations

from collections.abc import Callable

from pydicom import Dataset
from pydicom.uid import UID

from dicomnode.forms import ResultKind
from tests.dicomnode.encode.defects import Defect

KINDS: tuple[ResultKind, ...] = ("seg", "sr_measurements", "sr_volumes")
OTHERS: dict[str, str | int] = {
    "StudyInstanceUID": "1.2.3",
    "PatientID": "SOMEBODY-ELSE",
    "PatientName": "Else^Somebody",
    "AccessionNumber": "ACC9999",
    "SeriesInstanceUID": "1.2.3",
    "SOPInstanceUID": "1.2.3",
    "InstanceNumber": 7,
    "Modality": "CT",
    "SeriesDescription": "Lesions",
}


def _another(keyword: str, value: str | int) -> Callable[[Dataset], None]:
    def plant(made: Dataset) -> None:
        setattr(made, keyword, value)
        if keyword == "SOPInstanceUID":
            made.file_meta.MediaStorageSOPInstanceUID = UID(str(value))

    plant.__name__ = f"another_{keyword}"
    return plant


def made_by_somebody_else(made: Dataset) -> None:
    """Our own node would take it for a source and process it again."""
    made.Manufacturer = "Somebody else"
    del made.ContributingEquipmentSequence


IDENTITY_DEFECTS: tuple[Defect, ...] = (
    *(Defect(kind, _another(k, value), k) for kind in KINDS for k, value in OTHERS.items()),
    Defect("seg", made_by_somebody_else, "recognised as our own|model"),
)
