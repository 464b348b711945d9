"""Trust reports of networks whose answers are known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from dicomnode.selftest.bundles import write_bundle
from inference.bundle import read_bundle
from inference.engine import Model
from inference.volume import Volume
from training.cases import Case, LoadedCase
from training.commands.trust import axes_of, trust
from training.errors import DataError, ExperimentError, RunError
from training.report.document import to_markdown
from training.trust import page
from training.trust.explained import Choice, choose, explain
from training.trust.observe import CaseTrust, observe
from training.trust.report import some_of
from training.trust.summary import sum_up, volume_cover

AFFINE_RAS = np.diag([-1.0, -1.0, 2.0, 1.0])
VOXEL_MM3 = 2.0
SHAPE = (4, 24, 20)
BALL = (slice(1, 3), slice(8, 14), slice(5, 11))
SEEN = 2 * 6 * 6

EXPERIMENT = """
network = {{ _target_ = "monai.networks.nets.UNet", spatial_dims = {dims}, in_channels = {channels}, \
out_channels = 2, channels = [4, 8], strides = [2] }}

[data]
format = "pairs"
folder = "pairs"
options = {{ intensity_unit = "HU" }}
attribution = "Made by a test."

[target]
name = "ball"
version = "0.1.0"
title = "Balls"
description = "Finds balls."
modality = "CT"
intensity_unit = "HU"
limits = ["Knows nothing but balls."]

[[target.labels]]
number = 1
name = "Ball"
kind = "lesion"
category = {{ value = "49755003", scheme = "SCT", meaning = "Morphologically Altered Structure" }}
type = {{ value = "27925004", scheme = "SCT", meaning = "Nodule" }}

[preprocessing]
spatial_dims = {dims}
spacing_mm = ["native", "native", "native"]
intensity = {{ kind = "window", low = 0.0, high = 200.0 }}
window_size = {window}
context_slices = {context}

[postprocessing]

[augmentation]
mirror = ["column"]

[fitting]
seed = 1
steps = 4
batch_size = 2
window_size = {window}
learning_rate = 1e-2
validate_every = 2
"""


def bright_ball() -> np.ndarray:
    """Tissue of 40 with a lesion of 120, (slice, row, column)."""
    voxels = np.full(SHAPE, 40, np.int16)
    voxels[BALL] = 120
    return voxels


def truth_of(rows_more: int) -> np.ndarray:
    """The lesion and `rows_more` rows below it that do not look like one."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[BALL[0], BALL[1].start : BALL[1].stop + rows_more, BALL[2]] = 1
    return truth


ROWS_MORE = {"exact": 0, "bigger": 2, "much_bigger": 10}
DICE = {name: 12 / (12 + more) for name, more in ROWS_MORE.items()}


def loaded(truth: np.ndarray, name: str = "one", affine: np.ndarray | None = None) -> LoadedCase:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])[[2, 1, 0, 3]] if affine is None else affine
    volume = Volume(bright_ball(), affine, "HU")
    return LoadedCase(Case(name, name, "test"), volume, truth, np.zeros(SHAPE, np.bool_))


def write_project(folder: Path, dims: int = 2, context: int = 0) -> tuple[Path, Path]:
    """A bundle that is a threshold, and an experiment with three test cases."""
    data = folder / "pairs"
    data.mkdir(parents=True)
    lines = ["case,group,image,mask,split"]
    for name, more in ROWS_MORE.items():
        for kind, values in (("image", bright_ball()), ("mask", truth_of(more))):
            nibabel.save(nibabel.Nifti1Image(values.T, AFFINE_RAS), data / f"{name}_{kind}.nii.gz")
        lines.append(f"{name},{name},{name}_image.nii.gz,{name}_mask.nii.gz,test")
    for split in ("train", "val"):
        lines.append(f"{split},{split},exact_image.nii.gz,exact_mask.nii.gz,{split}")
    (data / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    window = [32, 32] if dims == 2 else [8, 32, 32]
    experiment = folder / "ball.toml"
    experiment.write_text(
        EXPERIMENT.format(dims=dims, context=context, channels=2 * context + 1, window=window),
        encoding="utf-8",
    )
    bundle = write_bundle(
        folder / "bundle",
        spatial_dims=dims,
        context_slices=context,
        preprocessing={"window_size": window},
        postprocessing={"temperature": 50.0},
    )
    return bundle, experiment


def report(*arguments: str | Path | int) -> str:
    app = typer.Typer()
    app.command()(trust)
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "trust.json").read_text(encoding="utf-8"))
    return content


def threshold_model(folder: Path, network: nn.Module | None = None, **card: Any) -> Model:
    size = {"window_size": [32, 32]}
    card["preprocessing"] = size | card.get("preprocessing", {})
    return Model(read_bundle(write_bundle(folder, **card)), torch.device("cpu"), network)


