"""Codes and units of the reports. What is not listed here never leaves the node (`verify.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydicom.sr.coding import Code

from inference.measure import PIXELS, UCUM_OF_INTENSITY, Absent, LesionMeasurement, Quantity
from inference.volume import Volume

# Meanings exactly as viewers compare them (cornerstone adapters match the words, not the codes).
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
COMMENT = Code("121106", "DCM", "Comment")
FINDING = Code("121071", "DCM", "Finding")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure reported")
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
DEVICE = Code("121007", "DCM", "Device")
DEVICE_OBSERVER_UID = Code("121012", "DCM", "Device Observer UID")
DEVICE_OBSERVER_NAME = Code("121013", "DCM", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER = Code("121014", "DCM", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL = Code("121015", "DCM", "Device Observer Model Name")
DEVICE_OBSERVER_SERIAL_NUMBER = Code("121016", "DCM", "Device Observer Serial Number")
SOURCE_SERIES = Code("121232", "DCM", "Source Series for Segmentation")
SOURCE = Code("260753009", "SCT", "Source")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
REFERENCED_SEGMENT = Code("121191", "DCM", "Referenced Segment")
MEASUREMENT_METHOD = Code("370129005", "SCT", "Measurement Method")
DERIVATION = Code("121401", "DCM", "Derivation")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
ALGORITHM_MANUFACTURER = Code("122405", "DCM", "Algorithm Manufacturer")
ALGORITHM_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
REPORT_TITLE = Code("126000", "DCM", "Imaging Measurement Report")
ENGLISH = Code("en-US", "RFC5646", "English (United States)")
LESION = Code("52988006", "SCT", "Lesion")
NOT_SEEN = Code("47492008", "SCT", "Not seen")

VOLUME = Code("118565006", "SCT", "Volume")
SUM_OF_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")
DIAMETER = Code("81827009", "SCT", "Diameter")
AREA = Code("42798000", "SCT", "Area")
MAXIMUM = Code("56851009", "SCT", "Maximum")
SURFACE = Code("C0JK", "IBSI", "Surface Area of Mesh")

UNITS = {
    "mm": Code("mm", "UCUM", "mm"),
    "mm2": Code("mm2", "UCUM", "square millimeter"),
    "mm3": Code("mm3", "UCUM", "cubic millimeter"),
    "[hnsf'U]": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "1": Code("1", "UCUM", "no units"),
    PIXELS: Code(PIXELS, "UCUM", "Pixels"),
}

ATTENUATION = (
    Code("112181", "DCM", "Mean Attenuation Coefficient"),
    Code("112183", "DCM", "Standard Deviation of Attenuation Coefficient"),
    Code("112179", "DCM", "Minimum Attenuation Coefficient"),
    Code("112180", "DCM", "Maximum Attenuation Coefficient"),
)
STATISTICS = (
    Code("373098007", "SCT", "Mean"),
    Code("386136009", "SCT", "Standard Deviation"),
    Code("255605001", "SCT", "Minimum"),
    MAXIMUM,
)
"""Mean, standard deviation, minimum, maximum: for Hounsfield units above, for other images here.

Each has its own name, since viewers show the name of a measurement and not its derivation.
"""

PROCEDURES = {
    ("CT", ""): Code("25045-6", "LN", "CT unspecified body region"),
    ("MR", ""): Code("25056-3", "LN", "MRI unspecified body region"),
    ("MR", "PROSTATE"): Code("719178004", "SCT", "Multiparametric MRI of prostate"),
    ("PT", ""): Code("44136-0", "LN", "PET unspecified body region"),
    ("PT", "WHOLEBODY"): Code("44139-4", "LN", "PET whole body"),
    ("NM", ""): Code("49118-3", "LN", "NM unspecified body region"),
    ("DX", ""): Code("43468-8", "LN", "XR unspecified body region"),
    ("CR", ""): Code("43468-8", "LN", "XR unspecified body region"),
}
"""CID 100 by modality and, where it names one, body part (it knows no chest CT, and no ultrasound: there
LOINC itself)."""
ANY_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")


@dataclass(frozen=True)
class Concept:
    """One number of the volume report: its name, and where it comes from."""

    code: Code
    value: Callable[[LesionMeasurement], Quantity | Absent]
    words: str
    method: Code | None = None
    derivation: Code | None = None


@dataclass(frozen=True)
class Repertoire:
    """The numbers that are reported of each lesion, in reading order."""

    of_contour: tuple[Concept, ...]
    """With the contour on the key slice (TID 1410)."""
    of_segment: tuple[Concept, ...]
    """With the segment (TID 1411)."""


def repertoire(volume: Volume) -> Repertoire:
    """What can be measured on images of this kind: volumes in space, else areas in the image."""
    if not volume.has_geometry:
        return Repertoire((Concept(AREA, lambda m: m.area, "area"),), ())
    mean, deviation, minimum, maximum = intensity_codes(volume)
    return Repertoire(
        (),
        (
            Concept(VOLUME, lambda m: m.volume, "volume", method=SUM_OF_VOXELS),
            Concept(DIAMETER, lambda m: m.largest_diameter, "3-D diameter", derivation=MAXIMUM),
            Concept(SURFACE, lambda m: m.surface, "surface"),
            Concept(mean, lambda m: m.mean, "mean"),
            Concept(deviation, lambda m: m.standard_deviation, "standard deviation"),
            Concept(minimum, lambda m: m.minimum, "minimum"),
            Concept(maximum, lambda m: m.maximum, "maximum"),
        ),
    )


def intensity_codes(volume: Volume) -> tuple[Code, Code, Code, Code]:
    """Mean, standard deviation, minimum, maximum."""
    return ATTENUATION if UCUM_OF_INTENSITY[volume.intensity_unit] == "[hnsf'U]" else STATISTICS


def procedure_reported(modality: str, body_part: str) -> Code:
    """The imaging procedure by CID 100."""
    if (modality, body_part.upper()) in PROCEDURES:
        return PROCEDURES[modality, body_part.upper()]
    return PROCEDURES.get((modality, ""), ANY_PROCEDURE)


def rounded(value: float) -> float:
    """Seven significant digits: far finer than any voxel, and short enough to read."""
    return float(f"{value:.7g}")
