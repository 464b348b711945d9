"""Phantoms as DICOM: single-frame series and enhanced multi-frame objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    generate_uid,
)

from dicomnode.selftest.volumes import Phantom
from dicomnode.series_writer import SeriesIdentity, slice_dataset, write_series
from dicomnode.study import Series, group_studies, read_instance
from inference.volume import Volume

ENHANCED = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage}
PER_FRAME = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "SliceLocation",
    "InstanceNumber",
    "WindowCenter",
    "WindowWidth",
)
"""Attributes of a single-frame image that an enhanced object keeps in functional groups, or not at all."""


def write_phantom(found: Phantom, folder: Path, identity: SeriesIdentity | None = None) -> Series:
    """Write the phantom as single-frame instances (CT for HU, else MR) and read the series back."""
    write_series(found.volume, folder, identity or _identity(found.volume))
    return read_series(folder)


def read_series(folder: Path) -> Series:
    """The one series in `folder`; files that are not DICOM are an error."""
    (study,) = group_studies(read_instance(path) for path in sorted(folder.iterdir()) if path.is_file())
    (series,) = study.series
    return series


def save(dataset: Dataset, path: Path) -> Path:
    """Write a data set as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def set_sop_instance_uid(dataset: FileDataset, sop_instance_uid: str) -> None:
    """Make the data set another instance."""
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)


def write_enhanced(
    volume: Volume,
    path: Path,
    identity: SeriesIdentity | None = None,
    *,
    frame_order: Sequence[int] | None = None,
    shared: bool = True,
) -> Series:
    """Write `volume` as one Enhanced CT or MR object and read it back as a series.

    `frame_order` gives the slice behind each frame; `shared` puts orientation, spacing and rescale
    into the shared functional groups, else into those of every frame.
    """
    save(enhanced_dataset(volume, identity or _identity(volume), frame_order, shared), path)
    return Series((read_instance(path),))


def enhanced_dataset(
    volume: Volume, identity: SeriesIdentity, frame_order: Sequence[int] | None = None, shared: bool = True
) -> FileDataset:
    """The data set that `write_enhanced` writes (DICOM PS3.3 sections A.36.2 and A.38.1)."""
    order = list(range(volume.shape[0])) if frame_order is None else list(frame_order)
    slices = [slice_dataset(volume, index, identity) for index in order]
    dataset = slice_dataset(volume, 0, identity)
    for keyword in PER_FRAME:
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ENHANCED[identity.modality]
    dataset.InstanceNumber = 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.NumberOfFrames = len(slices)
    dataset.PixelData = b"".join(image.PixelData for image in slices)
    common = _common_groups(slices[0])
    dataset.SharedFunctionalGroupsSequence = [common if shared else Dataset()]
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame_groups(image, position) for image, position in zip(slices, order, strict=True)
    ]
    if not shared:
        for item, image in zip(dataset.PerFrameFunctionalGroupsSequence, slices, strict=True):
            item.update(_common_groups(image))
    _index_dimensions(dataset)
    return dataset


def _common_groups(image: Dataset) -> Dataset:
    measures, orientation, item = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
    orientation.ImageOrientationPatient = image.ImageOrientationPatient
    item.PixelMeasuresSequence = [measures]
    item.PlaneOrientationSequence = [orientation]
    values = Dataset()
    values.RescaleIntercept = image.get("RescaleIntercept", "0")
    values.RescaleSlope = image.get("RescaleSlope", "1")
    values.RescaleType = image.get("RescaleType", "US")
    item.PixelValueTransformationSequence = [values]
    return item


def _frame_groups(image: Dataset, index: int) -> Dataset:
    position, content, item = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = image.ImagePositionPatient
    content.StackID, content.InStackPositionNumber = "1", index + 1
    content.DimensionIndexValues = [1, index + 1]
    content.FrameAcquisitionNumber = 1
    item.PlanePositionSequence = [position]
    item.FrameContentSequence = [content]
    return item


def _index_dimensions(dataset: Dataset) -> None:
    organisation = Dataset()
    organisation.DimensionOrganizationUID = generate_uid(entropy_srcs=[str(dataset.SOPInstanceUID)])
    dataset.DimensionOrganizationSequence = [organisation]
    dataset.DimensionIndexSequence = []
    for pointer in (0x00209056, 0x00209057):  # Stack ID, In-Stack Position Number
        index = Dataset()
        index.DimensionOrganizationUID = organisation.DimensionOrganizationUID
        index.DimensionIndexPointer = pointer
        index.FunctionalGroupPointer = 0x00209111  # Frame Content Sequence
        dataset.DimensionIndexSequence.append(index)


def _identity(volume: Volume) -> SeriesIdentity:
    return SeriesIdentity(modality="CT" if volume.intensity_unit == "HU" else "MR")
