"""Defects of structured reports."""

from __future__ import annotations

from copy import deepcopy

from pydicom import Dataset

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import (
    FINDING,
    FINDING_SITE,
    IMAGING_MEASUREMENTS,
    LONG_AXIS,
    PROCEDURE_REPORTED,
    QUALITATIVE_EVALUATIONS,
    SHORT_AXIS,
    TRACKING_UID,
)
from dicomnode.encode.content import children, name_of, walk
from tests.dicomnode.encode.defects import (
    Defect,
    Modality,
    below,
    code_of,
    in_group,
    number_of,
    remove,
    set_value,
    unit_of,
)


def segment_that_is_not_there(report: Dataset) -> None:
    for item in children(measurement_groups(report)[1]):
        if item.ValueType == "IMAGE":
            item.ReferencedSOPSequence[0].ReferencedSegmentNumber = 9


def segment_of_another_lesion(report: Dataset) -> None:
    for item in children(measurement_groups(report)[1]):
        if item.ValueType == "IMAGE":
            item.ReferencedSOPSequence[0].ReferencedSegmentNumber = 2


def foreign_source_series(report: Dataset) -> None:
    for item in walk(report):
        if item.ValueType == "UIDREF" and item.ConceptNameCodeSequence[0].CodeValue == "121232":
            item.UID = "1.2.3"


def lost_contour(report: Dataset) -> None:
    container = below(report, IMAGING_MEASUREMENTS)
    container.ContentSequence = container.ContentSequence[1:]


def coordinate_outside(report: Dataset) -> None:
    scoord = children(in_group(report, LONG_AXIS))[0]
    scoord.GraphicData = [*scoord.GraphicData[:3], 1000.0]


def coordinates_half_a_pixel_off(report: Dataset) -> None:
    scoord = children(in_group(report, LONG_AXIS))[0]
    scoord.GraphicData = [value - 0.5 for value in scoord.GraphicData]


def line_of_one_point(report: Dataset) -> None:
    scoord = children(in_group(report, SHORT_AXIS))[0]
    scoord.GraphicData = list(scoord.GraphicData[:2])


def other_length(report: Dataset) -> None:
    set_value(in_group(report, LONG_AXIS), 99.0)


def drawn_on_another_slice(report: Dataset) -> None:
    here, there = (children(children(in_group(report, LONG_AXIS, i))[0])[0] for i in (0, 1))
    here.ReferencedSOPSequence = there.ReferencedSOPSequence


def inferred_image(report: Dataset) -> None:
    children(children(in_group(report, LONG_AXIS))[0])[0].RelationshipType = "INFERRED FROM"


def foreign_image(report: Dataset) -> None:
    image = children(children(in_group(report, LONG_AXIS))[0])[0]
    image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def left_out_short_axis(report: Dataset) -> None:
    remove(measurement_groups(report)[0], SHORT_AXIS)


def no_tracking_uid(report: Dataset) -> None:
    remove(measurement_groups(report)[0], TRACKING_UID)


def foreign_tracking_uid(report: Dataset) -> None:
    in_group(report, TRACKING_UID).UID = "1.2.3"


def no_finding(report: Dataset) -> None:
    remove(measurement_groups(report)[0], FINDING)


def no_procedure(report: Dataset) -> None:
    remove(report, PROCEDURE_REPORTED)


def no_observer(report: Dataset) -> None:
    report.ContentSequence = [c for c in report.ContentSequence if c.ValueType != "UIDREF"]


def no_research_use(report: Dataset) -> None:
    container = below(report, QUALITATIVE_EVALUATIONS)
    container.ContentSequence = [c for c in children(container) if "Research" not in c.TextValue]


def other_title(report: Dataset) -> None:
    report.ConceptNameCodeSequence[0].CodeValue = "126001"


def final(report: Dataset) -> None:
    report.PreliminaryFlag = "FINAL"


def lost_lesion(report: Dataset) -> None:
    container = below(report, IMAGING_MEASUREMENTS)
    container.ContentSequence = container.ContentSequence[1:]


def evidence_of_another_study(report: Dataset) -> None:
    report.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = "1.2.3"


def lost_evidence(report: Dataset) -> None:
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    series.ReferencedSOPSequence = series.ReferencedSOPSequence[1:]


def altered_value(report: Dataset) -> None:
    item = number_of(report)
    set_value(item, 1.01 * float(item.MeasuredValueSequence[0].NumericValue))


def value_that_is_no_number(report: Dataset) -> None:
    number_of(report).MeasuredValueSequence[0].NumericValue = None


def value_in_another_unit(report: Dataset) -> None:
    unit_of(number_of(report)).CodeValue = "mm"


def unit_of_nonsense(report: Dataset) -> None:
    unit_of(number_of(report)).CodeValue = "furlong3"


def left_out_value(report: Dataset) -> None:
    concept = name_of(number_of(report))
    for group in measurement_groups(report)[:2]:
        group.ContentSequence = [c for c in children(group) if name_of(c) != concept]


def value_twice(report: Dataset) -> None:
    item = number_of(report)
    group = next(g for g in measurement_groups(report) if item in list(children(g)))
    group.ContentSequence.append(deepcopy(item))


def unknown_measurement(report: Dataset) -> None:
    number_of(report).ConceptNameCodeSequence[0].CodeValue = "31"


def hounsfield_units(report: Dataset) -> None:
    for item in walk(report):
        if item.ValueType == "NUM" and unit_of(item).CodeValue not in ("mm", "mm2", "mm3", "{-1:1}"):
            unit_of(item).CodeValue = "[hnsf'U]"


def millimetres_called_centimetres(report: Dataset) -> None:
    unit_of(in_group(report, LONG_AXIS)).CodeValue = "cm"


