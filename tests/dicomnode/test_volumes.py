"""Series become volumes at the right place in the patient, or are refused with the exact reason.

Phantoms only; real series are in test_volumes_real.py, broken bytes in test_volumes_broken.py.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from dicomnode.errors import UnreadableSeries
from dicomnode.read.volumes import NO_THICKNESS, read_volume
from dicomnode.selftest.volumes import voxel_centres
from dicomnode.series_writer import SeriesIdentity, write_series
from dicomnode.study import Series, SourceVolume, read_instance
from inference.volume import Volume
from tests.phantoms import (
    ORIENTATIONS,
    Orientation,
    Phantom,
    phantom,
    read_series,
    save,
    write_enhanced,
    write_phantom,
)
from tests.phantoms.dicom import enhanced_dataset, set_sop_instance_uid
from tests.phantoms.faults import (
    change_slice,
    drop_slice,
    duplicate_slice,
    edit_all,
    slice_paths,
)
from tests.phantoms.ultrasound import ultrasound_phantom, write_loop, write_stills

POSITION_MM = 1e-6
"""Headers keep ten digits."""


def assert_same_patient(read: SourceVolume, truth: Volume) -> None:
    """Every voxel of the truth is found at its place in the patient, with its value."""
    places = voxel_centres(truth.affine, truth.shape).reshape(-1, 3)
    to_index = np.linalg.inv(read.volume.affine)
    indices = places @ to_index[:3, :3].T + to_index[:3, 3]
    nearest = np.rint(indices).astype(int)
    assert np.abs(indices - nearest).max() * max(read.volume.spacing_mm) < POSITION_MM
    np.testing.assert_array_equal(read.volume.voxels[tuple(nearest.T)], truth.voxels.ravel())


def assert_frames_are_in_slice_order(read: SourceVolume) -> None:
    """Each slice's source frame holds exactly the pixels of that slice."""
    for image, frame in zip(read.volume.voxels, read.frames, strict=True):
        dataset = frame.instance.load()
        pixels = dataset.pixel_array if frame.frame_number is None else None
        if pixels is None:
            assert frame.frame_number is not None
            pixels = dataset.pixel_array[frame.frame_number - 1]
        np.testing.assert_array_equal(pixels, image)


def refusal(series: Series) -> str:
    """Why the series is refused."""
    with pytest.raises(UnreadableSeries) as caught:
        read_volume(series)
    return str(caught.value)


@pytest.fixture
def small() -> Phantom:
    return phantom(spacing_mm=(8.0, 3.0, 4.0))


@pytest.fixture
def folder(tmp_path: Path, small: Phantom) -> Path:
    """Twelve axial CT slices, 8 mm apart."""
    write_phantom(small, tmp_path / "series")
    return tmp_path / "series"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("reversed_slices", [False, True])
@pytest.mark.parametrize("tilt_degrees", [0.0, 18.5])
def test_written_and_read_back_every_voxel_keeps_value_and_place(
    tmp_path: Path, orientation: Orientation, reversed_slices: bool, tilt_degrees: float
) -> None:
    truth = phantom(
        orientation, (6.0, 2.0, 3.0), reversed_slices=reversed_slices, tilt_degrees=tilt_degrees
    ).volume
    folder = tmp_path / "series"
    paths = write_series(truth, folder, SeriesIdentity())
    instances = [read_instance(path) for path in paths]
    random.Random(4).shuffle(instances)
    read = read_volume(Series(tuple(instances)))
    assert_same_patient(read, truth)
    assert_frames_are_in_slice_order(read)
    assert read.volume.voxel_volume_mm3 == pytest.approx(truth.voxel_volume_mm3, rel=1e-6)
    assert read.volume.spacing_mm == pytest.approx(truth.spacing_mm, rel=1e-6)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_enhanced_multi_frame_with_shuffled_frames_keeps_every_place(
    tmp_path: Path, modality: str, shared: bool, orientation: Orientation
) -> None:
    truth = phantom(
        orientation, (6.0, 2.0, 3.0), intensity_unit="HU" if modality == "CT" else "arbitrary"
    ).volume
    order = list(range(truth.shape[0]))
    random.Random(5).shuffle(order)
    read = read_volume(write_enhanced(truth, tmp_path / "e.dcm", frame_order=order, shared=shared))
    assert_same_patient(read, truth)
    assert_frames_are_in_slice_order(read)
    assert [frame.frame_number for frame in read.frames] == [order.index(i) + 1 for i in range(len(order))]
    assert read.volume.intensity_unit == truth.intensity_unit


