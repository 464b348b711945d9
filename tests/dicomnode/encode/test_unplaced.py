"""Results on ultrasound: lesions lie on their image and frame, and nothing claims a place in the patient.

OHIF shows them in tests/viewers; validators are in test_validators.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicomnode.encode.check_report import measurement_groups
from dicomnode.encode.concepts import AREA, LONG_AXIS
from dicomnode.encode.content import child, children, walk
from dicomnode.encode.context import Result
from dicomnode.encode.unplaced import STAND_IN_UID
from dicomnode.encode.verify import verify_results
from dicomnode.encode.writing import to_bytes
from dicomnode.errors import ResultRejected
from dicomnode.forms import ResultKind
from dicomnode.read.volumes import read_volume
from inference.measure import Axis, Quantity
from tests.dicomnode.encode.situations import (
    Situation,
    identity,
    scanned,
    with_lesions,
)
from tests.phantoms.ultrasound import SPACING_MM, ultrasound_phantom, write_loop, write_stills

Kind = Literal["still", "stills", "loop"]
KINDS: tuple[Kind, ...] = ("still", "stills", "loop")
Defect = Callable[[Dataset], None]


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Situation:
    return scanned(tmp_path_factory.mktemp("loop"), "loop")


@pytest.fixture(scope="module")
def sound(loop: Situation) -> dict[ResultKind, Result]:
    return loop.encode()


@pytest.fixture
def mixed(tmp_path: Path) -> Situation:
    """A still with a spacing, and a loop of which no spacing is known, in one series."""
    truth = ultrasound_phantom(3)
    write_stills(tmp_path, [truth.grey[0]], identity("US"), [SPACING_MM])
    series = write_loop(tmp_path, truth.grey, identity("US"), index=1)
    of_loop = np.where(truth.numbers > 0, truth.numbers + 2, 0)
    return with_lesions(read_volume(series), np.concatenate([truth.numbers[:1], of_loop]))


def sentences(report: Dataset) -> str:
    return "\n".join(str(i.TextValue) for i in walk(report) if i.ValueType == "TEXT")


def unit_of(item: Dataset) -> str:
    return str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)


class TestSegmentation:
    @pytest.mark.parametrize("kind", KINDS)
    def test_highdicom_finds_every_voxel_on_its_image(self, tmp_path: Path, kind: Kind) -> None:
        made = scanned(tmp_path, kind)
        content = to_bytes(made.encode()["seg"].dataset)
        seg = highdicom.seg.segread(BytesIO(content))
        frames = made.source.frames
        if kind == "loop":
            found = seg.get_pixels_by_source_frame(
                frames[0].instance.sop_instance_uid,
                [frame.frame_number for frame in frames],
                combine_segments=True,
            )
        else:
            uids = [frame.instance.sop_instance_uid for frame in frames]
            found = seg.get_pixels_by_source_instance(uids, combine_segments=True)
        np.testing.assert_array_equal(found, made.lesion_map.values)

    def test_nothing_claims_a_place_but_the_orientation_that_viewers_ask_for(
        self, sound: dict[ResultKind, Result]
    ) -> None:
        seg = sound["seg"].dataset
        assert "FrameOfReferenceUID" not in seg
        assert "PlanePositionSequence" not in seg.PerFrameFunctionalGroupsSequence[0]
        shared = seg.SharedFunctionalGroupsSequence[0]
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == list(SPACING_MM)

    def test_no_made_up_uid_is_left(self, sound: dict[ResultKind, Result], loop: Situation) -> None:
        made_up = {f"{STAND_IN_UID}{n}" for n in range(len(loop.source.frames) + 1)}
        for result in sound.values():
            values = {str(e.value) for e in result.dataset.iterall() if e.VR == "UI"}
            assert not values & made_up

    @pytest.mark.parametrize("kind", KINDS)
    def test_without_a_spacing_the_shared_pixel_measures_claim_none(self, tmp_path: Path, kind: Kind) -> None:
        """OHIF goes blank where the group is missing; see tests/viewers."""
        seg = scanned(tmp_path, kind, spacing_mm=None).encode()["seg"].dataset
        (measures,) = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        assert "PixelSpacing" not in measures
        assert not any("PixelMeasuresSequence" in group for group in seg.PerFrameFunctionalGroupsSequence)

    def test_different_spacings_are_left_to_the_images(self, mixed: Situation) -> None:
        seg = mixed.encode()["seg"].dataset
        (measures,) = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        assert "PixelSpacing" not in measures
        still = mixed.source.frames[0].instance.sop_instance_uid
        for group in seg.PerFrameFunctionalGroupsSequence:
            image = group.DerivationImageSequence[0].SourceImageSequence[0]
            assert ("ReferencedFrameNumber" in image) == (image.ReferencedSOPInstanceUID != still)

    def test_frames_are_indexed_by_segment_and_time(self, sound: dict[ResultKind, Result]) -> None:
        seg = sound["seg"].dataset
        indices = [
            tuple(g.FrameContentSequence[0].DimensionIndexValues)
            for g in seg.PerFrameFunctionalGroupsSequence
        ]
        assert indices == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 1), (2, 2)]

    def test_a_repeated_run_makes_the_same_bytes(
        self, loop: Situation, sound: dict[ResultKind, Result]
    ) -> None:
        again = loop.encode()
        assert all(to_bytes(again[k].dataset) == to_bytes(r.dataset) for k, r in sound.items())


class TestReports:
    @pytest.mark.parametrize(("spacing_mm", "unit"), [(SPACING_MM, "mm"), (None, "{pixels}")])
    @pytest.mark.parametrize("kind", KINDS)
    def test_axes_are_drawn_on_their_frame_in_millimetres_or_pixels(
        self, tmp_path: Path, kind: Kind, spacing_mm: tuple[float, float] | None, unit: str
    ) -> None:
        made = scanned(tmp_path, kind, spacing_mm=spacing_mm)
        report = made.encode()["sr_measurements"].dataset
        for group, m in zip(measurement_groups(report), made.measurements, strict=True):
            assert isinstance(m.long_axis, Axis)
            item = children(group, LONG_AXIS)[0]
            assert unit_of(item) == unit
            image = children(children(item)[0])[0].ReferencedSOPSequence[0]
            frame = made.source.frames[m.long_axis.slice_index]
            assert image.ReferencedSOPInstanceUID == frame.instance.sop_instance_uid
            assert image.get("ReferencedFrameNumber") == frame.frame_number

    def test_a_lesion_of_a_loop_is_one_and_measured_where_it_is_longest(self, loop: Situation) -> None:
        first, second = loop.measurements
        assert (first.first_slice, first.last_slice, first.key_slice) == (0, 4, 2)
        assert (second.first_slice, second.last_slice) == (0, 1)

    def test_the_contour_has_the_area_and_nothing_has_a_volume(
        self, loop: Situation, sound: dict[ResultKind, Result]
    ) -> None:
        report = sound["sr_volumes"].dataset
        groups = measurement_groups(report)
        for m, contour, segment in zip(loop.measurements, groups[::2], groups[1::2], strict=True):
            area = child(contour, AREA)
            assert area is not None
            pixels = np.count_nonzero(loop.lesion_map.values[m.key_slice] == m.number)
            expected = pixels * SPACING_MM[0] * SPACING_MM[1]
            assert float(area.MeasuredValueSequence[0].NumericValue) == pytest.approx(expected)
            assert unit_of(area) == "mm2"
            assert not [i for i in children(segment) if i.ValueType == "NUM"]
        assert "2 lesions, total volume not given" in sentences(report)
        assert "Volume, 3-D diameter and surface are not given" in sentences(report)

    def test_pixels_are_said_to_be_pixels(self, tmp_path: Path) -> None:
        made = scanned(tmp_path, "still", spacing_mm=None).encode()
        for kind in ("sr_measurements", "sr_volumes"):
            words = sentences(made[kind].dataset)
            assert words.count("Lengths and areas are in pixels") == 1

    def test_where_only_some_are_in_pixels_they_are_named(self, mixed: Situation) -> None:
        assert "Lesion 3, Lesion 4: Lengths and areas are in pixels" in sentences(
            mixed.encode()["sr_volumes"].dataset
        )

    def test_millimetres_need_no_remark(self, sound: dict[ResultKind, Result]) -> None:
        assert "pixels" not in sentences(sound["sr_measurements"].dataset)

    @pytest.mark.parametrize("kind", KINDS)
    def test_nothing_seen_is_one_report_on_all_images(self, tmp_path: Path, kind: Kind) -> None:
        made = scanned(tmp_path, kind, none_seen=True)
        (result,) = made.encode().values()
        assert result.kind == "sr_not_seen"
        evidence = result.dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        named = {str(item.ReferencedSOPInstanceUID) for item in evidence.ReferencedSOPSequence}
        assert named == {frame.instance.sop_instance_uid for frame in made.source.frames}

    def test_colour_makes_the_same_results(self, tmp_path: Path) -> None:
        plain, colour = (
            scanned(tmp_path / photometric, "still", photometric=photometric)
            for photometric in ("MONOCHROME2", "RGB")
        )
        assert plain.measurements == colour.measurements
        assert set(colour.encode()) == {"seg", "sr_measurements", "sr_volumes"}


def on_another_frame(seg: Dataset) -> None:
    image = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedFrameNumber = 4


def on_no_frame(seg: Dataset) -> None:
    del (
        seg.PerFrameFunctionalGroupsSequence[0]
        .DerivationImageSequence[0]
        .SourceImageSequence[0]
        .ReferencedFrameNumber
    )


def placed(seg: Dataset) -> None:
    position = Dataset()
    position.ImagePositionPatient = [0, 0, 0]
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence = [position]


def in_a_frame_of_reference(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "1.2.3"


def turned(seg: Dataset) -> None:
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def other_spacing(seg: Dataset) -> None:
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.25]


def no_spacing(seg: Dataset) -> None:
    del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence


def flipped_bit(seg: Dataset) -> None:
    seg.PixelData = bytes([seg.PixelData[0] ^ 1]) + seg.PixelData[1:]


def axis_in_pixels(report: Dataset) -> None:
    measured = children(measurement_groups(report)[0], LONG_AXIS)[0].MeasuredValueSequence[0]
    measured.MeasurementUnitsCodeSequence[0].CodeValue = "{pixels}"


def axis_on_another_frame(report: Dataset) -> None:
    item = children(measurement_groups(report)[0], LONG_AXIS)[0]
    children(children(item)[0])[0].ReferencedSOPSequence[0].ReferencedFrameNumber = 1


def contour_on_another_frame(report: Dataset) -> None:
    scoord = next(i for i in children(measurement_groups(report)[0]) if i.ValueType == "SCOORD")
    children(scoord)[0].ReferencedSOPSequence[0].ReferencedFrameNumber = 1


def other_area(report: Dataset) -> None:
    area = child(measurement_groups(report)[0], AREA)
    assert area is not None
    area.MeasuredValueSequence[0].NumericValue = 999


def no_area(report: Dataset) -> None:
    group = measurement_groups(report)[0]
    group.ContentSequence = [i for i in children(group) if i.ValueType != "NUM"]


DEFECTS: tuple[tuple[ResultKind, Defect, str], ...] = (
    ("seg", on_another_frame, "differs from the lesion map|overlaps another segment"),
    ("seg", on_no_frame, "names a source image that is no slice"),
    ("seg", placed, "has a place in the patient"),
    ("seg", in_a_frame_of_reference, "another frame of reference"),
    ("seg", turned, "has a place in the patient"),
    ("seg", other_spacing, "pixel spacing"),
    ("seg", no_spacing, "pixel spacing None"),
    ("seg", flipped_bit, "differs from the lesion map in 1 voxels"),
    ("sr_measurements", axis_in_pixels, "unit '{pixels}', expected 'mm'"),
    ("sr_measurements", axis_on_another_frame, "drawn on another image than slice 2"),
    ("sr_volumes", contour_on_another_frame, "contour: drawn on another image than slice 2"),
    ("sr_volumes", other_area, "area against the measurement: 999"),
    ("sr_volumes", no_area, "area: measured but not reported"),
)


@pytest.mark.parametrize(("kind", "defect", "said"), DEFECTS, ids=[d[1].__name__ for d in DEFECTS])
def test_a_planted_defect_is_rejected(
    loop: Situation, sound: dict[ResultKind, Result], kind: ResultKind, defect: Defect, said: str
) -> None:
    broken = dcmread(BytesIO(to_bytes(sound[kind].dataset)))
    defect(broken)
    results = [Result(k, broken if k == kind else result.dataset) for k, result in sound.items()]
    with pytest.raises(ResultRejected, match=said):
        verify_results(results, loop.lesion_map, loop.measurements, loop.context)


def test_an_area_that_the_segmentation_does_not_have_is_rejected(loop: Situation) -> None:
    first, *others = loop.measurements
    assert isinstance(first.area, Quantity)
    wrong = replace(first, area=Quantity(2 * first.area.value, "mm2"))
    with pytest.raises(ResultRejected, match="area against the decoded SEG"):
        replace(loop, measurements=(wrong, *others)).encode()


def test_lengths_in_pixels_where_millimetres_are_known_are_rejected(loop: Situation) -> None:
    first, *others = loop.measurements
    assert isinstance(first.long_axis, Axis)
    length = Quantity(first.long_axis.length.value, "{pixels}")
    wrong = replace(first, long_axis=replace(first.long_axis, length=length))
    with pytest.raises(ResultRejected, match=r"in \{pixels\}, but the pixel spacing is"):
        replace(loop, measurements=(wrong, *others)).encode()
