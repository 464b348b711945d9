"""Ultrasound without a place in the patient becomes grey values with the pixel size that it declares.

Real images are those of pydicom and pydicom-data; where these are not installed their tests are skipped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels.utils import iter_pixels

from dicomnode.errors import UnreadableSeries
from dicomnode.read.volumes import read_volume
from dicomnode.series_writer import SeriesIdentity
from dicomnode.study import Series, read_instance
from inference.volume import Clip, Volume
from tests.phantoms import read_series, save
from tests.phantoms.faults import change_slice, edit_all
from tests.phantoms.ultrasound import (
    COLUMNS,
    ROWS,
    SPACING_MM,
    region,
    ultrasound_dataset,
    ultrasound_phantom,
    write_loop,
    write_stills,
)

WHOLE = (0, 0, COLUMNS - 1, ROWS - 1)


def real(name: str) -> Volume:
    """A file of pydicom or pydicom-data as a volume."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("pydicom-data is not installed")
    return read_volume(Series((read_instance(Path(str(path))),))).volume


class TestImages:
    def test_a_still_is_one_slice_of_grey_values_without_a_place(self, tmp_path: Path) -> None:
        truth = ultrasound_phantom()
        read = read_volume(write_stills(tmp_path, list(truth.grey)))
        np.testing.assert_array_equal(read.volume.voxels, truth.grey)
        assert read.volume.voxels.dtype == np.int16
        assert (read.volume.has_geometry, read.volume.intensity_unit) == (False, "grey")
        assert read.frames[0].frame_number is None

    def test_stills_come_in_the_order_of_their_instance_number_each_a_clip_of_its_own(
        self, tmp_path: Path
    ) -> None:
        truth = ultrasound_phantom(3)
        write_stills(tmp_path, list(truth.grey))
        for index, number in enumerate((12, 7, 9)):
            change_slice(tmp_path, index, InstanceNumber=number)
        read = read_volume(read_series(tmp_path))
        np.testing.assert_array_equal(read.volume.voxels, truth.grey[[1, 2, 0]])
        assert read.volume.runs == (slice(0, 1), slice(1, 2), slice(2, 3))
        assert [frame.instance.header.InstanceNumber for frame in read.frames] == [7, 9, 12]

    def test_a_loop_is_one_clip_whose_slices_are_its_frames(self, tmp_path: Path) -> None:
        truth = ultrasound_phantom(5)
        read = read_volume(write_loop(tmp_path, truth.grey, spacing_mm=SPACING_MM))
        np.testing.assert_array_equal(read.volume.voxels, truth.grey)
        assert read.volume.runs == (slice(0, 5),)
        assert [frame.frame_number for frame in read.frames] == [1, 2, 3, 4, 5]

    def test_a_loop_of_one_frame_has_a_frame_number(self, tmp_path: Path) -> None:
        read = read_volume(write_loop(tmp_path, ultrasound_phantom().grey))
        assert [frame.frame_number for frame in read.frames] == [1]

    def test_stills_and_loops_of_one_series_are_read_together(self, tmp_path: Path) -> None:
        truth, identity = ultrasound_phantom(4), SeriesIdentity(modality="US")
        write_stills(tmp_path, [truth.grey[0]], identity)
        read = read_volume(write_loop(tmp_path, truth.grey, identity, index=1))
        assert read.volume.runs == (slice(0, 1), slice(1, 5))
        assert [frame.frame_number for frame in read.frames] == [None, 1, 2, 3, 4]

    def test_images_of_another_size_are_left_out_and_counted(self, tmp_path: Path) -> None:
        truth = ultrasound_phantom(3)
        images = [truth.grey[0], truth.grey[1, :40], truth.grey[2]]
        read = read_volume(write_stills(tmp_path, images))
        np.testing.assert_array_equal(read.volume.voxels, truth.grey[[0, 2]])
        assert read.notes == (
            "1 of 3 images of the series were not looked at: their size is not the 48 rows and 64 columns "
            "of the others.",
        )

    def test_a_series_of_one_size_has_nothing_to_note(self, tmp_path: Path) -> None:
        assert read_volume(write_stills(tmp_path, list(ultrasound_phantom(2).grey))).notes == ()


