"""Results for readers that show no segmentations: outlines, pictures, a document, structures.

Not covered: how workstations of other makers draw them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from PIL import Image, ImageDraw
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian, UltrasoundImageStorage
from pypdf import PdfReader

import dicomnode.encode.results
from dicomnode.encode.check_drawn import check_structures
from dicomnode.encode.coordinates import filled, outlines, without_holes
from dicomnode.encode.pictures import table_rows
from dicomnode.encode.results import encode_results
from dicomnode.encode.rtstruct import encode_rtstruct
from dicomnode.encode.verify import verify_results
from dicomnode.encode.writing import to_bytes
from dicomnode.errors import ResultRejected
from dicomnode.forms import KINDS, Form, ResultKind, kinds_of
from dicomnode.read.volumes import read_volume
from dicomnode.series_writer import write_series
from dicomnode.study import Series, read_instance
from inference.measure import Quantity
from inference.volume import Volume
from tests.dicomnode.encode.situations import (
    COARSE_MM,
    ORGAN,
    Situation,
    card,
    drawn,
    identity,
    seen,
    situation,
    with_lesions,
    written,
)
from tests.phantoms import phantom, read_series, write_enhanced
from tests.real_parts import require_program

ALL = frozenset(KINDS)
PLACED = ("axial", "oblique-mr", "multi-frame-mr", "single-slice", "straight-line", "cut-off")
UNPLACED = ("still-us", "stills-us-in-pixels", "loop-us")


def encoded(made: Situation, **changes: Any) -> dict[ResultKind, list[Dataset]]:
    """Every object of every kind, read back from its bytes."""
    found: dict[ResultKind, list[Dataset]] = {}
    context = replace(made.context, **changes)
    for result in encode_results(made.lesion_map, made.measurements, context, ALL):
        found.setdefault(result.kind, []).append(dcmread(BytesIO(to_bytes(result.dataset))))
    return found


@pytest.mark.parametrize("name", ["axial", "multi-frame-mr", "loop-us", "none-seen"])
def test_the_bytes_are_those_that_pydicom_alone_writes(name: str, tmp_path: Path) -> None:
    made = situation(name, tmp_path)
    for result in encode_results(made.lesion_map, made.measurements, made.context, ALL):
        copy, plain = deepcopy(result.dataset), BytesIO()
        for item in items_below(copy):
            item.set_original_encoding(None, None)
        copy.save_as(plain, enforce_file_format=True)
        assert result.content == plain.getvalue()


def items_below(dataset: Dataset) -> Iterator[Dataset]:
    """The items of all sequences, at every depth."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from items_below(item)


def run(program: str, *arguments: str) -> str:
    """What an installed program says, on both of its outputs."""
    ended = subprocess.run([require_program(program), *arguments], capture_output=True, check=False)
    return (ended.stdout + ended.stderr).decode("utf-8", "replace")


@pytest.mark.parametrize("name", [*PLACED, *UNPLACED, "none-seen", "loop-us-none-seen"])
def test_each_situation_has_the_forms_that_it_can_have(name: str, tmp_path: Path) -> None:
    made = situation(name, tmp_path)
    found = encoded(made)
    lesions = len(made.lesion_map.lesions)
    assert len(found["pictures"]) == 1 + lesions
    assert len(found["pdf"]) == 1
    assert ("contours" in found) == (lesions > 0)
    assert ("rtstruct" in found) == (lesions > 0 and name in PLACED)
    assert ("labelmap" in found) == ("sr_labelmap_volumes" in found) == (lesions > 0 and name in PLACED)


@pytest.mark.parametrize(
    "name", ["axial", "oblique-mr", "multi-frame-mr", "still-us", "loop-us", "none-seen"]
)
def test_dciodvfy_finds_no_error_in_any_form(name: str, tmp_path: Path) -> None:
    """But for label maps and reports on them: Debian's dciodvfy does not know that SOP class yet."""
    for kind, objects in encoded(situation(name, tmp_path)).items():
        if kind in ("labelmap", "sr_labelmap_volumes"):
            continue
        for number, dataset in enumerate(objects):
            path = tmp_path / f"{kind}-{number}.dcm"
            path.write_bytes(to_bytes(dataset))
            told = run("dciodvfy", str(path)).splitlines()
            assert [line for line in told if line.startswith("Error")] == [], kind


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    made = situation("axial", tmp_path)
    first, second = (
        [to_bytes(r.dataset) for r in encode_results(made.lesion_map, made.measurements, made.context, ALL)]
        for _ in range(2)
    )
    assert first == second


