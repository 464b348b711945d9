"""Results over the frame budget of viewers, and very many lesions.

Each part is a segmentation of its own; one report refers to all of them. dcmqi reads what is counted here.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dicomnode.encode.check_seg import check_segs
from dicomnode.encode.content import walk
from dicomnode.encode.context import Result
from dicomnode.encode.parts import FRAME_BUDGET, parts_of
from dicomnode.encode.results import encode_results
from dicomnode.encode.seg import encode_seg
from dicomnode.encode.verify import verify_results
from dicomnode.encode.writing import to_bytes
from dicomnode.errors import ResultRejected
from dicomnode.models.compare import compare, seen_in
from dicomnode.show.stored_report import read_measurements
from dicomnode.study import text
from tests.dicomnode.encode.situations import Situation, with_lesions, written
from tests.phantoms import lesion_map_of
from tests.real_parts import require_program

SLICES = 110


def rods(count: int, slices: int = SLICES, columns: int = 32) -> npt.NDArray[np.uint16]:
    """Lesions of 2 x 2 pixels that run through all slices of 48 rows."""
    numbers = np.zeros((slices, 48, columns), np.uint16)
    for number in range(count):
        row, column = 4 * (number // 8), 4 * (number % 8)
        numbers[:, row : row + 2, column : column + 2] = number + 1
    return numbers


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Situation:
    """Nine lesions on 110 slices: 990 frames."""
    source = written(tmp_path_factory.mktemp("long"), spacing_mm=(96 / SLICES, 2.0, 3.0), shapes=()).source
    return with_lesions(source, rods(9))


@pytest.fixture(scope="module")
def results(made: Situation) -> tuple[Result, ...]:
    return encode_results(made.lesion_map, made.measurements, made.context)


def segs_of(results: tuple[Result, ...]) -> list[Result]:
    return [result for result in results if result.kind == "seg"]


def test_no_part_has_more_frames_than_viewers_show(results: tuple[Result, ...]) -> None:
    segs = segs_of(results)
    assert [int(part.dataset.NumberOfFrames) for part in segs] == [330, 330, 330]
    assert [len(part.dataset.SegmentSequence) for part in segs] == [3, 3, 3]
    assert max(int(part.dataset.NumberOfFrames) for part in segs) <= FRAME_BUDGET


def test_each_part_is_a_series_of_its_own_that_says_which_it_is(results: tuple[Result, ...]) -> None:
    segs = [part.dataset for part in segs_of(results)]
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "SeriesNumber"):
        assert len({str(seg[keyword].value) for seg in segs}) == 3, keyword
    assert [seg.SeriesDescription.split(":")[0] for seg in segs] == [
        "Lesions 1 of 3", "Lesions 2 of 3", "Lesions 3 of 3",
    ]  # fmt: skip
    others = {int(result.dataset.SeriesNumber) for result in results if result.kind != "seg"}
    assert not others & {int(seg.SeriesNumber) for seg in segs}


def test_lesions_keep_their_numbers_across_the_parts(results: tuple[Result, ...]) -> None:
    names = [str(s.TrackingID) for part in segs_of(results) for s in part.dataset.SegmentSequence]
    assert names == [f"Lesion {number}" for number in range(1, 10)]
    numbers = [[int(s.SegmentNumber) for s in p.dataset.SegmentSequence] for p in segs_of(results)]
    assert numbers == [[1, 2, 3]] * 3


def test_the_report_refers_to_each_lesion_in_its_part(results: tuple[Result, ...]) -> None:
    (report,) = [result.dataset for result in results if result.kind == "sr_volumes"]
    uids = [str(part.dataset.SOPInstanceUID) for part in segs_of(results)]
    places = [(lesion.seg_uid, lesion.segment_number) for lesion in read_measurements([report]).lesions]
    assert places == [(uid, number) for uid in uids for number in (1, 2, 3)]


def test_a_lesion_that_is_said_to_lie_in_another_part_is_found(
    made: Situation, results: tuple[Result, ...]
) -> None:
    (report,) = [result.dataset for result in results if result.kind == "sr_volumes"]
    references = [
        item.ReferencedSOPSequence[0]
        for item in walk(report)
        if text(item, "ValueType") == "IMAGE" and "ReferencedSegmentNumber" in item.ReferencedSOPSequence[0]
    ]
    first, other = references[0], references[-1]
    kept = str(first.ReferencedSOPInstanceUID)
    first.ReferencedSOPInstanceUID = other.ReferencedSOPInstanceUID
    try:
        with pytest.raises(ResultRejected, match="lesion 1: refers to segment 1"):
            verify_results(anew(results), made.lesion_map, made.measurements, made.context)
    finally:
        first.ReferencedSOPInstanceUID = kept
    verify_results(anew(results), made.lesion_map, made.measurements, made.context)


def anew(results: tuple[Result, ...]) -> tuple[Result, ...]:
    """The same objects, whose bytes are to be written again."""
    return tuple(replace(result) for result in results)


def test_a_part_that_is_missing_is_found(made: Situation, results: tuple[Result, ...]) -> None:
    fewer = tuple(result for result in results if (result.kind, result.page) != ("seg", 2))
    with pytest.raises(ResultRejected, match="in 2 parts, expected 3"):
        verify_results(fewer, made.lesion_map, made.measurements, made.context)


def test_results_in_parts_are_compared_as_one(results: tuple[Result, ...]) -> None:
    seen = seen_in(part.dataset for part in segs_of(results))
    found = compare(seen, seen)
    assert found.live_lesions == dict.fromkeys(range(1, 10), 4 * SLICES)
    assert (found.dice, len(found.matches)) == (1.0, 9)


def test_dcmqi_reads_the_voxels_of_every_part(results: tuple[Result, ...], tmp_path: Path) -> None:
    import SimpleITK

    for part in segs_of(results):
        path, out = tmp_path / f"{part.page}.dcm", tmp_path / str(part.page)
        path.write_bytes(to_bytes(part.dataset))
        out.mkdir()
        reader = require_program("segimage2itkimage")
        subprocess.run(
            [reader, "--inputDICOM", str(path), "--outputDirectory", str(out), "-t", "nrrd"],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        counts = [np.count_nonzero(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(image))))
                  for image in sorted(out.glob("*.nrrd"))]  # fmt: skip
        assert counts == [4 * SLICES] * 3


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (rods(3), [3]),
        (rods(4), [3, 1]),
        (rods(1, 500), [1]),
        (np.zeros((5, 4, 4), np.uint16), []),
    ],
)
def test_parts_are_as_few_as_the_budget_allows(numbers: npt.NDArray[np.uint16], expected: list[int]) -> None:
    assert [len(part.lesions) for part in parts_of(lesion_map_of(numbers))] == expected


def test_a_lesion_on_more_images_than_viewers_show_stays_whole_and_the_report_says_so(tmp_path: Path) -> None:
    """Cut in two it would be two findings, each with a volume that is not the lesion's."""
    slices = FRAME_BUDGET + 1
    source = written(tmp_path, spacing_mm=(96 / slices, 2.0, 3.0), shapes=()).source
    made = with_lesions(source, rods(2, slices))
    results = encode_results(made.lesion_map, made.measurements, made.context)
    assert [int(seg.dataset.NumberOfFrames) for seg in segs_of(results)] == [slices, slices]
    (report,) = [result.dataset for result in results if result.kind == "sr_volumes"]
    remarks = [words for words in read_measurements([report]).remarks if "not cut" in words]
    assert [words.split(" and ")[0] for words in remarks] == [
        "Lesion 1 is on 401 images",
        "Lesion 2 is on 401 images",
    ]


