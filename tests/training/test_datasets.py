"""Every layout of a data set: what is read, where it lies, and what is refused by name."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomnode.selftest.volumes import Orientation, Phantom, phantom
from tests.phantoms.dicom import write_phantom
from tests.training.crops import AFFINE_RAS, write_crops
from training.cases import Case, DataSet, LoadedCase, digest, of_split
from training.datasets.catalogue import FORMATS, open_dataset
from training.datasets.files import to_lps
from training.datasets.lidc import LidcCrops
from training.datasets.splits import split_by_group
from training.errors import DataError

SHARED = (Path(__file__).parents[2] / "../shared/data").resolve()
SHAPE = (4, 12, 16)
Array = np.ndarray[Any, Any]


def image_of(shape: tuple[int, int, int], seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(np.uint8)


def block(shape: tuple[int, int, int], value: int = 1) -> Array:
    """`value` in rows 3 to 5, columns 8 to 12 of every slice."""
    mask = np.zeros(shape, np.uint8)
    mask[:, 3:6, 8:13] = value
    return mask


def save(path: Path, voxels: Array, affine_ras: Array = AFFINE_RAS) -> None:
    """(slice, row, column) as PNG, NIfTI or NRRD by the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(voxels[0]).save(path)
    elif path.suffix == ".nrrd":
        directions = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_ras)[:3]
        header = {
            "space": "left-posterior-superior",
            "space directions": directions[:, :3].T,
            "space origin": directions[:, 3],
        }
        nrrd.write(str(path), np.ascontiguousarray(voxels.transpose(2, 1, 0)), header)
    else:
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine_ras), path)


def manifest(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.csv").write_text(text, encoding="utf-8")
    return folder


def write_busi(folder: Path) -> Path:
    kinds = (("benign_1", "train", "g1"), ("malignant_1", "test", "g2"), ("normal_1", "val", "g3"))
    for name, _, _ in kinds:
        save(folder / "images" / f"{name}.png", image_of((1, 12, 16)))
        save(folder / "masks" / f"{name}.png", block((1, 12, 16), 0 if "normal" in name else 255))
    lines = [f"{name},{split},{name.split('_')[0]},{group}" for name, split, group in kinds]
    return manifest(folder, "case,split,cls,group\n" + "\n".join(lines))


def write_hippocampus(folder: Path) -> Path:
    for number in (1, 2, 3, 4):
        truth = block(SHAPE)
        truth[2:] *= 2
        save(folder / "images" / f"h_{number}.nii.gz", image_of(SHAPE, number))
        save(folder / "labels" / f"h_{number}.nii.gz", truth)
    return manifest(folder, "case,subject,split\nh_1,s1,train\nh_2,s1,train\nh_3,s2,val\nh_4,s3,test\n")


def write_brain_slices(folder: Path) -> Path:
    lines = ["image,mask,tumour,plane,patient_proxy,split,nominal_pixel_mm"]
    for number, plane, split in (
        (1, "axial", "train"),
        (2, "axial", "val"),
        (3, "axial", "test"),
        (4, "coronal", "orientation_coronal"),
        (5, "sagittal", "orientation_sagittal"),
    ):
        save(folder / "images" / f"s_{number}.png", image_of((1, 12, 16), number))
        save(folder / "masks" / f"s_{number}.png", block((1, 12, 16), 255))
        run = f"run{number}" if plane == "axial" else ""
        lines.append(f"images/s_{number}.png,masks/s_{number}.png,glioma,{plane},{run},{split},0.49")
    return manifest(folder, "\n".join(lines))


def write_glioblastoma(folder: Path) -> Path:
    lines = ["patient,timepoint,image,mask,split,geometry_known"]
    for patient, split in (("P1", "train"), ("P2", "val"), ("P3", "test")):
        for date in (1, 2):
            names = [f"{patient}/t{date}_{part}.nii.gz" for part in ("t1post", "mask")]
            save(folder / names[0], image_of(SHAPE, date))
            save(folder / names[1], block(SHAPE))
            lines.append(f"{patient},{date},{names[0]},{names[1]},{split},{'yes' if date == 2 else 'no'}")
    return manifest(folder, "\n".join(lines))


def write_pairs(folder: Path) -> Path:
    lines = ["case,group,split,image,mask,stratum,pixel_mm"]
    for number, (split, kind) in enumerate((("train", "nii.gz"), ("val", "nrrd"), ("test", "png"))):
        shape = (1, 12, 16) if kind == "png" else SHAPE
        save(folder / f"i{number}.{kind}", image_of(shape).astype(np.uint8 if kind == "png" else np.int16))
        save(folder / f"m{number}.{kind}", block(shape))
        lines.append(f"c{number},g{number},{split},i{number}.{kind},m{number}.{kind},{kind},")
    return manifest(folder, "\n".join(lines))


LAYOUTS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "lidc-crops": (write_crops, {}),
    "busi": (write_busi, {}),
    "hippocampus": (write_hippocampus, {}),
    "brain-slices": (write_brain_slices, {}),
    "glioblastoma": (write_glioblastoma, {}),
    "pairs": (write_pairs, {"intensity_unit": "arbitrary"}),
}
UNITS = {"lidc-crops": "HU", "busi": "grey"}
every_layout = pytest.mark.parametrize("name", LAYOUTS)


