"""Reports hold the measured values, drawn where they were measured, and say what is missing and why.

Whether viewers open them was measured by hand (OHIF 3.11 to 3.13); validators are in
test_validators.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import (
    COMMENT,
    LONG_AXIS,
    QUALITATIVE_EVALUATIONS,
    SHORT_AXIS,
    TRACKING_IDENTIFIER,
    TRACKING_UID,
    VOLUME,
)
from dicomnode.encode.content import child, children, walk
from dicomnode.encode.report import encode_reports
from dicomnode.encode.words import NO_UNCERTAINTY
from dicomnode.forms import ResultKind
from dicomnode.read.volumes import read_volume
from dicomnode.series_writer import write_series
from inference.measure import Axis, Quantity
from inference.volume import Volume
from tests.dicomnode.encode.situations import (
    COARSE_MM,
    DIGEST,
    NODULE,
    ORGAN,
    TUMOUR,
    Situation,
    card,
    drawn,
    identity,
    seen,
    with_lesions,
    written,
)
from tests.phantoms import phantom, write_enhanced
from tests.phantoms.faults import edit_all

CORNER_SPHERE = [(z, y, x) for z in range(2) for y in range(4) for x in range(6)]
REPORT_PAIR: tuple[ResultKind, ...] = ("sr_measurements", "sr_volumes")
ROW_OF_FIVE = [(3, 12, column) for column in range(10, 15)]


@pytest.fixture
def situation(tmp_path: Path) -> Situation:
    return written(tmp_path)


def assert_value(group: Dataset, concept: Code, value: float, unit: str) -> None:
    item = child(group, concept)
    assert item is not None
    measured = item.MeasuredValueSequence[0]
    assert float(measured.NumericValue) == pytest.approx(value, rel=1e-6)
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == unit


def tracking_uids(report: Dataset) -> list[str]:
    return [children(group, TRACKING_UID)[0].UID for group in measurement_groups(report)]


def sentences(report: Dataset) -> str:
    return "\n".join(str(i.TextValue) for i in walk(report) if i.ValueType == "TEXT")


class TestDiameters:
    def test_long_and_short_axis_have_their_measured_lengths(self, situation: Situation) -> None:
        report = situation.encode()["sr_measurements"].dataset
        for group, m in zip(measurement_groups(report), situation.measurements, strict=True):
            assert isinstance(m.long_axis, Axis)
            assert isinstance(m.short_axis, Axis)
            assert_value(group, LONG_AXIS, m.long_axis.length.value, "mm")
            assert_value(group, SHORT_AXIS, m.short_axis.length.value, "mm")

    def test_axes_run_between_pixel_centres_half_a_pixel_from_the_corner(self, tmp_path: Path) -> None:
        report = drawn(tmp_path, ROW_OF_FIVE).encode()["sr_measurements"].dataset
        (group,) = measurement_groups(report)
        coordinates = children(children(group, LONG_AXIS)[0])[0]
        ends = {tuple(coordinates.GraphicData[:2]), tuple(coordinates.GraphicData[2:])}
        assert ends == {(10.5, 12.5), (14.5, 12.5)}

    def test_axes_refer_to_the_slice_they_were_measured_on(self, situation: Situation) -> None:
        report = situation.encode()["sr_measurements"].dataset
        for group, m in zip(measurement_groups(report), situation.measurements, strict=True):
            assert isinstance(m.long_axis, Axis)
            image = children(children(children(group, LONG_AXIS)[0])[0])[0]
            uid = image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            assert uid == situation.source.frames[m.long_axis.slice_index].instance.sop_instance_uid
            assert image.RelationshipType == "SELECTED FROM"

    def test_viewers_find_an_editable_tool_and_the_label(self, situation: Situation) -> None:
        (first, *_) = measurement_groups(situation.encode()["sr_measurements"].dataset)
        name = children(first, TRACKING_IDENTIFIER)[0]
        assert name.TextValue == "Cornerstone3DTools@^0.1.0:Bidirectional:Lesion 1"
        assert name.ConceptNameCodeSequence[0].CodeMeaning == "Tracking Identifier"
        assert children(first, COMMENT)[0].TextValue == "Lesion 1: Lung nodule"

    def test_axes_of_a_multi_frame_image_name_the_frame(self, tmp_path: Path) -> None:
        truth = phantom("axial", COARSE_MM, intensity_unit="arbitrary")
        situation = seen(write_enhanced(truth.volume, tmp_path / "e.dcm", identity("MR")), truth)
        (first, *_) = measurement_groups(situation.encode()["sr_measurements"].dataset)
        image = children(children(children(first, LONG_AXIS)[0])[0])[0].ReferencedSOPSequence[0]
        axis = situation.measurements[0].long_axis
        assert isinstance(axis, Axis)
        assert image.ReferencedFrameNumber == situation.source.frames[axis.slice_index].frame_number

    def test_a_lesion_without_short_axis_becomes_a_length_and_says_why(self, tmp_path: Path) -> None:
        report = drawn(tmp_path, ROW_OF_FIVE).encode()["sr_measurements"].dataset
        (group,) = measurement_groups(report)
        assert children(group, TRACKING_IDENTIFIER)[0].TextValue.startswith(
            "Cornerstone3DTools@^0.1.0:Length"
        )
        assert not children(group, SHORT_AXIS)
        assert "Lesion 1 has no short axis: the lesion is one pixel wide in" in sentences(report)

    def test_a_lesion_in_pieces_on_its_key_image_says_so(self, tmp_path: Path) -> None:
        two_arms = [(3, 12, column) for column in (*range(10, 13), *range(16, 20))]
        joined = [(4, 12, column) for column in range(12, 17)]
        made = drawn(tmp_path, [*two_arms, *joined], [(7, 20, 20), (7, 20, 21)]).encode()
        for kind in REPORT_PAIR:
            words = sentences(made[kind].dataset)
            assert "Lesion 1 lies in 2 pieces on its key image; its axes may run across them." in words
            assert "Lesion 2 lies in" not in words

    def test_a_single_voxel_beside_a_lesion_is_named_but_not_drawn(self, tmp_path: Path) -> None:
        report = drawn(tmp_path, ROW_OF_FIVE, [(7, 20, 20)]).encode()["sr_measurements"].dataset
        assert len(measurement_groups(report)) == 1
        assert "Lesion 2 has no long axis: the lesion is one pixel wide" in sentences(report)

    def test_single_voxels_only_make_no_report_of_diameters(self, tmp_path: Path) -> None:
        made = drawn(tmp_path, [(7, 20, 20)]).encode()
        assert list(made) == ["seg", "sr_volumes"]
        assert "Lesion 1 has no standard deviation" in sentences(made["sr_volumes"].dataset)

    def test_a_lesion_at_the_border_says_that_it_is_cut_off(self, tmp_path: Path) -> None:
        made = drawn(tmp_path, CORNER_SPHERE).encode()
        for kind in REPORT_PAIR:
            words = sentences(made[kind].dataset)
            assert "Lesion 1: Lung nodule (cut by the image border)" in words
            assert "its size is a lower bound" in words


class TestVolumes:
    def test_every_lesion_has_a_contour_and_its_segment_under_one_tracking_uid(
        self, situation: Situation
    ) -> None:
        made = situation.encode()
        from_seg = [str(s.TrackingUID) for s in made["seg"].dataset.SegmentSequence]
        assert tracking_uids(made["sr_measurements"].dataset) == from_seg
        assert tracking_uids(made["sr_volumes"].dataset) == [uid for uid in from_seg for _ in range(2)]

    def test_values_and_units_of_a_ct(self, situation: Situation) -> None:
        group = measurement_groups(situation.encode()["sr_volumes"].dataset)[1]
        numbers = {
            str(item.ConceptNameCodeSequence[0].CodeMeaning): (
                float(item.MeasuredValueSequence[0].NumericValue),
                str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue),
            )
            for item in children(group)
            if item.ValueType == "NUM"
        }
        m = situation.measurements[0]
        for name, quantity in {
            "Volume": m.volume,
            "Diameter": m.largest_diameter,
            "Surface Area of Mesh": m.surface,
            "Mean Attenuation Coefficient": m.mean,
            "Standard Deviation of Attenuation Coefficient": m.standard_deviation,
            "Minimum Attenuation Coefficient": m.minimum,
            "Maximum Attenuation Coefficient": m.maximum,
        }.items():
            assert isinstance(quantity, Quantity)
            value, unit = numbers.pop(name)
            assert value == pytest.approx(quantity.value, rel=1e-6)
            assert unit == quantity.unit
        assert not numbers

    def test_intensities_of_an_mr_have_no_unit(self, tmp_path: Path) -> None:
        group = measurement_groups(written(tmp_path, modality="MR").encode()["sr_volumes"].dataset)[1]
        units = {
            str(i.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)
            for i in children(group)
            if i.ValueType == "NUM"
        }
        assert units == {"mm", "mm2", "mm3", "1"}

    def test_volume_is_that_of_the_voxels(self, tmp_path: Path) -> None:
        report = drawn(tmp_path, ROW_OF_FIVE).encode()["sr_volumes"].dataset
        assert_value(measurement_groups(report)[1], VOLUME, 5 * 6 * 2 * 3, "mm3")

    def test_a_single_slice_of_unknown_thickness_has_no_volume_and_says_why(self, tmp_path: Path) -> None:
        voxels = np.full((1, 20, 20), 40, np.int16)
        write_series(Volume(voxels, np.eye(4), "HU"), tmp_path / "s", identity())
        source = read_volume(edit_all(tmp_path / "s", SliceThickness=None))
        numbers = np.zeros(voxels.shape, np.uint16)
        numbers[0, 5:9, 5:12] = 1
        report = with_lesions(source, numbers).encode()["sr_volumes"].dataset
        assert not any(children(group, VOLUME) for group in measurement_groups(report))
        words = sentences(report)
        assert "1 lesion, total volume not given: the thickness of the only slice is not known." in words
        assert "Lesion 1 has no surface: the thickness of the only slice is not known." in words
        assert NO_UNCERTAINTY not in words

    def test_contour_encloses_the_pixels_of_the_key_slice(self, tmp_path: Path) -> None:
        report = drawn(tmp_path, ROW_OF_FIVE).encode()["sr_volumes"].dataset
        contour = next(i for i in children(measurement_groups(report)[0]) if i.ValueType == "SCOORD")
        points = np.array(contour.GraphicData).reshape(-1, 2)
        assert tuple(points[0]) == tuple(points[-1])
        np.testing.assert_allclose(points.min(axis=0), (10.0, 12.0))
        np.testing.assert_allclose(points.max(axis=0), (15.0, 13.0))

    def test_summary_counts_the_lesions_and_adds_their_volumes(self, tmp_path: Path) -> None:
        report = drawn(tmp_path, ROW_OF_FIVE, [(7, 20, 20)]).encode()["sr_volumes"].dataset
        assert "2 lesions, total volume 0.216 ml." in sentences(report)


class TestNotSeen:
    def test_no_lesion_makes_one_report_that_says_so(self, tmp_path: Path) -> None:
        situation = drawn(tmp_path)
        made = situation.encode()
        assert list(made) == ["sr_not_seen"]
        words = sentences(made["sr_not_seen"].dataset)
        assert "Looked for: Lung nodule. None was seen." in words

    def test_a_model_of_organs_alone_says_nothing_of_lesions(self, tmp_path: Path) -> None:
        made = drawn(tmp_path).encode(card=card(labels=(ORGAN,)))
        report = made["sr_not_seen"].dataset
        assert "Looked for: Liver. It was not found." in sentences(report)
        evaluations = child(report, QUALITATIVE_EVALUATIONS)
        assert evaluations is not None
        assert {item.ValueType for item in children(evaluations)} == {"TEXT"}
        assert report.SeriesDescription.startswith("Not found: ")

    def test_what_was_not_found_beside_others_is_named(self, tmp_path: Path) -> None:
        made = drawn(tmp_path, ROW_OF_FIVE).encode(card=card(labels=(NODULE, TUMOUR)))
        for kind in REPORT_PAIR:
            assert "ml; Tumour: none seen." in sentences(made[kind].dataset)

    def test_all_images_that_were_looked_at_are_named_as_evidence(self, tmp_path: Path) -> None:
        situation = drawn(tmp_path)
        report = situation.encode()["sr_not_seen"].dataset
        (series,) = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        assert len(series.ReferencedSOPSequence) == len(situation.source.frames)


class TestEveryReport:
    @pytest.mark.parametrize("kind", REPORT_PAIR)
    def test_says_research_use_model_digest_and_notes(self, situation: Situation, kind: ResultKind) -> None:
        note = "Processed at the deadline: 58 of 60 images."
        report = situation.encode(notes=(note,))[kind].dataset
        words = sentences(report)
        assert "Research use only." in words
        assert f"Lung nodule U-Net (lung-nodule-unet) version 1.2.0, SHA-256 {DIGEST}" in words
        assert note in words

    def test_says_why_volumes_have_no_uncertainty(self, situation: Situation) -> None:
        assert NO_UNCERTAINTY in sentences(situation.encode()["sr_volumes"].dataset)
        assert NO_UNCERTAINTY not in sentences(situation.encode()["sr_measurements"].dataset)

    def test_is_complete_but_preliminary_and_unverified(self, situation: Situation) -> None:
        report = situation.encode()["sr_measurements"].dataset
        assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
            "COMPLETE",
            "PRELIMINARY",
            "UNVERIFIED",
        )

    def test_image_library_holds_the_key_slices_only(self, situation: Situation) -> None:
        report = situation.encode()["sr_measurements"].dataset
        (series,) = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        slices = {m.long_axis.slice_index for m in situation.measurements if isinstance(m.long_axis, Axis)}
        assert len(series.ReferencedSOPSequence) == len(slices)

    def test_lesions_without_their_segmentation_cannot_be_reported(self, situation: Situation) -> None:
        with pytest.raises(ValueError, match="segmentation"):
            encode_reports((), situation.lesion_map, situation.measurements, situation.context)
