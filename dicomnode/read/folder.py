"""Reads a folder of DICOM files as studies, and says which files it could not use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError

from dicomnode.errors import PermanentError
from dicomnode.study import Study, group_studies, read_instance


@dataclass(frozen=True)
class FolderContent:
    """The studies of a folder and the files that are none."""

    studies: tuple[Study, ...]
    skipped: dict[Path, str]


def read_folder(folder: Path) -> FolderContent:
    """Read every file below `folder`. Raises PermanentError when there is no DICOM instance at all."""
    if not folder.is_dir():
        raise PermanentError(f"{folder} is not a folder; name one that holds DICOM files")
    instances, skipped = [], {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            instances.append(read_instance(path))
        except (InvalidDicomError, OSError) as error:
            skipped[path] = f"not a DICOM file ({type(error).__name__})"
        except Exception as error:  # pydicom raises anything on malformed bytes
            skipped[path] = f"cannot be read ({type(error).__name__})"
    if not instances:
        raise PermanentError(f"{folder} holds no DICOM instance among {len(skipped)} file(s)")
    return FolderContent(group_studies(instances), skipped)