def test_slices_are_sorted_along_their_normal_whatever_their_numbers_say(
    folder: Path, small: Phantom
) -> None:
    for index in range(12):
        change_slice(folder, index, InstanceNumber=100 - (index * 7) % 12)
    read = read_volume(read_series(folder))
    assert_same_patient(read, small.volume)
    normal = np.cross(read.volume.affine[:3, 2], read.volume.affine[:3, 1])
    assert normal @ read.volume.affine[:3, 0] > 0


def test_gantry_tilt_becomes_a_sheared_grid_with_the_true_voxel_volume(tmp_path: Path) -> None:
    truth = phantom("axial", (5.0, 2.0, 2.0), tilt_degrees=20.0)
    volume = read_volume(write_phantom(truth, tmp_path / "s")).volume
    assert volume.voxel_volume_mm3 == pytest.approx(5.0 * np.cos(np.radians(20.0)) * 4.0)
    assert volume.spacing_mm[0] == pytest.approx(5.0)


class TestValues:
    def test_ct_with_rescale_is_hounsfield_and_exact_in_int16(self, folder: Path, small: Phantom) -> None:
        volume = read_volume(edit_all(folder, RescaleIntercept=-1024, RescaleSlope=1)).volume
        assert volume.intensity_unit == "HU"
        assert volume.voxels.dtype == np.int16
        np.testing.assert_array_equal(volume.voxels, small.volume.voxels - 1024)

    def test_fractional_slope_gives_float32(self, folder: Path, small: Phantom) -> None:
        volume = read_volume(edit_all(folder, RescaleSlope="0.25", RescaleIntercept="-3.5")).volume
        assert volume.voxels.dtype == np.float32
        np.testing.assert_array_equal(volume.voxels, small.volume.voxels * np.float32(0.25) - np.float32(3.5))

    def test_every_slice_has_its_own_slope(self, folder: Path, small: Phantom) -> None:
        change_slice(folder, 3, RescaleSlope=2)
        change_slice(folder, 5, RescaleSlope="0.5")
        volume = read_volume(read_series(folder)).volume
        expected = small.volume.voxels.astype(np.float32)
        expected[3] *= 2
        expected[5] *= 0.5
        np.testing.assert_array_equal(volume.voxels, expected)

    def test_values_beyond_int16_give_float32(self, folder: Path, small: Phantom) -> None:
        volume = read_volume(edit_all(folder, RescaleIntercept=40_000)).volume
        np.testing.assert_array_equal(volume.voxels, small.volume.voxels.astype(np.float32) + 40_000)

    def test_unsigned_16_bit_values_are_not_wrapped(self, folder: Path) -> None:
        pixels = np.full((32, 24), 60_000, np.uint16)
        edit_all(folder, PixelRepresentation=0)
        volume = read_volume(change_slice(folder, 0, PixelData=pixels.tobytes())).volume
        assert volume.voxels[0].min() == 60_000.0

    @pytest.mark.parametrize("kind", ["HU", "Houndsfield Unit", None])
    def test_ct_units_named_hounsfield_or_not_at_all_are_hounsfield(
        self, folder: Path, kind: str | None
    ) -> None:
        assert read_volume(edit_all(folder, RescaleType=kind)).volume.intensity_unit == "HU"

    @pytest.mark.parametrize("kind", ["US", "Z_EFF", "MGML"])
    def test_ct_with_another_unit_is_not_hounsfield(self, folder: Path, kind: str) -> None:
        assert read_volume(edit_all(folder, RescaleType=kind)).volume.intensity_unit == "arbitrary"

    def test_ct_without_rescale_is_not_hounsfield(self, folder: Path) -> None:
        bare = edit_all(folder, RescaleIntercept=None, RescaleSlope=None, RescaleType=None)
        assert read_volume(bare).volume.intensity_unit == "arbitrary"

    def test_mr_with_rescale_is_not_hounsfield(self, folder: Path) -> None:
        assert read_volume(edit_all(folder, Modality="MR")).volume.intensity_unit == "arbitrary"

    def test_padding_of_ct_becomes_the_lowest_ct_number(self, folder: Path) -> None:
        dataset = dcmread(slice_paths(folder)[0])
        pixels = dataset.pixel_array.copy()
        pixels[:4], pixels[4:8] = -2000, -1500
        dataset.PixelData = pixels.tobytes()
        dataset.add_new("PixelPaddingValue", "SS", -2000)
        save(dataset, slice_paths(folder)[0])
        values = read_volume(read_series(folder)).volume.voxels[0]
        assert (values[:8] == -1024).all(), "also what lossy compression made of it"
        assert (values[8:] >= 0).all()

    def test_low_values_of_ct_without_padding_are_kept(self, folder: Path) -> None:
        pixels = np.full((32, 24), -1500, np.int16)
        volume = read_volume(change_slice(folder, 0, PixelData=pixels.tobytes())).volume
        assert (volume.voxels[0] == -1500).all()

    def test_padding_written_with_the_wrong_sign_is_understood(self, folder: Path) -> None:
        dataset = dcmread(slice_paths(folder)[0])
        dataset.PixelData = np.full((32, 24), -2000, np.int16).tobytes()
        dataset.add_new("PixelPaddingValue", "US", 2**16 - 2000)
        save(dataset, slice_paths(folder)[0])
        assert (read_volume(read_series(folder)).volume.voxels[0] == -1024).all()

    def test_padding_that_is_an_ordinary_ct_number_is_kept(self, folder: Path) -> None:
        dataset = dcmread(slice_paths(folder)[0])
        value = int(dataset.pixel_array[0, 0])
        dataset.add_new("PixelPaddingValue", "SS", value)
        save(dataset, slice_paths(folder)[0])
        assert read_volume(read_series(folder)).volume.voxels[0, 0, 0] == value

    def test_monochrome1_changes_the_display_and_not_the_values(self, folder: Path, small: Phantom) -> None:
        volume = read_volume(edit_all(folder, PhotometricInterpretation="MONOCHROME1")).volume
        np.testing.assert_array_equal(volume.voxels, small.volume.voxels)

    def test_rle_compressed_slices_have_the_same_values(self, folder: Path, small: Phantom) -> None:
        for path in slice_paths(folder):
            dataset = dcmread(path)
            dataset.compress(RLELossless, generate_instance_uid=False)
            save(dataset, path)
        np.testing.assert_array_equal(read_volume(read_series(folder)).volume.voxels, small.volume.voxels)


