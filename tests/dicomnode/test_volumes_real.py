"""Every real series of the shared data, and pydicom's own test files: a volume or the exact reason.

The shared data lie beside the repository; without them those tests are skipped. SimpleITK is the
judge of values and places, except where it cannot be: it reads padding as it is stored, ignores
gantry tilt, and takes the slice distance of single slices elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its own manual calls it so
from pydicom.data import get_testdata_file
from pydicom.errors import InvalidDicomError
from scipy import ndimage

from dicomnode.errors import UnreadableSeries
from dicomnode.read.volumes import read_volume
from dicomnode.study import Instance, Series, SourceVolume, group_studies, read_instance

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"

needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
pytestmark = pytest.mark.filterwarnings("ignore")  # real headers make pydicom talk


@dataclass(frozen=True)
class Expected:
    """What becomes of one series: a shape (slice, row, column) with spacing and unit, or a refusal."""

    folder: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    unit: str = "arbitrary"
    dtype: str = "int16"
    refusal: str = ""
    note: str = ""
    number: int = 0
    """Which series of the folder, by SeriesNumber."""


ROBUSTNESS = "dicom_robustness"
FAILING = "dicom_robustness/icometrix_failing"
PROSTATE = "dicom_mr_prostate/ProstateX-0000"
CT = "dicom_ct_single_slices/A002304"
COMPRESSED = [f"{ROBUSTNESS}/icometrix_mr_compressed_{name}/001" for name in ("j2k", "jpeg", "jpegls", "rle")]

EXPECTED = (
    Expected(
        f"{ROBUSTNESS}/ct_ge_gantry_tilt_variable_spacing",
        (28, 512, 512),
        (4.22, 0.48828, 0.48828),
        "HU",
        note="uneven slice distance: 7.00 mm between instance 16 and instance 17, usually 4.00 mm "
        "(14 of 27 distances differ)",
    ),
    Expected(f"{FAILING}/gantrytilting/001", (4, 512, 512), (5.0, 0.41797, 0.41797), "HU"),
    Expected(
        f"{FAILING}/notavolume/001",
        refusal="3 duplicate slice positions, first instance 23, instance 24, instance 25, instance 26; "
        "they differ in acquisition number",
    ),
    Expected(
        f"{FAILING}/sliceincrement/001",
        (4, 512, 512),
        (5.0, 0.429688, 0.429688),
        "HU",
        note="1 slice(s) missing: 10.00 mm between instance 9 and instance 10, usually 5.00 mm",
    ),
    Expected(
        f"{FAILING}/sliceincrement/002",
        (4, 512, 512),
        (0.778, 0.511719, 0.511719),
        "HU",
        note="1 slice(s) missing: 1.50 mm between instance 3 and instance 5, usually 0.75 mm",
    ),
    Expected(f"{FAILING}/sliceorientation/001", refusal="2 orientations in one series"),
    Expected(
        f"{ROBUSTNESS}/icometrix_mr_4d_philips",
        refusal="6 duplicate slice positions, first instance 50, instance 51, instance 52, instance 53; "
        "no attribute tells them apart",
    ),
    *(Expected(folder, (4, 256, 256), (1.0, 1.0, 1.0)) for folder in COMPRESSED),
    Expected(f"{ROBUSTNESS}/icometrix_mr_enhanced_hyperfine", (8, 138, 112), (5.0, 1.61, 1.59)),
    Expected(f"{ROBUSTNESS}/icometrix_mr_enhanced_philips", (8, 256, 256), (1.2, 1.0, 1.0), dtype="float32"),
    Expected(f"{ROBUSTNESS}/icometrix_mr_enhanced_siemens", (8, 256, 256), (0.9, 0.9375, 0.9375)),
    Expected(f"{ROBUSTNESS}/icometrix_mr_nonsquare_pixels", (4, 28, 64), (0.5, 4.0, 6.4), dtype="float32"),
    Expected(
        f"{ROBUSTNESS}/icometrix_mr_rgb_secondary_capture/001",
        refusal="instance 42 is a colour image (PhotometricInterpretation RGB)",
    ),
    Expected(f"{ROBUSTNESS}/icometrix_mr_single_slice", (1, 256, 256), (1.0, 1.0, 1.0)),
    Expected(f"{PROSTATE}/4.000000-t2tsetra-00702", (19, 384, 384), (3.0, 0.5, 0.5)),
    Expected(
        f"{PROSTATE}/6.000000-ep2ddifftraDYNDIST-69284",
        refusal="38 duplicate slice positions, first instance 38, instance 19, instance 57; "
        "they differ in b-value",
    ),
    Expected(f"{PROSTATE}/7.000000-ep2ddifftraDYNDISTADC-48780", (19, 128, 84), (3.0, 2.0, 2.0)),
    Expected(
        f"{PROSTATE}_missing-slice/8.000000-ep2ddifftraDYNDISTCALCBVAL-83202",
        (18, 128, 84),
        (3.0, 2.0, 2.0),
        note="1 slice(s) missing: 6.00 mm between instance 7 and instance 5, usually 3.00 mm",
    ),
    Expected("dicom_mr_gbm/PGBM-003/FLAIRreg", (22, 320, 280), (6.5, 0.6875, 0.6875)),
    Expected("dicom_mr_gbm/PGBM-003/T1post", (22, 320, 280), (6.5, 0.6875, 0.6875)),
    Expected("dicom_mr_gbm_PGBM-006_T1post", (24, 512, 512), (6.5, 0.4297, 0.4297)),
    Expected(f"{CT}/axial", (1, 512, 512), (1.25, 0.640625, 0.640625), "HU", number=0),
    Expected(f"{CT}/axial", (1, 512, 512), (2.5, 0.826172, 0.826172), "HU", number=1),
    Expected(f"{CT}/coronal", (1, 512, 512), (1.25, 0.632381, 0.632381), "HU", number=0),
    Expected(f"{CT}/coronal", (1, 512, 512), (3.0, 1.322021, 1.322021), "HU", number=1),
    Expected(f"{CT}/sagittal", (1, 512, 512), (3.0, 1.322021, 1.322021), "HU", number=0),
    Expected(f"{CT}/sagittal", (1, 512, 512), (1.25, 0.644527, 0.644527), "HU", number=1),
)
READABLE = [expected for expected in EXPECTED if expected.shape]
UNREADABLE = [expected for expected in EXPECTED if not expected.shape]
TILTED = f"{FAILING}/gantrytilting/001"


def case_name(expected: Expected) -> str:
    return f"{expected.folder}-{expected.number}"


def instances_in(folder: Path) -> Iterator[Instance]:
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            yield read_instance(path)
        except InvalidDicomError:
            continue


def series_in(folder: str, number: int = 0) -> Series:
    found = [series for study in group_studies(instances_in(SHARED / folder)) for series in study.series]
    return found[number]


def sitk_values_and_affine(read: SourceVolume) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float64]]:
    """The same files in the same order through ITK's reader; axes (slice, row, column), LPS mm."""
    files = [str(frame.instance.path) for frame in read.frames]
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(files[0] if read.frames[0].frame_number else files)
    columns = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3] = columns[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine


@needs_shared_data
def test_the_table_names_every_series_of_the_shared_data() -> None:
    sets = ("dicom_robustness", "dicom_mr_prostate", "dicom_mr_gbm", "dicom_mr_gbm_PGBM-006_T1post")
    roots = [SHARED / name for name in (*sets, "dicom_ct_single_slices")]
    folders = {path.parent for root in roots for path in root.rglob("*") if path.is_file()}
    found = sorted(
        str(folder.relative_to(SHARED))
        for folder in folders
        for study in group_studies(instances_in(folder))
        for _ in study.series
    )
    assert found == sorted(expected.folder for expected in EXPECTED)


@needs_shared_data
@pytest.mark.parametrize("expected", READABLE, ids=case_name)
def test_a_real_series_becomes_a_volume_of_known_grid_and_unit(expected: Expected) -> None:
    read = read_volume(series_in(expected.folder, expected.number))
    volume = read.volume
    assert volume.shape == expected.shape
    assert expected.note in "".join(read.notes)
    assert bool(volume.slice_places) == bool(expected.note)
    assert volume.spacing_mm == pytest.approx(expected.spacing_mm, rel=1e-4)
    assert volume.intensity_unit == expected.unit
    assert volume.voxels.dtype == expected.dtype


@needs_shared_data
@pytest.mark.parametrize("expected", UNREADABLE, ids=case_name)
def test_a_real_series_is_refused_for_its_exact_reason(expected: Expected) -> None:
    with pytest.raises(UnreadableSeries) as caught:
        read_volume(series_in(expected.folder, expected.number))
    assert expected.refusal in str(caught.value)


@needs_shared_data
@pytest.mark.parametrize("expected", READABLE, ids=case_name)
def test_values_and_places_of_a_real_series_are_those_of_simpleitk(expected: Expected) -> None:
    read = read_volume(series_in(expected.folder, expected.number))
    values, affine = sitk_values_and_affine(read)
    if read.volume.intensity_unit == "HU":
        values = np.maximum(values, -1024)  # declared padding, see read_voxels
    assert float(np.abs(read.volume.voxels - values.astype(np.float64)).max()) < 1e-4
    np.testing.assert_allclose(read.volume.affine[:3, 1:], affine[:3, 1:], atol=1e-5)
    if len(read.frames) > 1 and expected.folder != TILTED and not expected.note:
        np.testing.assert_allclose(read.volume.affine[:3, 0], affine[:3, 0], atol=1e-4)  # rounded positions


@needs_shared_data
@pytest.mark.parametrize("expected", READABLE, ids=case_name)
def test_every_slice_of_a_real_series_lies_where_its_header_says(expected: Expected) -> None:
    read = read_volume(series_in(expected.folder, expected.number))
    if read.frames[0].frame_number is not None:
        pytest.skip("positions of enhanced objects are compared with SimpleITK's")
    for index, frame in enumerate(read.frames):
        position = np.array([float(value) for value in frame.instance.header.ImagePositionPatient])
        np.testing.assert_allclose(read.volume.to_lps_mm((index, 0, 0)), position, atol=1e-3)


@needs_shared_data
def test_gantry_tilt_keeps_the_table_direction_and_the_true_voxel_volume() -> None:
    volume = read_volume(series_in(TILTED)).volume
    np.testing.assert_allclose(volume.affine[:3, 0], [0.0, 0.0, 5.0], atol=1e-6)
    expected_mm3 = 5.0 * 0.970295726276 * 0.41796875**2  # cosine of the 14 degrees in the header
    assert volume.voxel_volume_mm3 == pytest.approx(expected_mm3, rel=1e-6)


@needs_shared_data
@pytest.mark.parametrize("folder", COMPRESSED)
def test_compressed_variants_of_the_same_slices_have_the_same_values(folder: str) -> None:
    volume, reference = (read_volume(series_in(name)).volume for name in (folder, COMPRESSED[-1]))
    np.testing.assert_array_equal(volume.voxels, reference.voxels)
    np.testing.assert_array_equal(volume.affine, reference.affine)


@needs_shared_data
def test_a_tumour_outlined_on_the_dicom_grid_is_found_at_its_place_and_size() -> None:
    """PGBM-006: its mask was put on the grid of the real oblique series by other hands (README there)."""
    path = SHARED / "mr_glioblastoma_t1post_3d/PGBM-006/t2_mask_on_dicom_grid.nii.gz"
    volume = read_volume(series_in("dicom_mr_gbm_PGBM-006_T1post")).volume
    image = nibabel.load(path)
    mask = np.asarray(image.dataobj) > 0  # NIfTI: (column, row, slice) and RAS
    indices = np.argwhere(mask)
    places_ras = indices @ image.affine[:3, :3].T + image.affine[:3, 3]
    places_lps = places_ras * np.array([-1.0, -1.0, 1.0])
    to_index = np.linalg.inv(volume.affine)
    ours = places_lps @ to_index[:3, :3].T + to_index[:3, 3]
    np.testing.assert_allclose(ours, np.rint(ours), atol=0.01)
    assert len(indices) * volume.voxel_volume_mm3 == pytest.approx(16_509, rel=1e-3)
    slices, rows, columns = np.rint(ours).astype(int).T
    inside = np.zeros(volume.shape, np.bool_)
    inside[slices, rows, columns] = True
    shell = ndimage.binary_dilation(inside, np.ones((1, 21, 21), np.bool_)) & ~inside
    assert volume.voxels[inside].mean() > 1.2 * volume.voxels[shell].mean(), "a tumour takes up contrast"


BUNDLED_EXPECTED = {
    "CT_small.dcm": "",
    "MR_small_RLE.dcm": "",
    "MR_small_jp2klossless.dcm": "",
    "MR_small_jpeg_ls_lossless.dcm": "",
    "MR_small_bigendian.dcm": "",
    "MR_truncated.dcm": "pixel data of instance 1 cannot be decoded",
    "emri_small.dcm": "10 frame(s) without functional groups",
    "rtdose.dcm": "15 frame(s) without functional groups",
    "SC_rgb_jpeg.dcm": "colour image",
    "JPEG-LL.dcm": "no ImagePositionPatient",
    "JPEG2000.dcm": "no ImagePositionPatient",
    "liver_1frame.dcm": "1 frame(s) but functional groups for 3",
    "test-SR.dcm": "is not an image (no Rows and Columns)",
    "waveform_ecg.dcm": "is not an image",
    "rtplan_truncated.dcm": "an element claims 976 bytes where 711 are left: it is cut off",
    "badVR.dcm": "NumberOfFrames is not a number from 1 to",
}


@pytest.mark.parametrize("name", BUNDLED_EXPECTED)
def test_a_bundled_file_of_pydicom_becomes_a_volume_or_is_refused(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not installed")
    if not BUNDLED_EXPECTED[name]:
        series = Series((read_instance(Path(str(path))),))
        assert read_volume(series).volume.shape[0] == 1
        return
    with pytest.raises((InvalidDicomError, UnreadableSeries)) as caught:
        read_volume(Series((read_instance(Path(str(path))),)))
    assert BUNDLED_EXPECTED[name] in str(caught.value)


def test_the_same_slice_in_every_transfer_syntax_has_the_same_values() -> None:
    names = ("MR_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE", "MR_small_jp2klossless")
    volumes = [
        read_volume(Series((read_instance(BUNDLED / f"{name}.dcm"),))).volume
        for name in (*names, "MR_small_jpeg_ls_lossless")
    ]
    for volume in volumes:
        np.testing.assert_array_equal(volume.voxels, volumes[0].voxels)
        np.testing.assert_array_equal(volume.affine, volumes[0].affine)


@pytest.mark.parametrize(("image", "unit"), [("693", "HU"), ("MR2", "arbitrary")])
@pytest.mark.parametrize(("compressed", "plain", "tolerance"), [("J2KR", "UNCR", 0), ("J2KI", "UNCI", 1)])
def test_jpeg_2000_decodes_to_its_uncompressed_twin(
    image: str, unit: str, compressed: str, plain: str, tolerance: int
) -> None:
    """J2KR is lossless. UNCI was decoded from the irreversible J2KI by another decoder."""
    paths = [get_testdata_file(f"{image}_{kind}.dcm", download=False) for kind in (compressed, plain)]
    if None in paths:
        pytest.skip("pydicom-data is not installed")
    volumes = [read_volume(Series((read_instance(Path(str(path))),))).volume for path in paths]
    assert volumes[0].intensity_unit == unit
    assert np.abs(volumes[0].voxels.astype(float) - volumes[1].voxels).max() <= tolerance


def test_every_bundled_file_is_a_volume_or_a_refusal_and_nothing_else() -> None:
    roots = [BUNDLED]
    extra = get_testdata_file("693_UNCR.dcm", download=False)
    roots += [Path(str(extra)).parents[1]] if extra and BUNDLED not in Path(str(extra)).parents else []
    volumes = refusals = 0
    for path in sorted(path for root in roots for path in root.rglob("*") if path.is_file()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_volume(Series((read_instance(path),)))
                volumes += 1
            except (InvalidDicomError, UnreadableSeries):
                refusals += 1
    assert volumes > 20
    assert refusals > 50