class LeftHalf(nn.Module):
    """Finds what is bright, but only in columns below 8 of the image (16 of a padded window)."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2, row, column)."""
        score = 1000.0 * (batch[:, :1] - 0.4)
        score[..., 6 + 8 :] = -50.0  # a window of 32 begins 6 columns before an image of 20
        return torch.cat([torch.zeros_like(score), score], dim=1)


@pytest.mark.parametrize(("dims", "context"), [(2, 1), (3, 0)])
def test_the_folder_holds_the_known_numbers_and_every_picture(
    tmp_path: Path, dims: int, context: int
) -> None:
    bundle, experiment = write_project(tmp_path, dims, context)
    out = tmp_path / "report"
    said = report(bundle, experiment, "--out", out)
    content = read(out)

    assert {case["case"]: case["dice"] for case in content["cases"]} == pytest.approx(DICE)
    found = [case["volume_found"] for case in content["cases"]]
    assert found == pytest.approx([SEEN * VOXEL_MM3] * 3)
    assert content["members"] == {"mirrored": ["column"], "n": 2}
    assert content["cover"]["n_covered"] == 1  # the members agree, so only the exact volume is covered
    assert content["cover"]["n_without_sd"] == 3
    assert [one["case"] for one in content["explained"]] == ["exact", "bigger", "much_bigger"]
    assert "within 2 SD in 1 of 3 cases" in said

    text = (out / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[.*\]\((.+?)\)", text)
    assert len(pictures) == 7
    assert {path.name for path in out.glob("*.png")} == set(pictures)
    for picture in pictures:
        with Image.open(out / picture) as image:
            assert np.asarray(image).std() > 0
    assert "near truth and findings" in text


def test_the_same_model_and_data_give_the_same_files(tmp_path: Path) -> None:
    bundle, experiment = write_project(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        report(bundle, experiment, "--out", folder, "--cases", 2, "--explain", 1)
    names = sorted(path.name for path in first.iterdir())
    assert len(names) == 7
    assert len(read(first)["cases"]) == 2
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_members_that_differ_give_the_spread_of_their_volumes(tmp_path: Path) -> None:
    model = threshold_model(tmp_path, LeftHalf())
    case, _ = observe(model, loaded(truth_of(0)), ("column",))
    left, right = 2 * 6 * 3 * VOXEL_MM3, 2 * 6 * 0 * VOXEL_MM3
    assert case.volume_found == pytest.approx(left)  # columns 5 to 7
    assert case.volume_sd == pytest.approx(np.std([left, right], ddof=1))
    assert case.disagreement == 1.0
    assert case.covered  # 72 off, and twice the SD is 101.8


def test_before_and_after_are_the_same_voxels_at_two_temperatures(tmp_path: Path) -> None:
    model = threshold_model(tmp_path, postprocessing={"temperature": 50.0})
    _, voxels = observe(model, loaded(truth_of(2)), ("column",))
    expected = np.where(voxels.after > 0.5, 1 / (1 + np.exp(-4.0)), 1 / (1 + np.exp(4.0)))
    np.testing.assert_allclose(voxels.after, expected, atol=1e-5)
    np.testing.assert_allclose(voxels.before, voxels.after > 0.5, atol=1e-6)
    assert np.count_nonzero(voxels.happened & (voxels.after < 0.5)) == 2 * 2 * 6

    both = sum_up([observe(model, loaded(truth_of(2)), ("column",))[0]], [voxels])
    assert both.before is not None
    assert both.after is not None
    assert both.after.nll < both.before.nll


def test_ignored_voxels_are_in_neither_volume_nor_calibration(tmp_path: Path) -> None:
    model = threshold_model(tmp_path)
    case = loaded(truth_of(2))
    ignored = (case.truth > 0) & (case.volume.voxels == 40)
    seen, voxels = observe(model, replace(case, ignored=ignored), ("row",))
    assert seen.dice == 1.0
    assert seen.volume_truth == seen.volume_found
    assert not (voxels.happened & (voxels.after < 0.5)).any()


def test_an_image_without_millimetres_is_measured_in_pixels(tmp_path: Path) -> None:
    model = threshold_model(tmp_path)
    case = loaded(truth_of(0))
    one = LoadedCase(
        case.case, Volume(case.volume.voxels[1:2], None, "HU"), case.truth[1:2], case.ignored[1:2]
    )
    seen, voxels = observe(model, one, ("row", "column"))
    assert (seen.unit, seen.volume_found) == ("px", 36.0)
    with pytest.raises(DataError, match="share one unit"):
        sum_up([seen, observe(model, case, ("row",))[0]], [voxels, voxels])


def test_without_an_axis_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="two at least"):
        observe(threshold_model(tmp_path), loaded(truth_of(0)), ())


def a_case(name: str, dice: float, found: float, truth: float, sd: float, voxels: int = 9) -> CaseTrust:
    return CaseTrust(name, name, "", dice, "mm3", found, truth, sd, 1.0 - dice, None, 0.0, voxels)


def test_cover_counts_cases_with_a_lesion_within_two_standard_deviations() -> None:
    cases = [
        a_case("at the limit", 0.9, 120.0, 100.0, 10.0),
        a_case("beyond it", 0.8, 121.0, 100.0, 10.0),
        a_case("all agree", 0.0, 0.0, 100.0, 0.0),
        a_case("no lesion", 1.0, 0.0, 0.0, 0.0),
    ]
    cover = volume_cover(cases)
    assert (cover.n, cover.n_covered, cover.n_without_sd) == (3, 1, 1)
    assert cover.share == pytest.approx(1 / 3)
    assert cover.errors_per_sd == pytest.approx(2.05)
    assert cover.share_interval is not None
    assert cover.share_interval[0] < 1 / 3 < cover.share_interval[1]


def test_shown_cases_run_from_the_best_to_the_worst_and_need_a_visible_truth() -> None:
    cases = [a_case(f"c{n}", n / 10, 0.0, 1.0, 0.0) for n in range(10)]
    cases.append(a_case("vanished", 0.0, 0.0, 1.0, 0.0, voxels=0))
    shown = choose(cases, 3)
    assert [one.trust.case for one in shown] == ["c9", "c5", "c0"]
    assert [one.words for one in shown] == ["best, rank 1 of 10", "rank 5 of 10", "worst, rank 10 of 10"]
    assert [one.trust.case for one in choose(cases, 1)] == ["c0"]
    assert len(choose(cases, 99)) == 10
    assert choose(cases, 0) == []


def test_maps_lie_on_the_found_lesion_and_show_no_padding(tmp_path: Path) -> None:
    model = threshold_model(tmp_path, context_slices=1, postprocessing={"temperature": 50.0})
    one = explain(model, loaded(truth_of(2)), Choice(a_case("one", 0.9, 1.0, 1.0, 0.0), 1, 1))
    assert one.image.shape == one.cam.shape == one.occlusion.shape == SHAPE[1:]
    assert (one.slice_number, one.region, one.label) == (1, "found", "Lesion")
    assert one.found.sum() == 36
    assert one.truth.sum() == 48
    assert one.image[one.found].min() == pytest.approx(0.6)
    assert one.occlusion[one.found].min() > 0.0
    rows, columns = np.nonzero(np.abs(one.occlusion) > 1e-5)
    reach = [size - 1 for size in one.patch]  # of a patch that hides just the edge of the lesion
    assert rows.min() == BALL[1].start - reach[0]
    assert columns.max() == BALL[2].stop - 1 + reach[1]


def test_where_nothing_is_found_the_truth_is_explained(tmp_path: Path) -> None:
    model = threshold_model(tmp_path, threshold=190.0)
    one = explain(model, loaded(truth_of(0)), Choice(a_case("one", 0.0, 0.0, 1.0, 0.0), 1, 1))
    assert one.region == "truth"
    assert not one.found.any()
    with pytest.raises(DataError, match="no truth"):
        explain(model, loaded(np.zeros(SHAPE, np.uint8)), one.choice)


def test_cases_without_lesion_and_finding_make_a_report_of_what_is_left(tmp_path: Path) -> None:
    model = threshold_model(tmp_path, threshold=190.0)
    empty = [observe(model, loaded(np.zeros(SHAPE, np.uint8), name), ("row",)) for name in "ab"]
    found = sum_up([case for case, _ in empty], [voxels for _, voxels in empty])
    assert found.before is None
    assert found.cover.share is None
    assert "entropy_found" not in found.foretold
    assert found.foretold["disagreement"].auroc is None
    content = {
        "model": {"name": "m", "version": "1", "title": "M", "digest": "d", "temperature": 1.0},
        "data": {"split": "val", "n_cases": 2, "n_in_split": 2, "digest": "d"},
        "members": {"mirrored": ["row"], "n": 2},
        **found.to_plain(),
    }
    text = to_markdown(page.blocks(content, tmp_path, found, []), tmp_path)
    for words in ("nothing was measured", "nothing to cover", "No case was explained", "flatter"):
        assert words in text


def test_some_cases_are_drawn_by_a_seed_and_keep_their_order() -> None:
    cases = [Case(f"{n:02}", "g", "test") for n in range(30)]
    drawn = some_of(cases, 7)
    assert drawn == some_of(cases, 7) == sorted(drawn, key=lambda case: case.name)
    assert len({case.name for case in drawn}) == 7
    assert drawn != cases[:7]
    assert some_of(cases, None) == some_of(cases, 99) == cases


def test_an_axis_that_is_none_is_refused() -> None:
    assert axes_of(["column", "slice", "column"]) == ("slice", "column")
    with pytest.raises(ExperimentError, match="--mirror depth"):
        axes_of(["depth"])