class TestSingleSlice:
    @pytest.mark.parametrize(
        ("attributes", "step_mm", "known"),
        [
            ({"SpacingBetweenSlices": 6.5, "SliceThickness": 5}, 6.5, True),
            ({"SliceThickness": 5}, 5.0, True),
            ({"SliceThickness": None}, 1.0, False),
            ({"SliceThickness": 0}, 1.0, False),
        ],
    )
    def test_step_comes_from_spacing_then_thickness_and_else_is_a_stand_in_that_is_told(
        self, tmp_path: Path, attributes: dict[str, float | None], step_mm: float, known: bool
    ) -> None:
        truth = phantom("oblique", (4.0, 2.0, 3.0)).volume
        one = Volume(truth.voxels[10:11], truth.affine, "HU")
        write_series(one, tmp_path / "s", SeriesIdentity())
        read = read_volume(edit_all(tmp_path / "s", **attributes))
        volume = read.volume
        assert volume.thickness_known == known
        assert read.notes == (() if known else (NO_THICKNESS,))
        np.testing.assert_array_equal(volume.voxels, one.voxels)
        np.testing.assert_allclose(volume.affine[:3, 1:], one.affine[:3, 1:], atol=1e-6)
        np.testing.assert_allclose(volume.affine[:3, 0], truth.affine[:3, 0] / 4.0 * step_mm, atol=1e-6)


