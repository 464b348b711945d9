"""Every planted defect is rejected before it could leave the node, and the message says what and where.

The defects are those that no validator noticed (see `dicomnode/encode/verify.py`), and mistakes that
an encoder of ours could make.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import (
    FINDING,
    IMAGING_MEASUREMENTS,
    LONG_AXIS,
    PROCEDURE_REPORTED,
    QUALITATIVE_EVALUATIONS,
    SHORT_AXIS,
    TRACKING_UID,
    VOLUME,
)
from dicomnode.encode.content import child, children, key, name_of, walk
from dicomnode.encode.context import Result
from dicomnode.encode.dress import to_bytes
from dicomnode.encode.verify import verify_results
from dicomnode.errors import ResultRejected
from dicomnode.forms import ResultKind
from inference.measure import Quantity
from tests.dicomnode.encode.situations import Situation, drawn, written

Defect = Callable[[Dataset], None]


@pytest.fixture(scope="module")
def situation(tmp_path_factory: pytest.TempPathFactory) -> Situation:
    return written(tmp_path_factory.mktemp("oblique"), "oblique")


@pytest.fixture(scope="module")
def sound(situation: Situation) -> dict[ResultKind, Result]:
    return situation.encode()


@pytest.fixture(scope="module")
def none_seen(tmp_path_factory: pytest.TempPathFactory) -> Situation:
    return drawn(tmp_path_factory.mktemp("none"))


def rejection(situation: Situation, sound: dict[ResultKind, Result], kind: ResultKind, defect: Defect) -> str:
    """What is said of the result when `defect` was planted into the object of one kind."""
    broken = dcmread(BytesIO(to_bytes(sound[kind].dataset)))
    defect(broken)
    results = [Result(k, broken if k == kind else result.dataset) for k, result in sound.items()]
    with pytest.raises(ResultRejected) as caught:
        verify_results(results, situation.lesion_map, situation.measurements, situation.context)
    assert "Test^" not in str(caught.value)
    return str(caught.value)


def in_group(report: Dataset, concept: Code, index: int = 0) -> Dataset:
    """The first item of a concept in one measurement group."""
    found = child(measurement_groups(report)[index], concept)
    assert found is not None
    return found


def below(report: Dataset, container: Code) -> Dataset:
    found = child(report, container)
    assert found is not None
    return found


def remove(parent: Dataset, concept: Code) -> None:
    parent.ContentSequence = [c for c in children(parent) if name_of(c) != key(concept)]


def set_value(item: Dataset, value: float) -> None:
    item.MeasuredValueSequence[0].NumericValue = value


# --- segmentation -----------------------------------------------------------------------------------


def move_by_40_mm(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(v) + d for v, d in zip(position.ImagePositionPatient, (0, 0, 40), strict=True)
        ]


def move_one_frame_to_the_next_slice(seg: Dataset) -> None:
    first, second = seg.PerFrameFunctionalGroupsSequence[:2]
    first.PlanePositionSequence = second.PlanePositionSequence


def move_one_frame_by_a_hundredth_mm(seg: Dataset) -> None:
    position = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    position.ImagePositionPatient = [float(v) + 0.01 for v in position.ImagePositionPatient]


def mirror(seg: Dataset) -> None:
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [-float(v) for v in orientation.ImageOrientationPatient[:3]] + list(
        orientation.ImageOrientationPatient[3:]
    )


def swap_spacing(seg: Dataset) -> None:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = list(reversed(measures.PixelSpacing))


def flip_one_bit(seg: Dataset) -> None:
    content = bytearray(seg.PixelData)
    content[0] ^= 1
    seg.PixelData = bytes(content)


def cut_pixels(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData[: len(seg.PixelData) // 2]


def wrong_segment(seg: Dataset) -> None:
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2


def foreign_source(seg: Dataset) -> None:
    image = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedSOPInstanceUID = "1.2.3"


def drop_tracking_uid(seg: Dataset) -> None:
    del seg.SegmentSequence[1].TrackingUID


def renumber_segments(seg: Dataset) -> None:
    seg.SegmentSequence[2].SegmentNumber = 9


def other_finding(seg: Dataset) -> None:
    seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "4147007"


def other_frame_of_reference(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "1.2.3"


def foreign_referenced_series(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def foreign_referenced_instance(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def lose_frame_descriptions(seg: Dataset) -> None:
    del seg.PerFrameFunctionalGroupsSequence


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (move_by_40_mm, "not on a slice"),
        (move_one_frame_to_the_next_slice, "names another source image"),
        (move_one_frame_by_a_hundredth_mm, "mm from its source image"),
        (mirror, "columns run"),
        (swap_spacing, "off the source grid"),
        (flip_one_bit, r"in 1 voxels, first at \(slice, row, column\)"),
        (cut_pixels, "cannot be read back"),
        (wrong_segment, "SEG"),
        (foreign_source, "names another source image"),
        (drop_tracking_uid, "segment 2: tracking UID missing"),
        (renumber_segments, "describes segments"),
        (other_finding, "segment 1: .* not the code of the model card"),
        (other_frame_of_reference, "another frame of reference"),
        (foreign_referenced_series, "foreign series"),
        (foreign_referenced_instance, "foreign instance"),
        (lose_frame_descriptions, "cannot be read back"),
    ],
)
def test_a_broken_segmentation_is_rejected(
    situation: Situation, sound: dict[ResultKind, Result], defect: Defect, says: str
) -> None:
    assert_says(rejection(situation, sound, "seg", defect), says)


# --- reports ----------------------------------------------------------------------------------------


def altered_volume(report: Dataset) -> None:
    set_value(
        in_group(report, VOLUME, 1),
        1.01 * float(in_group(report, VOLUME, 1).MeasuredValueSequence[0].NumericValue),
    )


def volume_in_another_unit(report: Dataset) -> None:
    in_group(report, VOLUME, 1).MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "mm2"


def unit_of_nonsense(report: Dataset) -> None:
    in_group(report, VOLUME, 1).MeasuredValueSequence[0].MeasurementUnitsCodeSequence[
        0
    ].CodeValue = "furlong3"


def left_out_volume(report: Dataset) -> None:
    remove(measurement_groups(report)[1], VOLUME)


def volume_twice(report: Dataset) -> None:
    group = measurement_groups(report)[1]
    group.ContentSequence.append(deepcopy(in_group(report, VOLUME, 1)))


def unknown_measurement(report: Dataset) -> None:
    in_group(report, VOLUME, 1).ConceptNameCodeSequence[0].CodeValue = "31"


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


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (altered_volume, "lesion 1, volume against the measurement"),
        (volume_in_another_unit, "unit 'mm2', expected 'mm3'"),
        (unit_of_nonsense, "unit 'furlong3'"),
        (left_out_volume, "volume: measured but not reported"),
        (volume_twice, "reported twice"),
        (unknown_measurement, "unknown measurement 31"),
        (segment_that_is_not_there, "segment 9, which the SEG does not have"),
        (segment_of_another_lesion, "lesion 1: refers to segment 2"),
        (foreign_source_series, "foreign source series 1.2.3"),
        (lost_contour, "lesion 1: 0 contours"),
    ],
)
def test_a_broken_report_of_volumes_is_rejected(
    situation: Situation, sound: dict[ResultKind, Result], defect: Defect, says: str
) -> None:
    assert_says(rejection(situation, sound, "sr_volumes", defect), says)


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


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (coordinate_outside, "leave the image of 32 columns and 48 rows"),
        (coordinates_half_a_pixel_off, "lesion 1, Long Axis: drawn elsewhere than measured"),
        (line_of_one_point, "POLYLINE of 2 numbers"),
        (other_length, "lesion 1, Long Axis against its coordinates: 99"),
        (drawn_on_another_slice, "lesion 1, Long Axis: drawn on another image"),
        (inferred_image, "not selected from exactly one image"),
        (foreign_image, "foreign instance 1.2.3"),
        (left_out_short_axis, "lesion 1, Short Axis: reported 0 times"),
        (no_tracking_uid, "tracking UID missing"),
        (foreign_tracking_uid, "tracking UID 1.2.3 is of no lesion"),
        (no_finding, "lesion 1: finding missing"),
        (no_procedure, "procedure reported is missing"),
        (no_observer, "device observer is missing"),
        (no_research_use, "does not say 'Research use only'"),
        (other_title, "not a TID 1500"),
        (final, "must be preliminary"),
        (lost_lesion, r"groups for lesions \[2, 3\], expected \[1, 2, 3\]"),
        (evidence_of_another_study, "evidence from foreign study"),
        (lost_evidence, "not listed as evidence"),
    ],
)
def test_a_broken_report_of_diameters_is_rejected(
    situation: Situation, sound: dict[ResultKind, Result], defect: Defect, says: str
) -> None:
    assert_says(rejection(situation, sound, "sr_measurements", defect), says)


# --- identity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["seg", "sr_measurements", "sr_volumes"])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyInstanceUID", "1.2.3"),
        ("PatientID", "SOMEBODY-ELSE"),
        ("PatientName", "Else^Somebody"),
        ("AccessionNumber", "ACC9999"),
        ("SeriesInstanceUID", "1.2.3"),
        ("SOPInstanceUID", "1.2.3"),
        ("InstanceNumber", 7),
        ("Modality", "CT"),
        ("SeriesDescription", "Lesions"),
    ],
)
def test_another_identity_is_rejected(
    situation: Situation, sound: dict[ResultKind, Result], kind: ResultKind, keyword: str, value: str | int
) -> None:
    def defect(made: Dataset) -> None:
        setattr(made, keyword, value)
        if keyword == "SOPInstanceUID":
            made.file_meta.MediaStorageSOPInstanceUID = UID(str(value))

    message = rejection(situation, sound, kind, defect)
    assert kind in message
    assert keyword in message
    assert "SOMEBODY" not in message
    assert "Else" not in message


def test_an_object_that_our_own_node_would_process_again_is_rejected(
    situation: Situation, sound: dict[ResultKind, Result]
) -> None:
    def defect(made: Dataset) -> None:
        made.Manufacturer = "Somebody else"
        del made.ContributingEquipmentSequence

    assert "recognised as our own" in rejection(situation, sound, "seg", defect)


# --- the whole result -------------------------------------------------------------------------------


def test_a_result_without_its_segmentation_is_rejected(
    situation: Situation, sound: dict[ResultKind, Result]
) -> None:
    reports = [result for kind, result in sound.items() if kind != "seg"]
    with pytest.raises(ResultRejected, match="consists of"):
        verify_results(reports, situation.lesion_map, situation.measurements, situation.context)


def test_measurements_of_another_lesion_map_are_rejected(situation: Situation) -> None:
    first, *others = situation.measurements
    assert isinstance(first.volume, Quantity)
    wrong = replace(first, volume=Quantity(2 * first.volume.value, "mm3"))
    with pytest.raises(ResultRejected, match="volume against the decoded SEG"):
        replace(situation, measurements=(wrong, *others)).encode()


def test_a_report_that_none_was_seen_must_say_so(none_seen: Situation) -> None:
    def defect(report: Dataset) -> None:
        container = below(report, QUALITATIVE_EVALUATIONS)
        container.ContentSequence = [c for c in children(container) if c.ValueType != "CODE"]

    assert "does not say that no lesion was seen" in rejection(
        none_seen, none_seen.encode(), "sr_not_seen", defect
    )


def test_a_report_that_none_was_seen_holds_no_measurements(
    none_seen: Situation, sound: dict[ResultKind, Result]
) -> None:
    def defect(report: Dataset) -> None:
        group = Dataset()
        group.ValueType, group.RelationshipType = "CONTAINER", "CONTAINS"
        group.ConceptNameCodeSequence = measurement_groups(sound["sr_measurements"].dataset)[
            0
        ].ConceptNameCodeSequence
        below(report, IMAGING_MEASUREMENTS).ContentSequence = [group]

    assert "not seen" in rejection(none_seen, none_seen.encode(), "sr_not_seen", defect)


def test_a_volume_read_the_wrong_way_round_is_rejected(tmp_path: Path) -> None:
    """The grid of the volume and the headers of its images must agree, or we placed the voxels wrongly."""
    situation = written(tmp_path)
    volume = situation.source.volume
    turned = volume.affine.copy()
    turned[:3, 2] *= -1
    source = replace(situation.source, volume=replace(volume, affine_lps=turned))
    with pytest.raises(ResultRejected, match="off the source grid"):
        replace(situation, context=replace(situation.context, source=source)).encode()


def test_sound_results_pass(situation: Situation, sound: dict[ResultKind, Result]) -> None:
    verify_results(list(sound.values()), situation.lesion_map, situation.measurements, situation.context)
    assert np.count_nonzero(situation.lesion_map.values)


def assert_says(message: str, pattern: str) -> None:
    with pytest.raises(ResultRejected, match=pattern):
        raise ResultRejected(message)