class TestContours:
    @pytest.mark.parametrize("name", [*PLACED, "stills-us-in-pixels", "loop-us"])
    def test_the_outlines_enclose_what_the_segmentation_marks(self, name: str, tmp_path: Path) -> None:
        """Painted with another library than the one that checks the object."""
        made = situation(name, tmp_path)
        (state,) = encoded(made)["contours"]
        frames = [(f.instance.sop_instance_uid, f.frame_number) for f in made.source.frames]
        _, rows, columns = made.source.volume.shape
        marked = np.zeros(made.source.volume.shape, bool)
        for annotation in state.GraphicAnnotationSequence:
            image = annotation.ReferencedImageSequence[0]
            place = str(image.ReferencedSOPInstanceUID), image.get("ReferencedFrameNumber")
            for graphic in annotation.GraphicObjectSequence:
                points = np.array(graphic.GraphicData).reshape(-1, 2)
                marked[frames.index(place)] ^= _painted(points, (rows, columns))
        assert (marked == (made.lesion_map.values > 0)).all()

    def test_grey_images_keep_their_rescale_and_window(self, tmp_path: Path) -> None:
        made = written(tmp_path, attributes={"WindowCenter": "40", "WindowWidth": "400"})
        (state,) = encoded(made)["contours"]
        assert (float(state.RescaleSlope), state.RescaleType) == (1.0, "HU")
        assert float(state.SoftcopyVOILUTSequence[0].WindowWidth) == 400.0

    def test_colour_images_have_a_color_presentation_state(self, tmp_path: Path) -> None:
        (state,) = encoded(situation("still-us", tmp_path))["contours"]
        assert state.SOPClassUID.name == "Color Softcopy Presentation State Storage"

    def test_a_lesion_as_wide_as_the_image_has_its_words_over_it(self, tmp_path: Path) -> None:
        _, _, columns = situation("none-seen", tmp_path / "size").source.volume.shape
        wide = drawn(tmp_path / "wide", [(3, y, x) for y in range(10, 20) for x in range(columns)])
        (state,) = encoded(wide)["contours"]
        (words,) = state.GraphicAnnotationSequence[0].TextObjectSequence
        assert words.BoundingBoxTopLeftHandCorner[0] == 0
        assert words.BoundingBoxBottomRightHandCorner[0] == columns

    def test_dcmtk_finds_the_outline_on_its_image(self, tmp_path: Path) -> None:
        made = drawn(tmp_path, [(3, y, x) for y in range(12, 20) for x in range(10, 16)])
        (state,) = encoded(made)["contours"]
        (tmp_path / "state.dcm").write_bytes(to_bytes(state))
        image = made.source.frames[3].instance.path
        told = run("dcmp2pgm", "-v", "--pstate", str(tmp_path / "state.dcm"), str(image), str(tmp_path / "p"))
        assert "polyline" in told.lower(), told
        assert "Lesion 1" in told


def test_dcmqi_reads_the_label_map_as_it_was_meant(tmp_path: Path) -> None:
    made = situation("axial", tmp_path)
    path = tmp_path / "labelmap.dcm"
    path.write_bytes(to_bytes(encoded(made)["labelmap"][0]))
    told = run(
        "segimage2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(tmp_path),
        "--outputType", "nrrd", "--prefix", "q", "--mergeSegments",
    )  # fmt: skip
    read = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(p))) for p in tmp_path.glob("q*.nrrd")]
    counts = sorted(int((image == value).sum()) for image in read for value in np.unique(image) if value)
    expected = sorted(int((made.lesion_map.values == x.number).sum()) for x in made.lesion_map.lesions)
    assert counts == expected, told