class TestUnevenSlices:
    def test_a_missing_slice_is_told_and_every_other_keeps_its_place(
        self, folder: Path, small: Phantom
    ) -> None:
        read = read_volume(drop_slice(folder, 5))
        (note,) = read.notes
        assert "1 slice(s) missing: 16.00 mm between instance 5 and instance 7, usually 8.00 mm" in note
        kept = [index for index in range(small.volume.shape[0]) if index != 5]
        assert read.volume.slice_places == pytest.approx(kept)
        places = small.volume.to_lps_mm([(index, 7, 9) for index in kept])
        found = read.volume.to_lps_mm([(index, 7, 9) for index in range(len(kept))])
        np.testing.assert_allclose(found, places, atol=POSITION_MM)
        np.testing.assert_allclose(read.volume.to_indices(places)[:, 0], np.arange(len(kept)), atol=1e-6)
        assert_frames_are_in_slice_order(read)

    def test_three_missing_slices_are_counted(self, folder: Path) -> None:
        for _ in range(3):
            drop_slice(folder, 4)
        (note,) = read_volume(read_series(folder)).notes
        assert "3 slice(s) missing: 32.00 mm between instance 4 and instance 8" in note

    def test_a_wider_gap_separates_two_stacks(self, folder: Path) -> None:
        for _ in range(4):
            drop_slice(folder, 4)
        why = refusal(read_series(folder))
        assert "4 slice(s) missing: 40.00 mm between instance 4 and instance 9" in why
        assert "separates two stacks" in why

    def test_an_even_series_has_no_note(self, folder: Path) -> None:
        read = read_volume(read_series(folder))
        assert read.notes == ()
        assert read.volume.slice_places == ()

    def test_the_first_and_the_last_slice_may_be_missing(self, folder: Path, small: Phantom) -> None:
        drop_slice(folder, 0)
        read = read_volume(drop_slice(folder, -1))
        np.testing.assert_array_equal(read.volume.voxels, small.volume.voxels[1:-1])

    def test_a_slice_off_the_even_grid_keeps_its_place(self, folder: Path) -> None:
        x, y, z = dcmread(slice_paths(folder)[6]).ImagePositionPatient
        read = read_volume(change_slice(folder, 6, ImagePositionPatient=[x, y, float(z) + 2.0]))
        assert "uneven slice distance: 10.00 mm between instance 6 and instance 7" in read.notes[0]
        np.testing.assert_allclose(read.volume.to_lps_mm((6, 0, 0)), [x, y, float(z) + 2.0], atol=1e-6)

    def test_positions_rounded_by_a_scanner_are_accepted(self, folder: Path) -> None:
        x, y, z = dcmread(slice_paths(folder)[6]).ImagePositionPatient
        read_volume(change_slice(folder, 6, ImagePositionPatient=[x, y, float(z) + 0.05]))

    def test_a_slice_beside_the_others_is_refused(self, folder: Path) -> None:
        x, y, z = dcmread(slice_paths(folder)[6]).ImagePositionPatient
        why = refusal(change_slice(folder, 6, ImagePositionPatient=[float(x) + 3.0, y, z]))
        assert "instance 7 lies 3.00 mm beside the line" in why

    def test_slices_that_run_sideways_are_no_stack(self, tmp_path: Path) -> None:
        steep = phantom("axial", (8.0, 4.0, 4.0), tilt_degrees=60.0)
        assert "slices move sideways at 60 degrees" in refusal(write_phantom(steep, tmp_path / "s"))

    def test_images_side_by_side_in_one_plane_are_no_stack(self, folder: Path) -> None:
        x, y, z = dcmread(slice_paths(folder)[6]).ImagePositionPatient
        why = refusal(duplicate_slice(folder, 6, ImagePositionPatient=[float(x) + 50.0, y, z]))
        assert "lie beside each other in one plane" in why