class TestPixels:
    @pytest.mark.parametrize("photometric", ["RGB", "PALETTE COLOR"])
    def test_colour_of_equal_channels_is_its_grey_value(self, tmp_path: Path, photometric: str) -> None:
        truth = ultrasound_phantom(2)
        read = read_volume(write_loop(tmp_path, truth.grey, photometric=photometric))
        np.testing.assert_array_equal(read.volume.voxels, truth.grey)

    @pytest.mark.parametrize(
        ("entry_type", "bits", "times"), [("u1", 8, 1), ("<u2", 8, 1), ("<u2", 16, 1), ("<u2", 16, 257)]
    )
    def test_palettes_of_eight_and_of_sixteen_bits_are_as_bright(
        self, tmp_path: Path, entry_type: str, bits: int, times: int
    ) -> None:
        truth = ultrasound_phantom()
        dataset = ultrasound_dataset(truth.grey, SeriesIdentity(modality="US"), photometric="PALETTE COLOR")
        table = (np.arange(255, -1, -1) * times).astype(entry_type).tobytes()
        for colour in ("Red", "Green", "Blue"):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
            setattr(dataset, f"{colour}PaletteColorLookupTableData", table)
        save(dataset, tmp_path / "palette.dcm")
        read = read_volume(read_series(tmp_path))
        np.testing.assert_array_equal(read.volume.voxels, truth.grey)

    def test_red_green_and_blue_weigh_as_in_bt_601(self, tmp_path: Path) -> None:
        dataset = ultrasound_dataset(ultrasound_phantom().grey, SeriesIdentity(modality="US"))
        pixels = np.zeros((ROWS, COLUMNS, 3), np.uint8)
        for channel in range(3):
            pixels[channel, :, channel] = 200
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        dataset.PhotometricInterpretation = "RGB"
        dataset.PixelData = pixels.tobytes()
        save(dataset, tmp_path / "rgb.dcm")
        voxels = read_volume(read_series(tmp_path)).volume.voxels[0]
        assert [int(value) for value in voxels[:4, 0]] == [60, 117, 23, 0]

    def test_monochrome1_is_turned_so_that_high_is_bright(self, tmp_path: Path) -> None:
        truth = ultrasound_phantom()
        write_stills(tmp_path, list(255 - truth.grey))
        read = read_volume(edit_all(tmp_path, PhotometricInterpretation="MONOCHROME1"))
        np.testing.assert_array_equal(read.volume.voxels, truth.grey)

    def test_stored_bits_that_are_not_the_lowest_are_refused(self, tmp_path: Path) -> None:
        truth = ultrasound_phantom()
        write_stills(tmp_path, list(truth.grey))
        wide = truth.grey.astype("<u2") << 8
        series = edit_all(tmp_path, BitsAllocated=16, BitsStored=12, HighBit=15, PixelData=wide.tobytes())
        with pytest.raises(UnreadableSeries, match="HighBit is 15 for 12 BitsStored instead of 11"):
            read_volume(series)

    def test_of_sixteen_bits_the_highest_eight_count(self, tmp_path: Path) -> None:
        truth = ultrasound_phantom()
        write_stills(tmp_path, list(truth.grey))
        wide = (truth.grey.astype("<u2") << 4) + 9
        read = read_volume(
            edit_all(tmp_path, BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=wide.tobytes())
        )
        np.testing.assert_array_equal(read.volume.voxels, truth.grey)

    @pytest.mark.parametrize(
        "attributes",
        [{"PhotometricInterpretation": "HSV"}, {"BitsStored": 1}, {"PixelRepresentation": 1}],
    )
    def test_other_pixels_are_refused(self, tmp_path: Path, attributes: dict[str, object]) -> None:
        write_stills(tmp_path, list(ultrasound_phantom().grey))
        with pytest.raises(UnreadableSeries, match="pixels for the screen"):
            read_volume(edit_all(tmp_path, **attributes))

    def test_a_loop_that_is_cut_off_is_refused(self, tmp_path: Path) -> None:
        truth = ultrasound_phantom(4)
        write_loop(tmp_path, truth.grey)
        with pytest.raises(UnreadableSeries, match="pixel data"):
            read_volume(edit_all(tmp_path, PixelData=truth.grey[:2].tobytes()))

    def test_what_is_no_image_is_refused(self, tmp_path: Path) -> None:
        write_stills(tmp_path, list(ultrasound_phantom().grey))
        with pytest.raises(UnreadableSeries, match="is not an image"):
            read_volume(edit_all(tmp_path, Rows=None))


