"""Breaks written series in the ways that hospitals do. Files are changed in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from dicomnode.study import Series
from tests.phantoms.dicom import read_series, save, set_sop_instance_uid


def slice_paths(folder: Path) -> list[Path]:
    """The DICOM files of `folder` by name, which is the phantom's slice order."""
    return sorted(folder.glob("*.dcm"))


def edit(path: Path, change: Callable[[Dataset], None]) -> None:
    """Change one file's data set."""
    dataset = dcmread(path)
    change(dataset)
    save(dataset, path)


def edit_all(folder: Path, **attributes: Any) -> Series:
    """Set attributes on every instance (None removes them)."""
    for path in slice_paths(folder):
        edit(path, lambda dataset: set_attributes(dataset, attributes))
    return read_series(folder)


def set_attributes(dataset: Dataset, attributes: dict[str, Any]) -> None:
    """Set each attribute by keyword; None removes it."""
    for keyword, value in attributes.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)


def drop_slice(folder: Path, index: int) -> Series:
    """One slice never arrived."""
    slice_paths(folder)[index].unlink()
    return read_series(folder)


def duplicate_slice(folder: Path, index: int, **attributes: Any) -> Series:
    """One slice comes again as another instance; `attributes` are what sets it apart."""
    dataset = dcmread(slice_paths(folder)[index])
    set_sop_instance_uid(dataset, generate_uid())
    set_attributes(dataset, attributes)
    save(dataset, folder / f"again{index + 1:04d}.dcm")
    return read_series(folder)


def change_slice(folder: Path, index: int, **attributes: Any) -> Series:
    """One slice differs from the others."""
    edit(slice_paths(folder)[index], lambda dataset: set_attributes(dataset, attributes))
    return read_series(folder)


def truncate(path: Path, missing_bytes: int = 1000) -> None:
    """The file was cut off while it was written."""
    content = path.read_bytes()
    path.write_bytes(content[:-missing_bytes])


def drop_pixel_data(path: Path) -> None:
    """The header came, the image did not."""
    edit(path, lambda dataset: set_attributes(dataset, {"PixelData": None}))


def write_text_file(folder: Path) -> Path:
    """A text file that is called like an image."""
    path = folder / "readme.dcm"
    path.write_text("This is not DICOM.\n" * 20)
    return path