class TestDuplicatePositions:
    @pytest.mark.parametrize(
        ("attributes", "words"),
        [
            ({"DiffusionBValue": 800.0}, "they differ in b-value"),
            ({"TemporalPositionIdentifier": 2}, "they differ in temporal position"),
            ({"EchoNumbers": 2, "EchoTime": 80}, "they differ in echo (EchoNumbers)"),
            ({"AcquisitionNumber": 2}, "they differ in acquisition number"),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "they differ in image type"),
            ({"AcquisitionTime": "101501"}, "they differ in acquisition time"),
            ({}, "no attribute tells them apart"),
        ],
    )
    def test_what_sets_slices_at_one_place_apart_is_named(
        self, folder: Path, attributes: dict[str, object], words: str
    ) -> None:
        why = refusal(duplicate_slice(folder, 3, **attributes))
        assert "1 duplicate slice positions, first instance 4, instance 4; " + words in why

    def test_siemens_private_b_values_are_recognised(self, folder: Path) -> None:
        for path, b_value in zip(slice_paths(folder), [b"50"] * 12, strict=True):
            dataset = dcmread(path)
            dataset.add_new((0x0019, 0x0010), "LO", "SIEMENS MR HEADER")
            dataset.add_new((0x0019, 0x100C), "IS", b_value.decode())
            save(dataset, path)
        duplicate_slice(folder, 2)
        dataset = dcmread(folder / "again0003.dcm")
        dataset[0x0019, 0x100C].value = "800"
        save(dataset, folder / "again0003.dcm")
        assert "they differ in b-value" in refusal(read_series(folder))

    def test_frames_of_two_time_points_are_refused_in_an_enhanced_object(
        self, tmp_path: Path, small: Phantom
    ) -> None:
        path = tmp_path / "e.dcm"
        order = [*range(12), *range(12)]
        dataset = enhanced_dataset(small.volume, SeriesIdentity(), order)
        for number, item in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            item.FrameContentSequence[0].TemporalPositionIndex = 1 + number // 12
        save(dataset, path)
        why = refusal(Series((read_instance(path),)))
        assert "12 duplicate slice positions, first frame 1, frame 13" in why
        assert "temporal position (TemporalPositionIndex)" in why