class TestPictures:
    def test_superseding_pages_have_a_series_of_their_own(self, tmp_path: Path) -> None:
        made = situation("axial", tmp_path)
        first, second = encoded(made)["pictures"], encoded(made, instance_number=2)["pictures"]
        assert {p.SeriesInstanceUID for p in first}.isdisjoint({p.SeriesInstanceUID for p in second})
        assert [int(p.InstanceNumber) for p in second] == [1, 2, 3, 4]

    def test_each_picture_names_the_image_that_it_shows(self, tmp_path: Path) -> None:
        made = situation("loop-us", tmp_path)
        page, *pictures = encoded(made)["pictures"]
        assert "SourceImageSequence" not in page
        for picture, measurement in zip(pictures, made.measurements, strict=True):
            assert picture.SourceImageSequence[0].ReferencedFrameNumber == measurement.key_slice + 1

    def test_the_outline_is_drawn_in_its_colour(self, tmp_path: Path) -> None:
        *_, picture = encoded(situation("axial", tmp_path))["pictures"]
        colours = {tuple(int(v) for v in colour) for colour in picture.pixel_array.reshape(-1, 3)}
        assert (255, 210, 0) in colours


class TestDocument:
    def test_the_document_says_who_what_and_how_large(self, tmp_path: Path) -> None:
        made = written(tmp_path, attributes={"PatientID": "P-77", "AccessionNumber": "A-12"})
        words = _words(encoded(made)["pdf"][0])
        assert "P-77" in words
        assert "A-12" in words
        assert "Research use only" in words
        for measurement in made.measurements:
            assert isinstance(measurement.volume, Quantity)
            assert f"{measurement.volume.value:.1f} mm" in words

    def test_the_document_names_images_by_their_own_numbers(self, tmp_path: Path) -> None:
        """A scanner counts from head to feet, the volume from feet to head."""
        made = drawn(tmp_path, [(3, y, x) for y in range(12, 20) for x in range(10, 16)])
        count = len(made.source.frames)
        for index, frame in enumerate(made.source.frames):
            frame.instance.header.InstanceNumber = count - index
        (measurement,) = made.measurements
        assert table_rows([measurement], made.context)[1][-1] == str(count - 3)
        assert f" {count - 3} " in _words(encoded(made)["pdf"][0])

    def test_the_document_says_that_nothing_was_seen(self, tmp_path: Path) -> None:
        (document,) = encoded(situation("none-seen", tmp_path))["pdf"]
        assert "No lesion seen. Looked for: Lung nodule." in _words(document)

    def test_the_document_of_a_model_of_organs_says_nothing_of_lesions(self, tmp_path: Path) -> None:
        (document,) = encoded(situation("none-seen", tmp_path), card=card(labels=(ORGAN,)))["pdf"]
        words = _words(document)
        assert "Looked for: Liver. It was not found." in words
        assert "lesion" not in words

    def test_a_picture_taller_than_a_page_is_made_smaller(self, tmp_path: Path) -> None:
        """Of a whole spine: three times as high as it is wide."""
        spine = Volume(np.zeros((4, 192, 64), np.int16), np.diag([3.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]], "HU")
        write_series(spine, tmp_path, identity())
        source = read_volume(read_series(tmp_path))
        numbers = np.zeros(source.volume.shape, np.uint16)
        numbers[1:3, 10:20, 10:22] = 1
        assert "Lung nodule" in _words(encoded(with_lesions(source, numbers))["pdf"][0])

    def test_markup_in_a_header_is_printed_as_it_is(self, tmp_path: Path) -> None:
        made = written(tmp_path, attributes={"AccessionNumber": "<b>&x"})
        assert "<b>&x" in _words(encoded(made)["pdf"][0])