def rows_and_columns_swapped(report: Dataset) -> None:
    scoord = children(in_group(report, LONG_AXIS))[0]
    points = [float(v) for v in scoord.GraphicData]
    scoord.GraphicData = [points[1], points[0], points[3], points[2]]


def axes_swapped(report: Dataset) -> None:
    long_axis, short_axis = (in_group(report, concept) for concept in (LONG_AXIS, SHORT_AXIS))
    first, second = (float(i.MeasuredValueSequence[0].NumericValue) for i in (long_axis, short_axis))
    set_value(long_axis, second - 0.5)
    set_value(short_axis, first + 0.5)


def lesion_twice(report: Dataset) -> None:
    container = below(report, IMAGING_MEASUREMENTS)
    container.ContentSequence.append(deepcopy(children(container)[0]))


def retired_code_of_the_finding(report: Dataset) -> None:
    code = code_of(in_group(report, FINDING))
    code.CodeValue, code.CodingSchemeDesignator = "M-03010", "SRT"


def other_finding_than_the_segment(report: Dataset) -> None:
    code_of(in_group(report, FINDING)).CodeValue = "4147007"


def no_finding_site(report: Dataset) -> None:
    remove(measurement_groups(report)[0], FINDING_SITE)


def verified_by_nobody(report: Dataset) -> None:
    report.VerificationFlag = "VERIFIED"


def another_observer(report: Dataset) -> None:
    for item in children(report):
        if item.ValueType == "UIDREF":
            item.UID = "1.2.3"


def another_procedure(report: Dataset) -> None:
    code_of(below(report, PROCEDURE_REPORTED)).CodeValue = "1"


def another_model(report: Dataset) -> None:
    for item in report.ContributingEquipmentSequence:
        item.DeviceUID = "1.2.3"


DIAMETER_DEFECTS: tuple[Defect, ...] = (
    Defect("sr_measurements", coordinate_outside, r"leave the image of"),
    Defect("sr_measurements", coordinates_half_a_pixel_off, r"lesion 1, Long Axis: drawn elsewhere"),
    Defect(
        "sr_measurements",
        rows_and_columns_swapped,
        r"Long Axis: drawn|leave the image|Axis against",
    ),
    Defect("sr_measurements", line_of_one_point, r"POLYLINE of 2 numbers"),
    Defect("sr_measurements", other_length, r"lesion 1, Long Axis against its coordinates: 99"),
    Defect("sr_measurements", axes_swapped, r"Axis against"),
    Defect("sr_measurements", millimetres_called_centimetres, r"unit"),
    Defect("sr_measurements", drawn_on_another_slice, r"lesion 1, Long Axis: drawn on another image"),
    Defect("sr_measurements", inferred_image, r"not selected from exactly one image"),
    Defect("sr_measurements", foreign_image, r"foreign instance 1.2.3"),
    Defect("sr_measurements", left_out_short_axis, r"lesion 1, Short Axis: reported 0 times"),
    Defect("sr_measurements", no_tracking_uid, r"tracking UID missing"),
    Defect("sr_measurements", foreign_tracking_uid, r"tracking UID 1.2.3 is of no lesion"),
    Defect("sr_measurements", no_finding, r"lesion 1: finding missing"),
    Defect("sr_measurements", other_finding_than_the_segment, r"lesion 1: finding"),
    Defect("sr_measurements", retired_code_of_the_finding, r"lesion 1: finding"),
    Defect("sr_measurements", no_finding_site, r"lesion 1: finding site"),
    Defect("sr_measurements", no_procedure, r"procedure reported is missing"),
    Defect("sr_measurements", another_procedure, r"procedure"),
    Defect("sr_measurements", no_observer, r"device observer is missing"),
    Defect("sr_measurements", another_observer, r"device observer|foreign"),
    Defect("sr_measurements", another_model, r"model"),
    Defect("sr_measurements", no_research_use, r"does not say 'Research use only'"),
    Defect("sr_measurements", other_title, r"not a TID 1500"),
    Defect("sr_measurements", final, r"must be preliminary"),
    Defect("sr_measurements", verified_by_nobody, r"unverified|verified"),
    Defect("sr_measurements", lost_lesion, r"groups for lesions"),
    Defect("sr_measurements", lesion_twice, r"groups for lesions"),
    Defect("sr_measurements", evidence_of_another_study, r"evidence from foreign study"),
    Defect("sr_measurements", lost_evidence, r"not listed as evidence"),
)

NO_FOREIGN_UNIT: dict[Modality, str] = {
    "CT": "its values are in Hounsfield units",
    "US": "no intensities are reported",
}

VOLUME_DEFECTS: tuple[Defect, ...] = (
    Defect("sr_volumes", altered_value, r"lesion 1, .* against the"),
    Defect("sr_volumes", value_that_is_no_number, r"cannot be read back|no number|absent"),
    Defect("sr_volumes", value_in_another_unit, r"unit 'mm', expected"),
    Defect("sr_volumes", unit_of_nonsense, r"unit 'furlong3'"),
    Defect(
        "sr_volumes",
        hounsfield_units,
        r"unit",
        NO_FOREIGN_UNIT,
    ),
    Defect("sr_volumes", left_out_value, r"measured but not reported"),
    Defect("sr_volumes", value_twice, r"reported twice"),
    Defect("sr_volumes", unknown_measurement, r"unknown measurement 31"),
    Defect("sr_volumes", segment_that_is_not_there, r"segment 9, which the SEG does not have"),
    Defect("sr_volumes", segment_of_another_lesion, r"lesion 1: refers to segment 2"),
    Defect("sr_volumes", foreign_source_series, r"foreign source series 1.2.3"),
    Defect("sr_volumes", lost_contour, r"lesion 1: 0 contours"),
)