class TestMixedSeries:
    def test_two_orientations_are_named(self, tmp_path: Path, folder: Path) -> None:
        identity = SeriesIdentity(
            series_instance_uid=read_series(folder).series_instance_uid, series_number=2
        )
        coronal = phantom("coronal", (48.0, 3.0, 3.0), shapes=()).volume
        for number, path in enumerate(write_series(coronal, tmp_path / "localizer", identity)):
            dataset = dcmread(path)
            set_sop_instance_uid(dataset, f"1.2.3.{number}")
            dataset.FrameOfReferenceUID = read_series(folder).header.FrameOfReferenceUID
            dataset.StudyInstanceUID = read_series(folder).study_instance_uid
            save(dataset, folder / f"localizer{number}.dcm")
        why = refusal(read_series(folder))
        assert why.startswith("2 orientations in one series")
        assert "a localizer or another stack is mixed in" in why

    def test_two_pixel_spacings_are_refused(self, folder: Path) -> None:
        assert "2 pixel spacings in one series" in refusal(change_slice(folder, 4, PixelSpacing=[3.0, 4.1]))

    def test_two_image_sizes_are_refused(self, folder: Path) -> None:
        pixels = bytes(2 * 30 * 24)
        assert "2 image sizes in one series" in refusal(change_slice(folder, 4, Rows=30, PixelData=pixels))

    def test_two_frames_of_reference_are_refused(self, folder: Path) -> None:
        assert "2 frames of reference" in refusal(change_slice(folder, 4, FrameOfReferenceUID="1.2.3"))

    def test_two_multi_frame_objects_in_one_series_are_refused(self, tmp_path: Path, small: Phantom) -> None:
        identity = SeriesIdentity()
        write_enhanced(small.volume, tmp_path / "s" / "a.dcm", identity)
        second = enhanced_dataset(small.volume, identity)
        set_sop_instance_uid(second, "1.2.3")
        save(second, tmp_path / "s" / "b.dcm")
        assert "2 multi-frame instances among the 2 instances" in refusal(read_series(tmp_path / "s"))

    def test_frames_of_two_stacks_are_refused(self, tmp_path: Path, small: Phantom) -> None:
        dataset = enhanced_dataset(small.volume, SeriesIdentity())
        dataset.PerFrameFunctionalGroupsSequence[3].FrameContentSequence[0].StackID = "2"
        save(dataset, tmp_path / "e.dcm")
        assert "frames of 2 stacks (StackID 1, 2)" in refusal(Series((read_instance(tmp_path / "e.dcm"),)))

    def test_enhanced_objects_of_one_frame_each_make_a_volume(self, tmp_path: Path, small: Phantom) -> None:
        identity = SeriesIdentity()
        for index in range(12):
            dataset = enhanced_dataset(small.volume, identity, [index])
            set_sop_instance_uid(dataset, f"1.2.3.{index + 1}")
            save(dataset, tmp_path / "s" / f"{index}.dcm")
        assert_same_patient(read_volume(read_series(tmp_path / "s")), small.volume)


class TestNoPlaceInThePatient:
    def test_images_other_than_ultrasound_are_refused(self, tmp_path: Path) -> None:
        write_stills(tmp_path, list(ultrasound_phantom(2).grey))
        why = refusal(edit_all(tmp_path, Modality="XC"))
        assert "no ImagePositionPatient and no frame of reference" in why

    def test_a_loop_other_than_ultrasound_is_refused(self, tmp_path: Path) -> None:
        write_loop(tmp_path, ultrasound_phantom(5).grey)
        assert "5 frame(s) without functional groups" in refusal(edit_all(tmp_path, Modality="XA"))

    def test_colour_other_than_ultrasound_is_refused(self, tmp_path: Path) -> None:
        write_stills(tmp_path, [ultrasound_phantom().grey[0]], photometric="RGB")
        assert "colour image (PhotometricInterpretation RGB)" in refusal(edit_all(tmp_path, Modality="XC"))

    @pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
    def test_a_missing_attribute_is_named_with_its_instance(self, folder: Path, keyword: str) -> None:
        assert f"instance 3 has no {keyword}" in refusal(change_slice(folder, 2, **{keyword: None}))

    def test_zero_pixel_spacing_is_refused(self, folder: Path) -> None:
        assert "no positive PixelSpacing" in refusal(edit_all(folder, PixelSpacing=[0, 1]))

    def test_directions_that_are_not_perpendicular_are_refused(self, folder: Path) -> None:
        skew = [1, 0, 0, 0.5, 0.8660254, 0]
        assert "not two perpendicular unit vectors" in refusal(edit_all(folder, ImageOrientationPatient=skew))

    def test_a_position_of_two_numbers_is_refused(self, folder: Path) -> None:
        assert "ImagePositionPatient is not 3 finite numbers" in refusal(
            change_slice(folder, 2, ImagePositionPatient=[1, 2])
        )

    def test_messages_hold_neither_names_nor_paths(self, folder: Path) -> None:
        for _ in range(4):
            drop_slice(folder, 4)
        why = refusal(read_series(folder))
        assert "Phantom" not in why
        assert str(folder) not in why
        assert "PHANTOM-0001" not in why