def test_a_later_result_with_fewer_parts_says_that_what_is_left_of_the_earlier_one_is_out_of_date(
    made: Situation, results: tuple[Result, ...]
) -> None:
    fewer = with_lesions(made.source, rods(4))
    later = replace(fewer.context, instance_number=2, model_digest="d" * 64)
    second = encode_results(fewer.lesion_map, fewer.measurements, later)
    of_first, of_second = (
        [str(seg.dataset.SeriesInstanceUID) for seg in segs_of(found)] for found in (results, second)
    )
    assert of_second == of_first[:2], "the third part of the first result has no successor"
    assert out_of_date(results) == []
    said = out_of_date(second)
    assert len(said) == 2, "once in each report"
    assert all(words.startswith("Result 2 of") and "instance number below 2" in words for words in said)


def out_of_date(results: tuple[Result, ...]) -> list[str]:
    """What the reports say of earlier results."""
    reports = [result.dataset for result in results if result.kind.startswith("sr_")]
    remarks = [words for report in reports for words in read_measurements([report]).remarks]
    return [words for words in remarks if "out of date" in words]


def crowd(folder: Path, count: int) -> Situation:
    """Lesions of 2 x 2 pixels on one slice each, a hundred to a slice."""
    source = written(folder, shapes=()).source
    numbers = np.zeros(source.volume.shape, np.uint16)
    for number in range(count):
        z, rest = divmod(number, 100)
        row, column = divmod(rest, 10)
        numbers[4 * z, 4 * row : 4 * row + 2, 3 * column : 3 * column + 2] = number + 1
    return with_lesions(source, numbers)


def test_more_lesions_than_a_byte_counts_are_told_apart(tmp_path: Path) -> None:
    made = crowd(tmp_path, 260)
    (part,) = parts_of(made.lesion_map)
    seg = encode_seg(made.lesion_map, made.measurements, made.context)
    check_segs([seg], made.lesion_map, made.context, [part])
    made.lesion_map.values[made.lesion_map.values == 260] = 4  # 260 in a byte
    with pytest.raises(ResultRejected, match="segment 260, lesion 4"):
        check_segs([seg], made.lesion_map, made.context, [part])
    assert len(seg.SegmentSequence) == 260


def test_many_lesions_are_reported_one_by_one(tmp_path: Path) -> None:
    made = crowd(tmp_path, 40)
    results = encode_results(made.lesion_map, made.measurements, made.context)
    (report,) = [result.dataset for result in results if result.kind == "sr_volumes"]
    lesions = read_measurements([report]).lesions
    assert [lesion.number for lesion in lesions] == list(range(1, 41))
    assert {lesion.numbers["Volume"].value for lesion in lesions} == {4 * 6.0 * 2.0 * 3.0}