def change_manifest(folder: Path, column: str, value: str) -> None:
    """`value` in one column of every line."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [{**row, column: value} for row in csv.DictReader(file)]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def opened(name: str, folder: Path) -> DataSet:
    write, options = LAYOUTS[name]
    return open_dataset(name, write(folder), options)


def load(data: DataSet, name: str) -> LoadedCase:
    (case,) = (case for case in data.cases() if case.name == name)
    return data.load(case)


def pairs(folder: Path, lines: str, unit: str = "arbitrary", **options: Any) -> DataSet:
    return open_dataset("pairs", manifest(folder, lines), {"intensity_unit": unit, **options})


# Every layout


def test_every_format_of_the_catalogue_is_tried_here() -> None:
    assert set(FORMATS) == set(LAYOUTS)


@every_layout
def test_every_case_loads_in_its_unit_with_its_truth(name: str, tmp_path: Path) -> None:
    data = opened(name, tmp_path / "data")
    assert all(of_split(data.cases(), split) for split in ("train", "val", "test"))
    for case in data.cases():
        loaded = data.load(case)
        assert loaded.volume.intensity_unit == UNITS.get(name, "arbitrary")
        assert loaded.volume.voxels.min() < loaded.volume.voxels.max()
        assert loaded.truth.any() == (case.stratum != "normal")
        if name != "lidc-crops":
            assert not loaded.ignored.any()
            assert (loaded.truth > 0).sum() in (0, block(loaded.volume.shape).sum())


@every_layout
@pytest.mark.parametrize("which", [0, -1], ids=["image", "mask"])
def test_a_missing_file_is_named(name: str, which: int, tmp_path: Path) -> None:
    data = opened(name, tmp_path / "data")
    path = data.files(data.cases()[0])[which]
    path.unlink()
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        data.load(data.cases()[0])


@every_layout
@pytest.mark.parametrize("which", [0, -1], ids=["image", "mask"])
def test_a_file_cut_off_in_transfer_is_named(name: str, which: int, tmp_path: Path) -> None:
    data = opened(name, tmp_path / "data")
    for case in data.cases():
        path = data.files(case)[which]
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        with pytest.raises(DataError, match=f"{path} cannot be read"):
            data.load(case)


@every_layout
def test_a_mask_of_another_size_is_refused(name: str, tmp_path: Path) -> None:
    data = opened(name, tmp_path / "data")
    for case in data.cases():
        slices, rows, columns = data.load(case).volume.shape
        save(data.files(case)[-1], block((slices, rows, columns + 1)))
        with pytest.raises(DataError, match=rf"the shape \({slices}, {rows}, {columns + 1}\), its image"):
            data.load(case)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "pairs"])
def test_a_mask_value_that_is_no_label_is_refused(name: str, tmp_path: Path) -> None:
    data = opened(name, tmp_path / "data")
    case = data.cases()[0]
    save(data.files(case)[-1], block(data.load(case).volume.shape, 7))
    with pytest.raises(DataError, match="holds the value 7, which is no label; allowed: 0, 1"):
        data.load(case)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("lidc-crops", "patient"),
        ("busi", "group"),
        ("hippocampus", "subject"),
        ("brain-slices", "patient_proxy"),
        ("pairs", "group"),
    ],
)
def test_a_group_in_two_splits_is_refused_by_name(name: str, column: str, tmp_path: Path) -> None:
    folder = opened(name, tmp_path / "data").folder
    change_manifest(folder, column, "SAME")
    with pytest.raises(DataError, match="more than one split: SAME; keep each in one"):
        open_dataset(name, folder, LAYOUTS[name][1]).cases()


def test_two_dates_of_a_patient_in_two_splits_are_refused(tmp_path: Path) -> None:
    folder = write_glioblastoma(tmp_path)
    text = (folder / "manifest.csv").read_text()
    manifest(folder, text.replace("t2_mask.nii.gz,train", "t2_mask.nii.gz,test"))
    with pytest.raises(DataError, match="more than one split: P1"):
        open_dataset("glioblastoma", folder, {}).cases()


@every_layout
def test_a_column_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    folder = manifest(tmp_path, "number\n1\n")
    with pytest.raises(DataError, match=r"lacks the columns .*(case|image|patient).*; it has number"):
        open_dataset(name, folder, LAYOUTS[name][1]).cases()


@every_layout
def test_the_digest_changes_with_one_byte_of_one_file(name: str, tmp_path: Path) -> None:
    data = opened(name, tmp_path / "data")
    cases = data.cases()
    before = digest(data, cases)
    assert digest(data, cases[::-1]) == before
    path = data.files(cases[-1])[-1]
    path.write_bytes(path.read_bytes() + b"\0")
    assert digest(data, cases) != before


# Manifests and names


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("a,later,P1", "line 2: split 'later' is none of train, val, test"),
        ("a,train,P1\nb,train,", "line 3 lacks patient; fill it in"),
        ("a,train,P1\na,train,P1", "lists cases twice: a"),
        ("", "lists no cases"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_reason(lines: str, complaint: str, tmp_path: Path) -> None:
    manifest(tmp_path, f"case,split,patient\n{lines}\n")
    with pytest.raises(DataError, match=complaint):
        LidcCrops(tmp_path).cases()


def test_a_missing_folder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent/manifest.csv cannot be read .* give the folder"):
        LidcCrops(tmp_path / "absent").cases()


def test_a_manifest_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = "\ufeffcase,split,patient\r\na, train ,P1\r\n"
    (tmp_path / "manifest.csv").write_bytes(text.encode())
    assert LidcCrops(tmp_path).cases() == [Case("a", "P1", "train")]


def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes("case,split,patient\nM\xfcller,train,P1\n".encode("latin-1"))
    with pytest.raises(DataError, match="no CSV file in UTF-8"):
        LidcCrops(tmp_path).cases()


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("jpeg", {}, "'jpeg' is not known; known are lidc-crops, busi, hippocampus"),
        ("lidc-crops", {"raters": 2}, "no option raters; its options are raters_needed"),
        ("busi", {"size": 2}, "no option size; its options are none"),
        ("lidc-crops", {"raters_needed": 5}, "raters_needed is 5; give a number from 1 to 4"),
        ("brain-slices", {"planes": ["oblique"]}, "give one or more of axial, coronal, sagittal"),
        ("brain-slices", {"planes": []}, "give one or more of axial, coronal, sagittal"),
        ("pairs", {}, "missing 1 required .* 'intensity_unit'; its options are intensity_unit, split_seed"),
        ("pairs", {"intensity_unit": "Gray"}, "intensity_unit is 'Gray'; give one of HU, arbitrary, grey"),
        ("pairs", {"intensity_unit": "HU", "split_seed": -1}, "split_seed is -1"),
    ],
)
def test_unknown_formats_and_options_are_refused_with_the_known_ones(
    name: str, options: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=complaint):
        open_dataset(name, tmp_path, options)


# One layout each


def test_nifti_position_becomes_the_same_point_in_lps() -> None:
    affine_ras = np.array([[-0.7, 0, 0, -11.0], [0, -0.6, 0.1, -40.0], [0, 0, 2.5, -125.0], [0, 0, 0, 1.0]])
    column, row, index = 10, 20, 3
    ras = affine_ras @ [column, row, index, 1]
    assert np.allclose(to_lps(affine_ras) @ [index, row, column, 1], ras * [-1, -1, 1, 1])


def test_rows_and_columns_of_a_crop_fit_its_geometry(tmp_path: Path) -> None:
    loaded = load(LidcCrops(write_crops(tmp_path / "crops")), "CASE_0")
    assert loaded.volume.shape == (5, 40, 48)
    assert loaded.volume.spacing_mm == pytest.approx((2.5, 0.7, 0.7))
    assert loaded.volume.voxels.dtype == np.int16
    assert np.argwhere(loaded.mask(1)).mean(axis=0) == pytest.approx([2, 12, 30])
    assert loaded.volume.voxels[loaded.mask(1)].mean() > -100


def test_a_region_too_few_readers_saw_is_ignored_and_a_border_is_not(tmp_path: Path) -> None:
    folder = write_crops(tmp_path / "crops", ("train",))
    raters = np.zeros((5, 40, 48), np.uint8)
    raters[1:4, 10:20, 10:20] = 1
    raters[1:4, 12:18, 12:18] = 3
    raters[2, 30:33, 30:33] = 1
    save(folder / "CASE_0" / "raters.nii.gz", raters)
    loaded = load(LidcCrops(folder), "CASE_0")
    assert loaded.truth.sum() == 6 * 6 * 3
    assert loaded.ignored.sum() == 9
    assert load(LidcCrops(folder, raters_needed=1), "CASE_0").truth.sum() == 10 * 10 * 3 + 9
    assert load(LidcCrops(folder, raters_needed=4), "CASE_0").ignored.sum() == 10 * 10 * 3 + 9


@pytest.mark.parametrize("name", ["lidc-crops", "hippocampus", "glioblastoma", "pairs"])
def test_a_truth_elsewhere_in_the_patient_is_refused(name: str, tmp_path: Path) -> None:
    data = opened(name, tmp_path / "data")
    case = data.cases()[0]
    moved = AFFINE_RAS.copy()
    moved[0, 3] += 0.7
    save(data.files(case)[-1], block(data.load(case).volume.shape), moved)
    with pytest.raises(DataError, match="lie on different grids; resample"):
        data.load(case)


def test_ultrasound_has_one_slice_and_no_millimetres(tmp_path: Path) -> None:
    loaded = load(opened("busi", tmp_path), "malignant_1")
    assert loaded.volume.shape == (1, 12, 16)
    assert loaded.volume.affine_lps is None and loaded.volume.in_plane_spacing_mm is None
    assert loaded.truth.max() == 1
    assert loaded.case == Case("malignant_1", "g2", "test", "malignant")


def test_both_files_of_a_subject_are_in_one_group(tmp_path: Path) -> None:
    data = opened("hippocampus", tmp_path)
    assert [case.group for case in of_split(data.cases(), "train")] == ["s1", "s1"]
    assert np.unique(load(data, "h_3").truth).tolist() == [0, 1, 2]


def test_brain_slices_know_their_pixel_size_and_not_their_place(tmp_path: Path) -> None:
    volume = load(opened("brain-slices", tmp_path), "s_1").volume
    assert volume.affine_lps is None and volume.in_plane_spacing_mm == (0.49, 0.49)


def test_other_planes_are_only_for_testing_and_only_when_asked_for(tmp_path: Path) -> None:
    folder = write_brain_slices(tmp_path)
    axial = open_dataset("brain-slices", folder, {}).cases()
    other = open_dataset("brain-slices", folder, {"planes": ["coronal", "sagittal"]}).cases()
    assert [case.name for case in axial] == ["s_1", "s_2", "s_3"]
    assert [(case.name, case.split) for case in other] == [("s_4", "test"), ("s_5", "test")]


def test_each_date_of_a_glioblastoma_is_a_case_of_one_patient(tmp_path: Path) -> None:
    data = opened("glioblastoma", tmp_path)
    assert data.cases()[:2] == [
        Case("P1-t1", "P1", "train", "voxels"),
        Case("P1-t2", "P1", "train", "millimetres"),
    ]
    assert load(data, "P1-t2").volume.spacing_mm == pytest.approx((2.5, 0.7, 0.7))


# Pairs


def test_nifti_and_nrrd_of_one_image_are_the_same_volume(tmp_path: Path) -> None:
    data = opened("pairs", tmp_path)
    nifti, other, png = (data.load(case) for case in data.cases())
    assert np.allclose(nifti.volume.affine, other.volume.affine)
    assert np.array_equal(nifti.volume.voxels, other.volume.voxels)
    assert np.array_equal(nifti.truth, other.truth)
    assert png.volume.affine_lps is None


def test_the_pixel_size_of_a_png_is_taken_and_that_of_another_file_is_not(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    header = "case,group,split,image,mask,pixel_mm\n"
    data = pairs(tmp_path, header + "a,1,train,i2.png,m2.png,0.2\nb,1,train,i0.nii.gz,m0.nii.gz,0.2\n")
    assert load(data, "a").volume.in_plane_spacing_mm == (0.2, 0.2)
    with pytest.raises(DataError, match="line 3: pixel_mm is for PNG"):
        load(data, "b")
    wrong = pairs(tmp_path, header + "a,1,train,i2.png,m2.png,-1\n")
    with pytest.raises(DataError, match="pixel_mm '-1' is no positive number"):
        load(wrong, "a")


def test_a_png_mask_holds_label_numbers_or_black_and_white(tmp_path: Path) -> None:
    data = opened("pairs", tmp_path)
    mask = block((1, 12, 16))
    mask[0, 0, 0] = 3
    save(tmp_path / "m2.png", mask)
    assert np.array_equal(load(data, "c2").truth, mask)
    save(tmp_path / "m2.png", np.where(mask > 0, 255, 0).astype(np.uint8))
    assert np.array_equal(load(data, "c2").truth, mask > 0)


@pytest.mark.parametrize("value", [-1.0, 0.5, 256.0, np.nan])
def test_a_mask_of_other_than_small_whole_numbers_is_refused(value: float, tmp_path: Path) -> None:
    data = opened("pairs", tmp_path)
    save(tmp_path / "m0.nii.gz", block(SHAPE) * np.float32(value))
    with pytest.raises(DataError, match="which is no label; allowed: whole numbers from 0 to 255"):
        load(data, "c0")


def test_a_colour_image_is_refused_with_the_remedy(tmp_path: Path) -> None:
    data = opened("pairs", tmp_path)
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / "i2.png")
    with pytest.raises(DataError, match="colour mode RGB; convert it to one grey channel"):
        load(data, "c2")


def test_nrrd_values_that_would_be_cut_are_refused(tmp_path: Path) -> None:
    data = opened("pairs", tmp_path)
    save(tmp_path / "i1.nrrd", image_of(SHAPE).astype(np.float32) + 0.5)
    with pytest.raises(DataError, match="holds float voxels, which int16 cannot hold"):
        load(data, "c1")


def test_a_nifti_of_four_dimensions_is_refused(tmp_path: Path) -> None:
    data = opened("pairs", tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), AFFINE_RAS), tmp_path / "i0.nii.gz")
    with pytest.raises(DataError, match=r"\(4, 4, 4, 2\); give one three-dimensional image"):
        load(data, "c0")


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ("../i.png", "must be a path within"),
        ("/i.png", "must be a path within"),
        ("i.bmp", "no known format"),
    ],
)
def test_an_image_elsewhere_or_of_another_kind_is_refused(image: str, complaint: str, tmp_path: Path) -> None:
    data = pairs(tmp_path, f"case,group,split,image,mask\na,1,train,{image},m.png\n")
    with pytest.raises(DataError, match=complaint):
        load(data, "a")


def test_without_a_split_groups_are_dealt_out_whole(tmp_path: Path) -> None:
    lines = [f"c{number},patient{number // 3},i.png,m.png" for number in range(120)]
    text = "case,group,image,mask\n" + "\n".join(lines)
    seen = set()
    for seed in range(20):
        cases = pairs(tmp_path, text, split_seed=seed).cases()
        splits: dict[str, set[str]] = {}
        for case in cases:
            splits.setdefault(case.group, set()).add(case.split)
        assert all(len(found) == 1 for found in splits.values())
        assert [len(of_split(cases, split)) for split in ("train", "val", "test")] == [84, 18, 18]
        seen.add(tuple(case.split for case in cases))
    assert len(seen) == 20


# Splits


def test_a_split_depends_on_groups_and_seed_and_fills_every_part() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        names = [f"P{number}" for number in range(int(rng.integers(3, 40)))]
        groups = [name for name in names for _ in range(int(rng.integers(1, 9)))]
        chosen = split_by_group(groups, seed)
        assert set(chosen) == set(names)
        assert set(chosen.values()) == {"train", "val", "test"}
        assert split_by_group(rng.permutation(groups).tolist(), seed) == chosen


def test_a_split_comes_near_its_shares() -> None:
    groups = [f"P{number % 300}" for number in range(1000)]
    chosen = split_by_group(groups, 5, (0.5, 0.2, 0.3))
    for split, share in (("train", 500), ("val", 200), ("test", 300)):
        assert abs(sum(chosen[group] == split for group in groups) - share) <= 4


def test_too_few_groups_and_odd_shares_are_refused() -> None:
    with pytest.raises(DataError, match="2 groups cannot fill"):
        split_by_group(["a", "b", "b"], 1)
    with pytest.raises(DataError, match="must be positive and add up to 1"):
        split_by_group("abc", 1, (0.9, 0.1, 0.0))


# DICOM


def write_segmentation(
    folder: Path, path: Path, values: Array, numbers: tuple[int, ...] = (1, 2, 3), kind: str = "BINARY"
) -> None:
    """`values` (slice, row, column) or (slice, row, column, segment) over the files of `folder`, by name."""
    code = highdicom.sr.CodedConcept("52988006", "SCT", "Lesion")
    segments = [
        highdicom.seg.SegmentDescription(number, f"Lesion {number}", code, code, "MANUAL")
        for number in numbers
    ]
    seg = highdicom.seg.Segmentation(
        source_images=[dcmread(file) for file in sorted(folder.iterdir())],
        pixel_array=values,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Test",
        manufacturer_model_name="Test",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
    )
    seg.save_as(path)


def dicom_pair(folder: Path, found: Phantom, unit: str = "HU") -> DataSet:
    """The phantom as a series in `series`, with its lesions in `seg.dcm`."""
    write_phantom(found, folder / "series")
    write_segmentation(folder / "series", folder / "seg.dcm", found.lesion_map.values.astype(np.uint8))
    return pairs(folder, "case,group,split,image,mask\na,1,train,series,seg.dcm\n", unit)


def change_series(folder: Path, change: Callable[[Any], None]) -> None:
    for path in sorted(folder.iterdir()):
        dataset = dcmread(path)
        change(dataset)
        dataset.save_as(path)


@pytest.fixture
def small() -> Phantom:
    return phantom(spacing_mm=(6.0, 3.0, 4.0))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("orientation", "tilt"), [("axial", 0.0), ("axial", 15.0), ("oblique", 0.0)])
def test_a_series_and_its_segmentation_come_back_voxel_for_voxel(
    orientation: Orientation, tilt: float, backwards: bool, tmp_path: Path
) -> None:
    found = phantom(orientation, (6.0, 3.0, 4.0), reversed_slices=backwards, tilt_degrees=tilt)
    loaded = load(dicom_pair(tmp_path, found), "a")
    order = slice(None, None, -1) if backwards else slice(None)
    assert loaded.volume.intensity_unit == "HU"
    assert np.array_equal(loaded.volume.voxels, found.volume.voxels[order])
    assert np.array_equal(loaded.truth, found.lesion_map.values[order])
    for number in (1, 2, 3):
        ours = loaded.volume.to_lps_mm(np.argwhere(loaded.mask(number))).mean(axis=0)
        theirs = found.volume.to_lps_mm(np.argwhere(found.mask(number))).mean(axis=0)
        assert np.allclose(ours, theirs, atol=1e-3)


def test_a_label_map_segmentation_is_read_too(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small)
    values = small.lesion_map.values.astype(np.uint8)
    write_segmentation(tmp_path / "series", tmp_path / "seg.dcm", values, kind="LABELMAP")
    assert np.array_equal(load(data, "a").truth, values)


def test_a_segment_on_one_slice_alone_finds_its_slice(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small)
    values = np.zeros(small.volume.shape, np.uint8)
    values[9, 5:8, 4:6] = 1
    write_segmentation(tmp_path / "series", tmp_path / "seg.dcm", values, (1,))
    assert np.array_equal(load(data, "a").truth, values)


def test_a_series_may_have_a_nifti_mask_and_its_files_are_all_listed(small: Phantom, tmp_path: Path) -> None:
    dicom_pair(tmp_path, small)
    affine_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ small.volume.affine[:, [2, 1, 0, 3]]
    save(tmp_path / "mask.nii.gz", small.lesion_map.values.astype(np.uint8), affine_ras)
    data = pairs(tmp_path, "case,group,split,image,mask\na,1,train,series,mask.nii.gz\n", "HU")
    assert np.array_equal(load(data, "a").truth, small.lesion_map.values)
    assert len(data.files(data.cases()[0])) == small.volume.shape[0] + 1


def test_padding_around_a_ct_is_raised_to_air(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small)

    def pad(dataset: Any) -> None:
        pixels = dataset.pixel_array.copy()
        pixels[0] = -2000
        dataset.PixelData = pixels.tobytes()

    change_series(tmp_path / "series", pad)
    assert (load(data, "a").volume.voxels[:, 0] < -1500).all()
    change_series(tmp_path / "series", lambda dataset: dataset.add_new("PixelPaddingValue", "SS", -2000))
    voxels = load(data, "a").volume.voxels
    assert (voxels[:, 0] == -1024).all() and np.array_equal(voxels[:, 1:], small.volume.voxels[:, 1:])


def test_overlapping_segments_are_refused(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small)
    values = np.repeat(small.mask(1)[..., None], 2, axis=3).astype(np.uint8)
    write_segmentation(tmp_path / "series", tmp_path / "seg.dcm", values, (1, 2))
    with pytest.raises(DataError, match=r"seg.dcm has segments that overlap on slice \d+"):
        load(data, "a")


def test_a_fractional_segmentation_is_refused(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small)
    values = small.mask(1).astype(np.float32)
    write_segmentation(tmp_path / "series", tmp_path / "seg.dcm", values, (1,), "FRACTIONAL")
    with pytest.raises(DataError, match="is a FRACTIONAL segmentation; convert it to BINARY"):
        load(data, "a")


def test_a_segmentation_of_another_series_is_refused(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small)

    def half_a_slice_up(dataset: Any) -> None:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, z + 3.0]

    change_series(tmp_path / "series", half_a_slice_up)
    with pytest.raises(DataError, match=r"seg.dcm frame 1 lies on no slice of its series"):
        load(data, "a")
    change_series(
        tmp_path / "series", lambda dataset: setattr(dataset, "FrameOfReferenceUID", generate_uid())
    )
    with pytest.raises(DataError, match=r"seg.dcm has another frame of reference"):
        load(data, "a")


@pytest.mark.parametrize(
    ("keyword", "value", "complaint"),
    [
        ("SeriesInstanceUID", "1.2.3", "mixes series, sizes or orientations"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], "mixes series, sizes or orientations"),
        ("ImagePositionPatient", None, "has no ImagePositionPatient"),
        ("NumberOfFrames", 2, "no single-frame grey image"),
    ],
)
def test_a_slice_that_does_not_belong_is_refused(
    keyword: str, value: Any, complaint: str, small: Phantom, tmp_path: Path
) -> None:
    data = dicom_pair(tmp_path, small)
    path = sorted((tmp_path / "series").iterdir())[3]
    dataset = dcmread(path)
    setattr(dataset, keyword, value)
    dataset.save_as(path)
    with pytest.raises(DataError, match=complaint):
        load(data, "a")


def test_a_series_with_a_missing_or_doubled_slice_is_refused(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small)
    path = sorted((tmp_path / "series").iterdir())[3]
    path.rename(tmp_path / "kept")
    with pytest.raises(DataError, match="lie unevenly or at one place"):
        load(data, "a")
    (tmp_path / "kept").rename(path)
    (tmp_path / "series" / "again.dcm").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="lie unevenly or at one place"):
        load(data, "a")


def test_a_file_that_is_not_dicom_is_named(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small)
    (tmp_path / "seg.dcm").write_text("no segmentation")
    with pytest.raises(DataError, match=r"seg.dcm cannot be read as a DICOM Segmentation"):
        load(data, "a")
    (tmp_path / "series" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"notes.txt cannot be read as DICOM"):
        load(data, "a")


def test_the_unit_of_a_series_must_be_the_one_that_was_given(small: Phantom, tmp_path: Path) -> None:
    data = dicom_pair(tmp_path, small, unit="arbitrary")
    with pytest.raises(DataError, match="the unit 'HU', intensity_unit is 'arbitrary'; make them agree"):
        load(data, "a")


# Real data

REAL: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], int | None]] = {
    "lidc-crops": ("ct_lung_nodule_lidc", {}, (247, 41, 70), 196),
    "busi": ("us_breast_busi", {}, (296, 76, 104), None),
    "hippocampus": ("mr_hippocampus_msd", {}, (130, 32, 44), 131),
    "brain-slices": ("mr_brain_tumour_t1ce_axial", {}, (258, 46, 71), None),
    "glioblastoma": ("mr_glioblastoma_t1post_3d", {}, (4, 2, 2), 4),
}
needs_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not here")


@needs_real_data
@pytest.mark.parametrize("name", REAL)
def test_real_sets_have_the_cases_and_patients_they_claim(name: str) -> None:
    folder, options, counts, groups = REAL[name]
    cases = open_dataset(name, SHARED / folder, options).cases()
    assert tuple(len(of_split(cases, split)) for split in ("train", "val", "test")) == counts
    assert groups is None or len({case.group for case in cases}) == groups


@needs_real_data
def test_every_real_hippocampus_has_both_of_its_parts() -> None:
    data = open_dataset("hippocampus", SHARED / "mr_hippocampus_msd", {})
    for case in data.cases():
        assert np.unique(data.load(case).truth).tolist() == [0, 1, 2]


@needs_real_data
def test_real_glioblastomas_load_and_one_has_its_true_volume() -> None:
    data = open_dataset("glioblastoma", SHARED / "mr_glioblastoma_t1post_3d", {})
    volumes = {}
    for case in data.cases():
        loaded = data.load(case)
        volumes[case.name] = float(loaded.truth.sum()) * loaded.volume.voxel_volume_mm3
    assert volumes["PGBM-006-t2"] == pytest.approx(16574, abs=1)
    assert volumes["PGBM-006-t1"] == pytest.approx(2505)


@needs_real_data
def test_every_real_slice_of_another_plane_has_a_tumour() -> None:
    folder = SHARED / "mr_brain_tumour_t1ce_axial"
    data = open_dataset("brain-slices", folder, {"planes": ["coronal", "sagittal"]})
    assert [data.load(case).truth.any() for case in data.cases()] == [True] * 20


@needs_real_data
def test_a_real_segmentation_equals_the_same_mask_in_nrrd(tmp_path: Path) -> None:
    source = SHARED / "dicom_reference_seg_sr" / "dcmqi"
    for name in ("ct-3slice", "liver.dcm", "liver_seg.nrrd"):
        (tmp_path / name).symlink_to(source / name)
    lines = "a,1,train,ct-3slice,liver.dcm\nb,1,train,ct-3slice,liver_seg.nrrd\n"
    data = pairs(tmp_path, "case,group,split,image,mask\n" + lines, "HU")
    assert load(data, "a").truth.sum() == 107_098
    assert np.array_equal(load(data, "a").truth, load(data, "b").truth)


@needs_real_data
def test_a_real_oblique_series_lies_where_its_mask_says(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    for path in (SHARED / "dicom_mr_gbm_PGBM-006_T1post").glob("*.dcm"):
        (tmp_path / "series" / path.name).symlink_to(path)
    mask = SHARED / "mr_glioblastoma_t1post_3d" / "PGBM-006" / "t2_mask_on_dicom_grid.nii.gz"
    (tmp_path / "mask.nii.gz").symlink_to(mask)
    data = pairs(tmp_path, "case,group,split,image,mask\na,1,train,series,mask.nii.gz\n")
    loaded = load(data, "a")
    assert loaded.truth.sum() * loaded.volume.voxel_volume_mm3 == pytest.approx(16_509, abs=1)
