"""Synthetic studies with exactly known truth, for everybody's tests.

`phantom(...)` is a patient with lesions of known place and size, seen by a scanner of your choice;
`write_phantom` and `write_enhanced` make DICOM of it, `read_series` reads a folder back.
`faults` breaks series in the ways that hospitals do, `chest` has lungs, `ultrasound` has no place in the
patient. What the node's own self-test needs too, and models that see exactly a phantom's lesions, is in
`dicomnode.selftest`.
"""

from dicomnode.selftest.shapes import Box, Ellipsoid, Shape, sphere
from dicomnode.selftest.volumes import (
    DEFAULT_LESIONS,
    LESION_LABEL,
    ORIENTATIONS,
    Orientation,
    Phantom,
    affine_lps,
    lesion_map_of,
    phantom,
)
from tests.phantoms.dicom import read_series, save, write_enhanced, write_phantom

__all__ = [
    "DEFAULT_LESIONS",
    "LESION_LABEL",
    "ORIENTATIONS",
    "Box",
    "Ellipsoid",
    "Orientation",
    "Phantom",
    "Shape",
    "affine_lps",
    "lesion_map_of",
    "phantom",
    "read_series",
    "save",
    "sphere",
    "write_enhanced",
    "write_phantom",
]
