"""Label maps with known counts, several labels, ignored voxels, and whole scans from NRRD."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nrrd
import numpy as np
import numpy.typing as npt
import pytest
import torch

from dicomnode.selftest.bundles import write_bundle
from inference.bundle import read_bundle
from inference.engine import Model
from inference.labelmap import Label
from inference.volume import Volume
from tests.phantoms import LESION_LABEL, phantom
from training.cases import Case, LoadedCase
from training.errors import DataError, RunError
from training.evaluate import (
    TOLERANCES,
    count_hits,
    evaluate,
    evaluate_scan,
    find_in_crop,
    mean_dice,
    model_finder,
    spacing_of,
)
from training.metrics import agreement
from training.results import METRICS, Evaluation
from training.scans import read_nrrd, read_nrrd_mask

Labels = npt.NDArray[np.uint8]

NODULE = LESION_LABEL.model_copy(update={"number": 1, "name": "Nodule"})
ORGAN = LESION_LABEL.model_copy(update={"number": 2, "name": "Liver", "kind": "organ"})
SHAPE = (6, 10, 10)
AFFINE = np.diag([2.0, 0.5, 0.7, 1.0])


def with_points(*points: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SHAPE, np.bool_)
    for point in points:
        mask[point] = True
    return mask


def label_map(shape: tuple[int, int, int] = SHAPE, **voxels: list[tuple[int, int, int]]) -> Labels:
    """`label_map(nodule=[...], liver=[...])`."""
    values = np.zeros(shape, np.uint8)
    for name, points in voxels.items():
        for point in points:
            values[point] = {"nodule": 1, "liver": 2}[name]
    return values


def loaded(
    truth: Labels,
    name: str = "a",
    ignored: npt.NDArray[np.bool_] | None = None,
    stratum: str = "",
    group: str = "",
    affine: npt.NDArray[np.float64] | None = AFFINE,
    in_plane_spacing_mm: tuple[float, float] | None = None,
) -> LoadedCase:
    voxels = np.zeros(truth.shape, np.int16)
    return LoadedCase(
        Case(name, group or name, "test", stratum),
        Volume(voxels, affine, "HU", in_plane_spacing_mm),
        truth,
        np.zeros(truth.shape, np.bool_) if ignored is None else ignored,
    )


def answers(*found: Labels) -> Callable[[Volume], Labels]:
    """A finder that gives these label maps one after the other."""
    waiting = iter(found)
    return lambda volume: next(waiting)


def one(found: Labels, case: LoadedCase, *labels: Label) -> Evaluation:
    return evaluate(answers(found), [case], labels or (NODULE,))


def test_a_lesion_is_hit_by_one_voxel_and_a_finding_elsewhere_is_false() -> None:
    truth = with_points((1, 1, 1), (1, 1, 2), (4, 8, 8))
    found = with_points((1, 1, 2), (1, 1, 3), (3, 5, 5))
    assert count_hits(found, truth) == (2, 1, 1)


def test_a_finding_over_two_lesions_hits_both_and_is_not_false() -> None:
    truth = with_points((1, 1, 1), (1, 1, 4))
    assert count_hits(with_points(*((1, 1, c) for c in range(6))), truth) == (2, 2, 0)


def test_a_finding_in_an_excused_region_is_no_hit_and_not_false() -> None:
    truth, doubtful = with_points((1, 1, 1)), with_points((4, 4, 4))
    assert count_hits(doubtful, truth, truth | doubtful) == (1, 0, 0)


def test_pieces_that_meet_at_a_corner_are_one() -> None:
    assert count_hits(with_points(), with_points((1, 1, 1), (2, 2, 2), (4, 2, 2))) == (2, 0, 0)


def test_nothing_found_and_nothing_there_counts_nothing() -> None:
    assert count_hits(with_points(), with_points()) == (0, 0, 0)


def test_a_hand_made_case_has_the_counts_and_the_agreement_of_a_hand() -> None:
    truth = label_map(nodule=[(1, 1, 1), (1, 1, 2), (4, 8, 8)])
    found = label_map(nodule=[(1, 1, 2), (1, 1, 3), (3, 5, 5)])
    (case,) = one(found, loaded(truth)).cases
    (result,) = case.labels
    assert (case.case, result.label) == ("a", 1)
    assert (result.n_lesions, result.n_hit, result.n_false) == (2, 1, 1)
    assert result.agreement == agreement(found == 1, truth == 1, (2.0, 0.5, 0.7), TOLERANCES["mm"])
    assert result.agreement.dice == pytest.approx(2 * 1 / 6)
    assert result.agreement.volume_truth == pytest.approx(3 * 2.0 * 0.5 * 0.7)


def test_ignored_voxels_count_neither_way() -> None:
    truth = label_map(nodule=[(1, 1, 1), (4, 4, 4)])
    ignored = with_points((4, 4, 4), (4, 4, 5), (0, 9, 9))
    found = label_map(nodule=[(1, 1, 1), (4, 4, 5), (4, 4, 6), (0, 9, 9)])
    (result,) = one(found, loaded(truth, ignored=ignored)).cases[0].labels
    assert (result.n_lesions, result.n_hit, result.n_false) == (1, 1, 0)
    assert result.agreement.volume_found == pytest.approx(2 * 0.7), "(1, 1, 1) and (4, 4, 6)"
    assert result.agreement.dice == pytest.approx(2 / 3)


def test_a_case_that_shows_only_ignored_voxels_counts_as_empty() -> None:
    doubtful = with_points((4, 4, 4))
    evaluation = one(label_map(nodule=[(4, 4, 4)]), loaded(label_map(), ignored=doubtful))
    assert evaluation.mean_dice() == 1.0
    totals = evaluation.totals("Nodule")
    assert (totals.n_empty, totals.n_false_alarms, totals.n_false) == (1, 0, 0)


def test_each_label_is_compared_with_its_own_truth_only() -> None:
    truth = label_map(nodule=[(1, 1, 1)], liver=[(3, 3, 3), (3, 3, 4)])
    found = label_map(nodule=[(3, 3, 3)], liver=[(1, 1, 1), (3, 3, 4)])
    evaluation = one(found, loaded(truth), NODULE, ORGAN)
    nodule, organ = evaluation.cases[0].labels
    assert nodule.agreement.dice == 0.0
    assert organ.agreement.dice == pytest.approx(0.5)
    assert (nodule.n_lesions, nodule.n_hit, nodule.n_false) == (1, 0, 1)
    assert (organ.n_lesions, organ.n_hit, organ.n_false) == (None, None, None)
    assert evaluation.mean_dice() == pytest.approx(0.25)
    assert evaluation.totals("Liver").sensitivity is None


def test_label_numbers_that_nobody_asked_for_are_let_be() -> None:
    truth = label_map(nodule=[(1, 1, 1)], liver=[(3, 3, 3)])
    assert one(label_map(nodule=[(1, 1, 1)], liver=[(5, 5, 5)]), loaded(truth)).mean_dice() == 1.0


def three_cases() -> Evaluation:
    """Benign: one of two lesions hit. Normal: one silent, one false alarm of two findings."""
    nodule = label_map(nodule=[(1, 1, 1), (4, 8, 8)])
    cases = [
        loaded(nodule, "a", stratum="benign"),
        loaded(label_map(), "b", stratum="normal", group="p"),
        loaded(label_map(), "c", stratum="normal", group="p"),
    ]
    found = [label_map(nodule=[(1, 1, 1)]), label_map(), label_map(nodule=[(2, 2, 2), (5, 5, 5)])]
    return evaluate(answers(*found), cases, (NODULE,))


def test_totals_count_hits_false_findings_and_false_alarms() -> None:
    totals = three_cases().totals("Nodule")
    assert (totals.n_lesions, totals.n_hit, totals.sensitivity) == (2, 1, 0.5)
    assert totals.sensitivity_interval == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert totals.n_false == 2
    assert totals.false_per_case == pytest.approx(2 / 3)
    assert (totals.n_empty, totals.n_false_alarms) == (2, 1)


def test_strata_are_summed_up_on_their_own() -> None:
    evaluation = three_cases()
    assert evaluation.strata == ("benign", "normal")
    assert evaluation.of_stratum("benign").mean_dice() == pytest.approx(2 / 3)
    assert evaluation.of_stratum("normal").mean_dice() == 0.5
    assert evaluation.of_stratum("normal").totals("Nodule").sensitivity_interval is None
    figures = evaluation.figures()
    assert figures["n_cases"] == 3 and figures["n_groups"] == 2
    assert figures["strata"]["normal"]["labels"]["Nodule"]["n_false_alarms"] == 1
    assert figures["labels"]["Nodule"]["dice"]["mean"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    with pytest.raises(ValueError, match="needs cases"):
        evaluation.of_stratum("malignant")


def test_cases_of_one_kind_have_no_strata() -> None:
    assert one(label_map(), loaded(label_map(), stratum="normal")).strata == ()


def test_cases_of_one_patient_are_drawn_together() -> None:
    summary = three_cases().of_stratum("normal").summaries("Nodule")["dice"]
    assert (summary.n, summary.mean_interval) == (2, None)


def test_the_mean_over_labels_is_undefined_where_a_label_is() -> None:
    truth = label_map(nodule=[(1, 1, 1)], liver=[(3, 3, 3)])
    cases = [loaded(truth, "a"), loaded(truth, "b")]
    evaluation = evaluate(
        answers(truth, label_map(liver=[(3, 3, 4)])),
        cases,
        (NODULE, ORGAN),
    )
    assert evaluation.values("hausdorff", "Nodule") == [0.0, None]
    assert evaluation.values("hausdorff", "Liver") == [0.0, pytest.approx(0.7)]
    assert evaluation.values("hausdorff") == [0.0, None]
    assert evaluation.values("dice") == [1.0, 0.0]
    assert evaluation.summaries()["hausdorff"].n_undefined == 1


def test_an_evaluation_comes_back_from_json_as_it_was() -> None:
    evaluation = three_cases()
    text = json.dumps(evaluation.to_plain(), allow_nan=False)
    assert Evaluation.from_plain(json.loads(text)) == evaluation
    json.dumps(evaluation.figures(), allow_nan=False)
    assert set(evaluation.figures()["mean"]) == set(METRICS)


@pytest.mark.parametrize("change", [{"cases": []}, {"distance_unit": "inch"}, {"label_names": ["a", "b"]}])
def test_what_is_no_evaluation_is_not_read_as_one(change: dict[str, object]) -> None:
    with pytest.raises(RunError, match="no stored evaluation"):
        Evaluation.from_plain(three_cases().to_plain() | change)


def test_two_labels_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        one(label_map(), loaded(label_map()), NODULE, ORGAN.model_copy(update={"name": "Nodule"}))


def test_an_image_without_pixel_size_is_measured_in_pixels() -> None:
    shape = (1, 12, 12)
    truth, found = label_map(shape, nodule=[(0, 2, 2)]), label_map(shape, nodule=[(0, 2, 7)])
    evaluation = one(found, loaded(truth, affine=None))
    assert (evaluation.distance_unit, evaluation.tolerance) == ("px", 2.0)
    assert evaluation.values("hausdorff", "Nodule") == [5.0]


def test_an_image_with_pixel_size_only_is_measured_in_mm() -> None:
    shape = (1, 12, 12)
    truth, found = label_map(shape, nodule=[(0, 2, 2)]), label_map(shape, nodule=[(0, 5, 2)])
    case = loaded(truth, affine=None, in_plane_spacing_mm=(0.2, 0.3))
    assert spacing_of(case) == ((1.0, 0.2, 0.3), "mm")
    evaluation = one(found, case)
    assert (evaluation.distance_unit, evaluation.tolerance) == ("mm", 1.0)
    assert evaluation.values("hausdorff", "Nodule") == [pytest.approx(0.6)]
    assert evaluation.cases[0].labels[0].agreement.volume_truth == pytest.approx(0.06), "an area"


def test_slices_at_unknown_distance_have_no_distances_in_mm() -> None:
    with pytest.raises(DataError, match="make each slice a case"):
        one(label_map(), loaded(label_map(), affine=None, in_plane_spacing_mm=(0.2, 0.3)))


def test_pixels_and_millimetres_are_not_mixed() -> None:
    cases = [loaded(label_map(), "a"), loaded(label_map(), "b", affine=None)]
    with pytest.raises(DataError, match="case b has distances in px, those before it in mm"):
        evaluate(answers(label_map(), label_map()), cases, (NODULE,))


def test_the_caller_may_set_the_tolerance_of_the_surface_dice() -> None:
    truth, found = label_map(nodule=[(1, 1, 1)]), label_map(nodule=[(1, 1, 8)])
    strict = evaluate(answers(found), [loaded(truth)], (NODULE,))
    lenient = evaluate(answers(found), [loaded(truth)], (NODULE,), tolerance=20.0)
    assert (strict.values("surface_dice"), lenient.values("surface_dice")) == ([0.0], [1.0])
    assert lenient.tolerance == 20.0


def test_no_case_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no case to evaluate"):
        evaluate(answers(), [], (NODULE,))


def test_a_finder_that_answers_on_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="case a: found"):
        one(label_map((1, 10, 10)), loaded(label_map()))


def test_every_case_ticks_once() -> None:
    ticks: list[int] = []
    cases = [loaded(label_map(), name) for name in "abc"]
    evaluate(lambda volume: label_map(), cases, (NODULE,), lambda: ticks.append(1))
    assert len(ticks) == 3


def threshold_model(folder: Path, region: str = "everywhere") -> Model:
    bundle = write_bundle(folder, postprocessing={"region": region})
    return Model(read_bundle(bundle), torch.device("cpu"))


@pytest.mark.parametrize("whole", [False, True])
def test_the_finder_of_a_model_gives_label_numbers_not_lesion_numbers(tmp_path: Path, whole: bool) -> None:
    truth = phantom()
    model = threshold_model(tmp_path)
    assert len(find_in_crop(model, truth.volume).lesions) == 3
    found = model_finder(model, whole)(truth.volume)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.where(truth.lesion_map.values > 0, 1, 0))


def test_a_crop_is_not_searched_for_lungs(tmp_path: Path) -> None:
    truth = phantom()
    model = threshold_model(tmp_path, region="lungs")
    assert (model_finder(model)(truth.volume) == 1).any()


def test_a_model_that_finds_everything_has_dice_1(tmp_path: Path) -> None:
    truth = phantom()
    model = threshold_model(tmp_path)
    case = replace(loaded(np.where(truth.lesion_map.values > 0, 1, 0).astype(np.uint8)), volume=truth.volume)
    evaluation = evaluate(model_finder(model), [case], (NODULE,))
    assert evaluation.mean_dice() == 1.0
    assert evaluation.totals("Nodule").n_hit == 3
    assert evaluation.cases[0].seconds > 0


def test_a_whole_scan_is_compared_lesion_by_lesion(tmp_path: Path) -> None:
    truth = phantom()
    model = threshold_model(tmp_path)
    first = truth.lesion_map.values == 1
    result, lesions = evaluate_scan(model, "scan", truth.volume, first)
    assert (result.n_findings, result.n_lesions, result.n_hit, result.n_false) == (3, 1, 1, 2)
    assert result.dice_of_hits == 1.0
    assert result.dice == pytest.approx(2 * first.sum() / (first.sum() + (lesions.values > 0).sum()))
    untold, _ = evaluate_scan(model, "scan", truth.volume, None)
    assert (untold.n_findings, untold.n_hit, untold.dice) == (3, None, None)


def write_nrrd(path: Path, voxels: npt.NDArray[np.int16], space: str = "left-posterior-superior") -> Path:
    directions = np.diag([0.5, 0.6, 5.0])
    header = {"space": space, "space directions": directions, "space origin": [-10.0, -20.0, 30.0]}
    nrrd.write(str(path), voxels, header)
    return path


def test_a_voxel_of_an_nrrd_scan_lies_where_the_header_says(tmp_path: Path) -> None:
    voxels = np.zeros((8, 7, 4), np.int16)
    voxels[5, 2, 3] = 99
    volume = read_nrrd(write_nrrd(tmp_path / "a_image.nrrd", voxels), "HU")
    index = np.argwhere(volume.voxels == 99)[0]
    assert index.tolist() == [3, 2, 5]
    assert volume.to_lps_mm(index).tolist() == pytest.approx([-10 + 2.5, -20 + 1.2, 30 + 15])


def test_an_nrrd_scan_in_another_space_is_refused(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", np.zeros((3, 3, 3), np.int16), "right-anterior-superior")
    with pytest.raises(DataError, match="convert it to left-posterior-superior"):
        read_nrrd(path, "HU")


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    volume = read_nrrd(write_nrrd(tmp_path / "a.nrrd", np.zeros((3, 3, 3), np.int16)), "HU")
    mask = write_nrrd(tmp_path / "b.nrrd", np.zeros((3, 3, 4), np.int16))
    with pytest.raises(DataError, match="shape"):
        read_nrrd_mask(mask, volume)


def test_a_file_that_is_no_nrrd_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as NRRD"):
        read_nrrd(tmp_path / "a.nrrd", "HU")


def test_the_quick_mean_dice_is_that_of_the_whole_evaluation() -> None:
    rng = np.random.default_rng(3)
    truths, found = (rng.integers(0, 3, (2, 3, 2, 6, 7)).astype(np.uint8) for _ in range(2))
    ignored = rng.random((2, 6, 7)) < 0.2
    cases = [loaded(truth, name, ignored) for truth, name in zip(truths[0], "abc", strict=True)]
    quick = mean_dice(answers(*found[0]), cases, (NODULE, ORGAN))
    assert quick == pytest.approx(evaluate(answers(*found[0]), cases, (NODULE, ORGAN)).mean_dice())
