"""Writes a volume as a DICOM series: demo studies and test phantoms with exactly known truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from inference.volume import Volume

SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}


@dataclass(frozen=True)
class SeriesIdentity:
    """Who and what the written series claims to be. `attributes` are set on every instance."""

    modality: str = "CT"
    patient_id: str = "TEST-0001"
    patient_name: str = "Test^Patient"
    accession_number: str = "ACC0001"
    study_instance_uid: str = field(default_factory=generate_uid)
    series_instance_uid: str = field(default_factory=generate_uid)
    frame_of_reference_uid: str = field(default_factory=generate_uid)
    series_number: int = 1
    series_description: str = "Axial"
    body_part_examined: str = "CHEST"
    attributes: dict[str, Any] = field(default_factory=dict)


def write_series(volume: Volume, folder: Path, identity: SeriesIdentity) -> list[Path]:
    """Write one file per slice into `folder` (made when missing) and return the paths in slice order.

    The volume's affine becomes ImagePositionPatient, ImageOrientationPatient and PixelSpacing.
    SOP Instance UIDs follow from the series UID and the slice, so writing again gives the same ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(volume.shape[0]):
        path = folder / f"{identity.modality}{index + 1:04d}.dcm"
        slice_dataset(volume, index, identity).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def slice_dataset(volume: Volume, index: int, identity: SeriesIdentity) -> FileDataset:
    """One slice of `volume` as a CT or MR image instance (explicit VR little endian)."""
    sop_class_uid = SOP_CLASSES[identity.modality]
    sop_instance_uid = generate_uid(entropy_srcs=[identity.series_instance_uid, str(index)])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class_uid
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = sop_instance_uid
    _identify(dataset, identity, index)
    _place(dataset, volume, index, identity)
    _paint(dataset, volume, index, identity.modality)
    for keyword, value in identity.attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def _identify(dataset: Dataset, identity: SeriesIdentity, index: int) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = (
        ["ORIGINAL", "PRIMARY", "AXIAL"] if identity.modality == "CT" else ["ORIGINAL", "PRIMARY"]
    )
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20260105"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101500"
    dataset.AccessionNumber = identity.accession_number
    dataset.Modality = identity.modality
    dataset.Manufacturer = "Series writer"
    dataset.ManufacturerModelName = "Synthetic"
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = "1"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Thorax"
    dataset.SeriesDescription = identity.series_description
    dataset.PatientName = identity.patient_name
    dataset.PatientID = identity.patient_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.StudyInstanceUID = identity.study_instance_uid
    dataset.SeriesInstanceUID = identity.series_instance_uid
    dataset.StudyID = "1"
    dataset.SeriesNumber = identity.series_number
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = index + 1
    dataset.BodyPartExamined = identity.body_part_examined
    dataset.PatientPosition = "HFS"
    if identity.modality == "CT":
        dataset.KVP = 120
    else:
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
        dataset.MRAcquisitionType, dataset.EchoTime, dataset.RepetitionTime = "2D", 10, 500
        dataset.EchoTrainLength = 1


def _place(dataset: Dataset, volume: Volume, index: int, identity: SeriesIdentity) -> None:
    slice_mm, row_mm, column_mm = volume.spacing_mm
    along_columns, along_rows = volume.affine[:3, 1] / row_mm, volume.affine[:3, 2] / column_mm
    position = volume.to_lps_mm((index, 0, 0))
    dataset.FrameOfReferenceUID = identity.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.ImagePositionPatient = [f"{value:.10g}"[:16] for value in position]
    dataset.ImageOrientationPatient = [f"{v:.9f}" for v in (*along_rows, *along_columns)]
    dataset.PixelSpacing = [f"{row_mm:.10g}", f"{column_mm:.10g}"]
    dataset.SliceThickness = f"{slice_mm:.10g}"
    normal = np.cross(along_rows, along_columns)
    dataset.SliceLocation = f"{float(position @ normal):.8g}"


def _paint(dataset: Dataset, volume: Volume, index: int, modality: str) -> None:
    dataset.Rows, dataset.Columns = volume.shape[1:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    pixels = np.rint(volume.voxels[index]).astype("<i2")
    if modality == "CT":
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "HU"
        dataset.WindowCenter, dataset.WindowWidth = "-600", "1500"
    dataset.PixelData = pixels.tobytes()