class TestStructures:
    @pytest.mark.parametrize("name", ["axial", "oblique-mr", "multi-frame-mr"])
    def test_contours_lie_around_the_lesions_in_the_patient(self, name: str, tmp_path: Path) -> None:
        made = situation(name, tmp_path)
        (structures,) = encoded(made)["rtstruct"]
        volume = made.source.volume
        for region, lesion in zip(structures.ROIContourSequence, made.lesion_map.lesions, strict=True):
            points = np.concatenate([_points_mm(contour) for contour in region.ContourSequence])
            voxels = volume.to_lps_mm(np.argwhere(made.lesion_map.values == lesion.number))
            reach_mm = max(volume.spacing_mm)
            assert np.abs(points.min(axis=0) - voxels.min(axis=0)).max() <= reach_mm
            assert np.abs(points.max(axis=0) - voxels.max(axis=0)).max() <= reach_mm

    def test_a_contour_too_long_for_explicit_vr_is_read_back_whole(self, tmp_path: Path) -> None:
        source = written(tmp_path, spacing_mm=(32.0, 0.8, 0.4), shapes=()).source
        numbers = np.zeros(source.volume.shape, np.uint16)
        numbers[1, 20:60:2, 10:150] = numbers[1, 20:60, 10] = 1  # a comb
        made = with_lesions(source, numbers)
        structures = dcmread(BytesIO(to_bytes(encode_rtstruct(made.lesion_map, made.context))))
        check_structures(structures, made.lesion_map, made.context)
        assert structures.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        (contour,) = structures.ROIContourSequence[0].ContourSequence
        assert len(contour.ContourData) == 3 * contour.NumberOfContourPoints

    def test_a_hole_is_joined_to_its_surroundings(self) -> None:
        ring = np.zeros((20, 24), bool)
        ring[3:15, 4:20] = True
        ring[6:9, 7:10] = ring[10:12, 14:17] = False
        contours = without_holes(outlines(ring))
        assert len(contours) == 1
        assert (_painted(contours[0], ring.shape) == ring).all()
        assert (filled(contours, (20, 24)) == ring).all()


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("contours", lambda d: _move(d, 1.0), "encloses"),
        ("contours", lambda d: _mirror(d, 32), "encloses"),
        ("contours", lambda d: d.GraphicAnnotationSequence.pop(), "encloses"),
        ("rtstruct", lambda d: _shift(d, (0.0, 0.0, 40.0)), "beside slice"),
        ("rtstruct", lambda d: _shift(d, (3.0, 0.0, 0.0)), "encloses"),
        ("rtstruct", lambda d: d.ROIContourSequence[0].ContourSequence.pop(), "encloses"),
        ("pictures", lambda d: setattr(d, "PatientID", "another"), "PatientID"),
        ("pdf", lambda d: setattr(d, "EncapsulatedDocument", b"nothing"), "no PDF"),
        ("pdf", lambda d: setattr(d, "SeriesDescription", "plain"), "Research use only"),
    ],
)
def test_a_planted_defect_is_caught_before_it_leaves(
    kind: ResultKind, spoil: Any, message: str, tmp_path: Path
) -> None:
    made = written(tmp_path)
    results = encode_results(made.lesion_map, made.measurements, made.context, ALL)
    spoil(next(r for r in reversed(results) if r.kind == kind).dataset)
    with pytest.raises(ResultRejected, match=message):
        verify_results([replace(r) for r in results], made.lesion_map, made.measurements, made.context)


def test_a_missing_picture_is_caught(tmp_path: Path) -> None:
    made = written(tmp_path)
    results = encode_results(made.lesion_map, made.measurements, made.context, ALL)
    without_one = [r for r in results if r.page != 2]
    with pytest.raises(ResultRejected, match="3 pages for 3 lesions"):
        verify_results(without_one, made.lesion_map, made.measurements, made.context)


@pytest.mark.parametrize("absent", [True, False])
def test_an_object_that_says_all_of_each_frame_has_every_form(absent: bool, tmp_path: Path) -> None:
    """It has no item of what its frames share, perhaps not even the sequence."""
    truth = phantom("oblique", COARSE_MM, intensity_unit="arbitrary")
    path = tmp_path / "e.dcm"
    write_enhanced(truth.volume, path, identity("MR"), shared=False)
    dataset = dcmread(path)
    dataset.SharedFunctionalGroupsSequence = []
    if absent:
        del dataset.SharedFunctionalGroupsSequence
    dataset.save_as(path)
    made = seen(Series((read_instance(path),)), truth)
    assert set(encoded(made)) == ALL - {"sr_not_seen"}


