"""Segmentations lie where the lesions are, in millimetres in the patient, and say who made them.

Placed here from the files alone, with pydicom's own pixel decoding. That OHIF shows them so was measured
by hand, not here.
"""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset

from dicomnode.encode.context import ResultContext
from dicomnode.encode.decode import read_frames
from dicomnode.encode.seg import encode_seg
from dicomnode.errors import PermanentError
from dicomnode.part10 import ParsedHeader
from dicomnode.read.volumes import read_volume
from dicomnode.selftest.shapes import Ellipsoid
from dicomnode.series_writer import write_series
from dicomnode.study import Instance, Series, SourceFrame, SourceVolume
from inference.labelmap import LesionMap
from tests.dicomnode.encode.situations import (
    COARSE_MM,
    CREATED_AT,
    DIGEST,
    MISSING,
    SERIES_UID,
    Situation,
    card,
    drawn,
    identity,
    seen,
    with_lesions,
    written,
)
from tests.phantoms import ORIENTATIONS, Box, Orientation, Shape, phantom, write_enhanced
from tests.phantoms.faults import edit_all

Points = npt.NDArray[np.float64]

OPTIONAL = (
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyTime",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
    "BodyPartExamined",
)


def points_lps_mm(seg: Dataset, number: int) -> Points:
    """Centres of all voxels of one segment, from frame positions, orientation and spacing."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found = []
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for mask, group in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        segment = (
            group if "SegmentIdentificationSequence" in group else shared
        ).SegmentIdentificationSequence
        if segment[0].ReferencedSegmentNumber == number:
            rows, columns = np.nonzero(mask)
            position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            found.append(
                position
                + rows[:, None] * row_mm * orientation[3:]
                + columns[:, None] * column_mm * orientation[:3]
            )
    return np.concatenate(found)


def a_little_larger(shape: Shape) -> Shape:
    """Headers keep ten digits, so voxels on the very edge may fall on either side."""
    if isinstance(shape, Ellipsoid):
        left, posterior, superior = shape.radii_mm
        return Ellipsoid(shape.centre_lps_mm, (left + 0.01, posterior + 0.01, superior + 0.01))
    left, posterior, superior = shape.size_mm
    return Box(shape.centre_lps_mm, (left + 0.02, posterior + 0.02, superior + 0.02))


def assert_lesions_in_place(seg: Dataset, situation: Situation, shapes: tuple[Shape, ...]) -> None:
    gaps = bool(situation.source.volume.slice_places)  # where a slice is missing the mean moves away from it
    for number, shape in enumerate(shapes, start=1):
        points = points_lps_mm(seg, number)
        assert a_little_larger(shape).contains(points).all()
        assert len(points) == np.count_nonzero(situation.lesion_map.values == number)
        assert np.abs(points.mean(axis=0) - shape.centre_lps_mm).max() < max(COARSE_MM) / (1 if gaps else 2)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("reversed_slices", [False, True])
@pytest.mark.parametrize("tilt_degrees", [0.0, 18.5])
@pytest.mark.parametrize("missing", [(), MISSING])
def test_segments_lie_on_the_lesions_in_every_orientation_slice_order_and_tilt_and_between_gaps(
    tmp_path: Path,
    orientation: Orientation,
    reversed_slices: bool,
    tilt_degrees: float,
    missing: tuple[int, ...],
) -> None:
    situation = written(
        tmp_path,
        orientation,
        reversed_slices=reversed_slices,
        tilt_degrees=tilt_degrees,
        missing_slices=missing,
    )
    seg = situation.encode()["seg"].dataset
    assert_lesions_in_place(seg, situation, phantom().shapes)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("shared", [True, False])
def test_segments_of_a_multi_frame_image_name_the_frames_they_lie_on(
    tmp_path: Path, modality: str, shared: bool
) -> None:
    truth = phantom("oblique", COARSE_MM, intensity_unit="HU" if modality == "CT" else "arbitrary")
    order = list(range(truth.volume.shape[0]))
    random.Random(5).shuffle(order)
    series = write_enhanced(
        truth.volume, tmp_path / "e.dcm", identity(modality), frame_order=order, shared=shared
    )
    situation = seen(series, truth)
    seg = situation.encode()["seg"].dataset
    assert_lesions_in_place(seg, situation, truth.shapes)
    source = series.header.PerFrameFunctionalGroupsSequence
    for group in seg.PerFrameFunctionalGroupsSequence:
        frame = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        assert (
            source[frame - 1].PlanePositionSequence[0].ImagePositionPatient
            == group.PlanePositionSequence[0].ImagePositionPatient
        )


def test_time_points_at_one_place_in_a_multi_frame_image_are_told_apart(tmp_path: Path) -> None:
    truth = phantom("axial", COARSE_MM)
    twice = [index for index in range(truth.volume.shape[0]) for _ in range(2)]
    series = write_enhanced(truth.volume, tmp_path / "e.dcm", identity(), frame_order=twice)
    second = tuple(SourceFrame(series.instances[0], 2 * i + 2) for i in range(truth.volume.shape[0]))
    situation = with_lesions(SourceVolume(series, truth.volume, second), truth.lesion_map.values)
    frames = list(read_frames(situation.encode()["seg"].dataset))
    assert {(frame.source_frame_number or 0) % 2 for frame in frames} == {0}
    assert all(f.source_frame_number != frames[0].source_frame_number for f in frames[1:3])


def test_a_series_of_one_slice_gets_one_frame_per_lesion(tmp_path: Path) -> None:
    situation = written(tmp_path, shapes=(), spacing_mm=(96.0, 2.0, 3.0))
    numbers = np.zeros(situation.source.volume.shape, np.uint16)
    numbers[0, 10:15, 20:24], numbers[0, 30:33, 5:9] = 1, 2
    seg = with_lesions(situation.source, numbers).encode()["seg"].dataset
    assert seg.NumberOfFrames == 2
    np.testing.assert_array_equal(seg.pixel_array[0], numbers[0] == 1)


def test_one_lesion_fills_the_only_segment(tmp_path: Path) -> None:
    situation = drawn(tmp_path, [(3, 10, 11), (3, 10, 12), (4, 10, 12)])
    seg = situation.encode()["seg"].dataset
    assert [int(s.SegmentNumber) for s in seg.SegmentSequence] == [1]
    assert len(points_lps_mm(seg, 1)) == 3


def test_more_lesions_than_eight_bits_can_number(tmp_path: Path) -> None:
    situation = written(tmp_path, shapes=())
    numbers = np.zeros(situation.source.volume.shape, np.uint16)
    for number in range(1, 301):
        numbers[number % 4, 2 * (number // 20), number % 20] = number
    made = with_lesions(situation.source, numbers)
    decoded = {
        frame.segment_number
        for frame in read_frames(encode_seg(made.lesion_map, made.measurements, made.context))
    }
    assert decoded == set(range(1, 301))


def test_empty_slices_get_no_frame_and_positions_are_copied_character_by_character(tmp_path: Path) -> None:
    situation = written(tmp_path, "oblique", modality="MR")
    seg = situation.encode()["seg"].dataset
    present = sum(len(np.unique(plane[plane > 0])) for plane in situation.lesion_map.values)
    assert seg.NumberOfFrames == present
    headers = {f.instance.sop_instance_uid: f.instance.header for f in situation.source.frames}
    for group in seg.PerFrameFunctionalGroupsSequence:
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert [str(v) for v in group.PlanePositionSequence[0].ImagePositionPatient] == [
            str(v) for v in headers[uid].ImagePositionPatient
        ]


class TestDescription:
    @pytest.fixture
    def situation(self, tmp_path: Path) -> Situation:
        return written(tmp_path)

    @pytest.fixture
    def seg(self, situation: Situation) -> Dataset:
        return situation.encode()["seg"].dataset

    def test_each_segment_says_what_it_is_and_which_model_drew_it(self, seg: Dataset) -> None:
        first = seg.SegmentSequence[0]
        assert first.SegmentLabel == "Lesion 1: Lung nodule"
        assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "27925004"
        assert first.AnatomicRegionSequence[0].CodeValue == "39607008"
        assert first.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Lung nodule U-Net", "1.2.0")
        assert DIGEST in algorithm.AlgorithmParameters

    def test_lesions_have_colours_and_tracking_uids_of_their_own(self, seg: Dataset) -> None:
        colours = {tuple(s.RecommendedDisplayCIELabValue) for s in seg.SegmentSequence}
        assert len(colours) == len({s.TrackingUID for s in seg.SegmentSequence}) == 3

    def test_series_says_model_and_research_use_only(self, seg: Dataset) -> None:
        assert seg.SeriesDescription == "Lesions: Lung nodule U-Net (Research use only)"
        assert (seg.SeriesNumber, seg.BodyPartExamined) == (3901, "CHEST")

    def test_a_long_model_title_is_cut_before_research_use_only(self, situation: Situation) -> None:
        made = situation.encode(card=card(title="Läsionen der Lunge im CT, Modell der Universität"[:48]))
        for result in made.values():
            description = result.dataset.SeriesDescription
            assert len(description) <= 64
            assert description.endswith("(Research use only)")
            assert "Lasionen der Lunge" in description

    def test_the_model_is_contributing_equipment_by_its_digest(self, seg: Dataset) -> None:
        items = {str(i.get("ManufacturerModelName")): i for i in seg.ContributingEquipmentSequence}
        model = items["Lung nodule U-Net"]
        assert model.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert model.DeviceUID.startswith("2.25.")
        assert DIGEST in model.ContributionDescription

    def test_dates_follow_from_the_given_moment(self, seg: Dataset) -> None:
        assert (seg.ContentDate, seg.ContentTime) == ("20260304", "151617")
        assert (seg.SeriesDate, seg.SeriesTime) == ("20260304", "151617")
        assert seg.TimezoneOffsetFromUTC == "+0000"

    def test_dates_are_in_the_time_zone_of_the_source(self, tmp_path: Path) -> None:
        situation = written(tmp_path / "tz", attributes={"TimezoneOffsetFromUTC": "-0930"})
        made = situation.encode(created_at=datetime(2026, 3, 4, 5, 0, tzinfo=UTC))["seg"].dataset
        assert (made.ContentDate, made.ContentTime) == ("20260303", "193000")
        assert made.TimezoneOffsetFromUTC == "-0930"


class TestPatient:
    def test_patient_and_study_are_those_of_the_source_however_odd(self, tmp_path: Path) -> None:
        odd: dict[str, Any] = {
            "PatientSex": "X",
            "PatientName": "Müller^Jürgen",
            "PatientAge": "061Y",
            "StudyTime": "1015",
            "AccessionNumber": "",
        }
        situation = written(tmp_path, attributes=odd)
        for result in situation.encode().values():
            for keyword, value in odd.items():
                assert result.dataset.get(keyword) == value

    def test_the_source_headers_are_left_as_they_were(self, tmp_path: Path) -> None:
        situation = written(tmp_path, attributes={"PatientSex": "X", "SpacingBetweenSlices": None})
        before = [deepcopy(frame.instance.header) for frame in situation.source.frames]
        situation.encode()
        assert [frame.instance.header for frame in situation.source.frames] == before

    def test_a_source_without_optional_attributes_is_encoded(self, tmp_path: Path) -> None:
        situation = written(tmp_path)
        for frame in situation.source.frames:
            for keyword in OPTIONAL:
                if keyword in frame.instance.header:
                    delattr(frame.instance.header, keyword)
            frame.instance.header.SliceThickness = None
            frame.instance.header.SpacingBetweenSlices = None
        made = situation.encode()
        assert "BodyPartExamined" not in made["seg"].dataset
        measures = made["seg"].dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SliceThickness == COARSE_MM[0]

    def test_a_slice_thickness_of_zero_becomes_the_slice_distance(self, tmp_path: Path) -> None:
        seg = written(tmp_path, attributes={"SliceThickness": "0"}).encode()["seg"].dataset
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures.SliceThickness == COARSE_MM[0]

    def test_no_name_reaches_the_log(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("DEBUG"):
            written(tmp_path, attributes={"PatientName": "Singlename", "PatientID": "SECRET-7"}).encode()
        assert "Singlename" not in caplog.text
        assert "SECRET-7" not in caplog.text

    def test_orientations_that_differ_in_the_last_digit_are_one(self, tmp_path: Path) -> None:
        situation = written(tmp_path, "oblique")
        header = situation.source.frames[3].instance.header
        header.ImageOrientationPatient = [float(v) + 1e-7 for v in header.ImageOrientationPatient]
        assert "seg" in situation.encode()

    def test_an_empty_character_set_is_left_out(self, tmp_path: Path) -> None:
        situation = written(tmp_path)
        for frame in situation.source.frames:
            frame.instance.header.SpecificCharacterSet = None
        assert "SpecificCharacterSet" not in situation.encode()["seg"].dataset

    def test_japanese_names_keep_their_characters(self, tmp_path: Path) -> None:
        situation = written(
            tmp_path,
            attributes={
                "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
                "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
            },
        )
        made = situation.encode()["sr_volumes"].dataset
        assert str(made.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"


class TestRefusals:
    def test_no_lesions_make_no_segmentation(self, tmp_path: Path) -> None:
        situation = drawn(tmp_path)
        with pytest.raises(PermanentError, match="no lesions"):
            encode_seg(situation.lesion_map, (), situation.context)

    def test_positions_without_frame_of_reference_are_refused_with_the_reason(self, tmp_path: Path) -> None:
        write_series(phantom("axial", COARSE_MM).volume, tmp_path, identity())
        source = read_volume(edit_all(tmp_path, FrameOfReferenceUID=None))
        context = ResultContext(source, card(), DIGEST, 1, CREATED_AT)
        values = np.zeros(source.volume.shape, np.uint16)
        with pytest.raises(PermanentError, match="no frame of reference"):
            encode_seg(LesionMap((values,), ()), (), context)

    def test_frames_from_two_multi_frame_instances_are_refused(self, tmp_path: Path) -> None:
        truth = phantom("axial", COARSE_MM)
        one = write_enhanced(truth.volume, tmp_path / "a.dcm", identity()).instances[0]
        header = deepcopy(one.header)
        header.SOPInstanceUID = "1.2.3"
        two = Instance(one.path, ParsedHeader(header), one.sha256)
        frames = tuple(SourceFrame(one if i % 2 else two, i + 1) for i in range(truth.volume.shape[0]))
        source = SourceVolume(Series((one, two)), truth.volume, frames)
        situation = with_lesions(source, truth.lesion_map.values)
        with pytest.raises(PermanentError, match="several multi-frame"):
            situation.encode()

    def test_a_naive_creation_time_is_a_mistake_of_ours(self, tmp_path: Path) -> None:
        situation = drawn(tmp_path)
        with pytest.raises(ValueError, match="aware"):
            replace(situation.context, created_at=datetime(2026, 1, 1))


def test_segmentation_refers_to_exactly_one_series(tmp_path: Path) -> None:
    seg = written(tmp_path).encode()["seg"].dataset
    assert [item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence] == [SERIES_UID]