class TestSpacing:
    def spacing(self, folder: Path, **attributes: object) -> tuple[float, float] | None:
        write_stills(folder, list(ultrasound_phantom().grey))
        return read_volume(edit_all(folder, **attributes)).volume.in_plane_spacing_mm

    def test_centimetres_of_the_region_become_millimetres_of_rows_and_columns(self, tmp_path: Path) -> None:
        series = write_stills(tmp_path, list(ultrasound_phantom().grey), spacings_mm=[SPACING_MM])
        assert read_volume(series).volume.in_plane_spacing_mm == pytest.approx(SPACING_MM)

    def test_without_regions_pixel_spacing_counts(self, tmp_path: Path) -> None:
        assert self.spacing(tmp_path, PixelSpacing=[0.3, 0.4]) == (0.3, 0.4)

    def test_without_either_nothing_is_known(self, tmp_path: Path) -> None:
        assert self.spacing(tmp_path) is None

    def test_a_region_that_is_not_in_centimetres_goes_before_pixel_spacing(self, tmp_path: Path) -> None:
        regions = [region(None, WHOLE)]
        assert self.spacing(tmp_path, PixelSpacing=[1, 1], SequenceOfUltrasoundRegions=regions) is None

    def test_two_images_side_by_side_must_agree(self, tmp_path: Path) -> None:
        left, right = (0, 0, 31, ROWS - 1), (32, 0, 63, ROWS - 1)
        same = [region(SPACING_MM, left), region(SPACING_MM, right)]
        other = [region(SPACING_MM, left), region((0.5, 0.5), right)]
        assert self.spacing(tmp_path / "a", SequenceOfUltrasoundRegions=same) == pytest.approx(SPACING_MM)
        assert self.spacing(tmp_path / "b", SequenceOfUltrasoundRegions=other) is None

    def test_colour_flow_over_the_image_counts_as_image(self, tmp_path: Path) -> None:
        regions = [region(SPACING_MM, WHOLE), region((0.5, 0.5), (10, 10, 20, 20), data_type=2)]
        assert self.spacing(tmp_path, SequenceOfUltrasoundRegions=regions) is None

    def test_regions_of_a_larger_original_do_not_hold(self, tmp_path: Path) -> None:
        regions = [region(SPACING_MM, (84, 31, 595, 414))]
        assert self.spacing(tmp_path, SequenceOfUltrasoundRegions=regions) is None

    def test_a_spacing_that_is_no_number_is_refused(self, tmp_path: Path) -> None:
        broken = region(SPACING_MM, WHOLE)
        broken.PhysicalDeltaX = float("nan")
        with pytest.raises(UnreadableSeries, match="PhysicalDeltaX is not a finite number"):
            self.spacing(tmp_path, SequenceOfUltrasoundRegions=[broken])

    def test_each_still_keeps_its_own_spacing(self, tmp_path: Path) -> None:
        spacings = [SPACING_MM, None, (0.1, 0.1)]
        volume = read_volume(
            write_stills(tmp_path, list(ultrasound_phantom(3).grey), spacings_mm=spacings)
        ).volume
        assert volume.in_plane_spacing_mm is None
        assert volume.pixel_spacing_at(0) == pytest.approx(SPACING_MM)
        assert volume.pixel_spacing_at(1) is None
        assert volume.pixel_spacing_at(2) == pytest.approx((0.1, 0.1))

    def test_a_spectrum_beside_the_image_is_black_and_does_not_count(self, tmp_path: Path) -> None:
        truth = ultrasound_phantom()
        write_stills(tmp_path, list(truth.grey))
        regions = [
            region(SPACING_MM, (0, 0, 63, 29)),
            region((9.0, 9.0), (0, 25, 63, 47), data_type=3, spatial_format=3),
        ]
        volume = read_volume(edit_all(tmp_path, SequenceOfUltrasoundRegions=regions)).volume
        assert volume.in_plane_spacing_mm == pytest.approx(SPACING_MM)
        np.testing.assert_array_equal(volume.voxels[0, :30], truth.grey[0, :30])
        assert not volume.voxels[0, 30:].any()