def test_a_loop_under_the_class_of_stills_has_every_form_that_a_loop_has(tmp_path: Path) -> None:
    loop = situation("loop-us", tmp_path)
    path = loop.source.frames[0].instance.path
    dataset = dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    dataset.save_as(path)
    made = with_lesions(read_volume(Series((read_instance(path),))), loop.lesion_map.values)
    found = encoded(made)
    assert set(found) == set(encoded(loop))
    named = {str(i.value) for i in found["contours"][0].iterall() if i.keyword == "ReferencedSOPClassUID"}
    assert named == {str(UltrasoundImageStorage)}


def broken_form(made: object, *_: object) -> Dataset:
    raise ValueError(f"no form of {type(made).__name__}")


def empty_form(*_: object) -> Dataset:
    return Dataset()


@pytest.mark.parametrize("maker", [broken_form, empty_form])
def test_a_form_that_fails_is_left_out_alone(
    maker: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = written(tmp_path)
    whole = encode_results(made.lesion_map, made.measurements, made.context, ALL)
    monkeypatch.setattr(dicomnode.encode.results, "encode_contours", maker)
    failed: list[ResultKind] = []
    rest = encode_results(
        made.lesion_map, made.measurements, made.context, ALL, lambda kind, _: failed.append(kind)
    )
    assert failed == ["contours"]
    assert [r.sha256 for r in rest] == [r.sha256 for r in whole if r.kind != "contours"]


@pytest.mark.parametrize("error", [MemoryError, OSError, KeyboardInterrupt])
def test_what_may_pass_leaves_out_no_form(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Dataset:
        raise error

    made = situation("none-seen", tmp_path)
    monkeypatch.setattr(dicomnode.encode.results, "encode_pdf", fails)
    with pytest.raises(error):
        encode_results(made.lesion_map, (), made.context, ALL, lambda *_: None)


def test_a_report_on_a_segmentation_goes_only_where_that_segmentation_goes() -> None:
    assert kinds_of([Form.REPORTS]) == {"sr_measurements", "sr_not_seen"}
    assert "sr_volumes" in kinds_of([Form.SEG, Form.REPORTS])
    assert kinds_of([Form.PICTURES]) == {"pictures"}


def test_a_lesion_with_a_hole_has_every_form(tmp_path: Path) -> None:
    source = written(tmp_path, shapes=()).source
    numbers = np.zeros(source.volume.shape, np.uint16)
    numbers[2:5, 8:18, 8:18] = 1
    numbers[3, 11:14, 11:14] = 0
    assert set(encoded(with_lesions(source, numbers))) >= {"contours", "rtstruct", "pictures", "pdf"}


def _painted(points: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Pixels within a (column, row) outline, painted eightfold by Pillow."""
    scale = 8
    canvas = Image.new("1", (shape[1] * scale, shape[0] * scale))
    ImageDraw.Draw(canvas).polygon([tuple(point * scale) for point in points], fill=1)
    return np.asarray(canvas)[scale // 2 :: scale, scale // 2 :: scale]


def _words(document: Dataset) -> str:
    pages = PdfReader(BytesIO(document.EncapsulatedDocument)).pages
    return " ".join(" ".join(page.extract_text() for page in pages).split())


def _points_mm(contour: Dataset) -> np.ndarray[Any, Any]:
    return np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)


def _move(state: Dataset, by: float) -> None:
    graphic = state.GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    graphic.GraphicData = [value + by for value in graphic.GraphicData]


def _mirror(state: Dataset, columns: int) -> None:
    graphic = state.GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    points = np.array(graphic.GraphicData).reshape(-1, 2)
    graphic.GraphicData = (points * [-1, 1] + [columns, 0]).ravel().tolist()


def _shift(structures: Dataset, by_mm: tuple[float, float, float]) -> None:
    contour = structures.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [f"{value:.4f}" for value in (_points_mm(contour) + by_mm).ravel()]