class TestClips:
    volume = Volume(np.zeros((4, 2, 2), np.int16), None, "grey")

    @pytest.mark.parametrize("starts", [(1,), (0, 0), (0, 4), (0, 3, 2)])
    def test_clips_that_do_not_follow_each_other_are_a_mistake(self, starts: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="clips must begin"):
            replace(self.volume, clips=tuple(Clip(start, None) for start in starts))

    def test_a_common_spacing_must_be_that_of_every_clip(self) -> None:
        with pytest.raises(ValueError, match="not that of every clip"):
            replace(self.volume, in_plane_spacing_mm=(1.0, 1.0), clips=(Clip(0, (1.0, 1.0)), Clip(2, None)))

    def test_a_volume_in_space_has_no_clips(self) -> None:
        with pytest.raises(ValueError, match="spacing follows"):
            replace(self.volume, affine_lps=np.eye(4), clips=(Clip(0, None),))


@pytest.mark.filterwarnings("ignore")
class TestRealImages:
    def test_a_loop_of_120_frames_in_jpeg_has_its_calibration(self) -> None:
        volume = real("color3d_jpeg_baseline.dcm")
        assert volume.shape == (120, 480, 640)
        assert volume.in_plane_spacing_mm == pytest.approx((0.510497, 0.510497), abs=1e-6)
        path = get_testdata_file("color3d_jpeg_baseline.dcm", download=False)
        other = next(iter_pixels(dcmread(str(path)), indices=[60], decoding_plugin="pillow"))
        grey = np.asarray(Image.fromarray(other).convert("L"), np.int16)
        assert np.abs(volume.voxels[60] - grey).max() <= 2, "another JPEG decoder, another rounding"

    def test_a_loop_that_was_made_smaller_has_no_calibration(self) -> None:
        volume = real("examples_ybr_color.dcm")
        assert volume.shape == (30, 240, 320)
        assert volume.in_plane_spacing_mm is None

    def test_the_callipers_of_a_palette_image_are_as_far_apart_as_it_says(self) -> None:
        volume = real("OBXXXX1A.dcm")
        assert volume.in_plane_spacing_mm is not None
        marks = np.array([[290.5, 459.0], [302.0, 498.5]])  # of the two crosses, read off the picture
        apart_mm = np.linalg.norm((marks[1] - marks[0]) * volume.in_plane_spacing_mm)
        assert apart_mm == pytest.approx(10.6, abs=0.4), "the screen says 1.06 cm"

    def test_palettes_are_the_same_in_every_transfer_syntax(self) -> None:
        plain = real("OBXXXX1A.dcm")
        for name in ("OBXXXX1A_expb.dcm", "OBXXXX1A_rle.dcm"):
            np.testing.assert_array_equal(real(name).voxels, plain.voxels)

    def test_jpeg_2000_in_colour_is_its_uncompressed_twin(self) -> None:
        np.testing.assert_array_equal(real("US1_J2KR.dcm").voxels, real("US1_UNCR.dcm").voxels)

    def test_luminance_is_that_of_pillow(self) -> None:
        path = get_testdata_file("examples_rgb_color.dcm", download=False)
        if path is None:
            pytest.skip("pydicom's own files are not installed")
        rgb = Image.fromarray(dcmread(str(path)).pixel_array)
        difference = real("examples_rgb_color.dcm").voxels[0] - np.asarray(rgb.convert("L"), np.int16)
        assert np.abs(difference).max() <= 1

    @pytest.mark.parametrize(
        ("name", "spacing_mm"),
        [("gdcm-US-ALOKA-16.dcm", 0.382653), ("JPGLosslessP14SV1_1s_1f_8b.dcm", 0.254767)],
    )
    def test_other_makes_are_read_too(self, name: str, spacing_mm: float) -> None:
        volume = real(name)
        assert volume.in_plane_spacing_mm == pytest.approx((spacing_mm, spacing_mm), abs=1e-6)
        assert volume.voxels.max() > 200
