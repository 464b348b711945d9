"""Uncertainty of members that agree or differ in known ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dicomnode.selftest.bundles import write_bundle
from inference.bundle import read_bundle
from inference.engine import Model
from inference.preprocess import ModelInput
from training.errors import RunError
from training.trust.uncertainty import foretells_error, mirrored_members, uncertainty

CPU = torch.device("cpu")


class LooksLeft(torch.nn.Module):
    """Calls a pixel lesion when its neighbour on the left is bright: not the same from the right."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2, row, column)."""
        left = torch.nn.functional.pad(batch[:, :1], (1, 0))[..., :-1]
        return torch.cat([-20.0 * (left - 0.5), 20.0 * (left - 0.5)], dim=1)


def bright_pixel() -> ModelInput:
    image = torch.zeros(3, 64, 64)
    image[1, 20, 30] = 1.0
    return ModelInput(image, (slice(0, 3), slice(0, 64), slice(0, 64)), (3, 64, 64))


def members_of(*fields: np.ndarray) -> torch.Tensor:
    """Members of two classes with these lesion probabilities (slice, row, column)."""
    return torch.from_numpy(np.stack([np.stack([1.0 - p, p]) for p in fields]))


def field(value: float, columns: slice = slice(0, 8)) -> np.ndarray:
    p = np.zeros((2, 8, 8))
    p[:, :, columns] = value
    return p


def test_mirrored_members_are_turned_back_onto_the_image(tmp_path: Path) -> None:
    model = Model(read_bundle(write_bundle(tmp_path)), CPU, LooksLeft())
    members = mirrored_members(model, bright_pixel(), ("row", "column"))
    places = [np.argwhere(member[1].numpy() > 0.5).tolist() for member in members]
    assert places == [[[1, 20, 31]], [[1, 20, 31]], [[1, 20, 29]], [[1, 20, 29]]]


def test_a_model_that_averages_over_mirror_images_has_members_that_differ(tmp_path: Path) -> None:
    bundle = read_bundle(write_bundle(tmp_path, preprocessing={"mirrored": ["column"]}))
    members = mirrored_members(Model(bundle, CPU, LooksLeft()), bright_pixel(), ("column",))
    assert members.shape == (2, 2, 3, 64, 64)
    assert not torch.equal(members[0], members[1])


def test_members_that_agree_are_certain_of_each_other() -> None:
    result = uncertainty(members_of(field(0.8), field(0.8), field(0.8)), 0.5, voxel_size=2.0)
    assert np.abs(result.mutual_information).max() < 1e-12
    assert result.pairwise_dice == 1.0
    assert (result.volume_mean, result.volume_sd) == (256.0, 0.0)
    assert result.mean_entropy == pytest.approx(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)))


def test_members_that_are_sure_of_opposites_have_all_their_entropy_from_disagreement() -> None:
    result = uncertainty(members_of(field(1.0, slice(0, 4)), field(1.0, slice(4, 8))), 0.5)
    assert result.entropy == pytest.approx(np.full((2, 8, 8), np.log(2)))
    assert result.mutual_information == pytest.approx(result.entropy)
    assert result.pairwise_dice == 0.0


def test_volumes_and_overlap_of_members_are_those_of_their_masks() -> None:
    members = members_of(field(0.9), field(0.9, slice(0, 4)), field(0.9, slice(0, 4)))
    result = uncertainty(members, 0.5, voxel_size=0.5)
    assert result.volume_mean == pytest.approx((64 + 32 + 32) / 3)
    assert result.volume_sd == pytest.approx(np.std([64, 32, 32], ddof=1))
    assert result.pairwise_dice == pytest.approx((1.0 + 2 * (2 * 64 / (128 + 64))) / 3)


def test_entropy_counts_only_where_something_is_found() -> None:
    result = uncertainty(members_of(*[np.where(field(1.0, slice(0, 2)) > 0, 1.0, 0.4)] * 2), 0.5)
    assert result.mean_entropy == pytest.approx(0.0)
    assert result.entropy.max() > 0.6
    nothing = uncertainty(members_of(field(0.4), field(0.4)), 0.5)
    assert (nothing.mean_entropy, nothing.pairwise_dice, nothing.volume_sd) == (None, 1.0, 0.0)


def test_one_member_says_nothing() -> None:
    with pytest.raises(RunError, match="two at least"):
        uncertainty(members_of(field(0.5)), 0.5)


def test_an_uncertainty_in_the_order_of_the_errors_foretells_them() -> None:
    dice = [0.95, 0.9, 0.8, 0.4, 0.1]
    result = foretells_error([0.01, 0.02, 0.3, 0.35, 2.0], dice)
    assert result.spearman == pytest.approx(1.0)
    assert (result.auroc, result.n, result.n_failed) == (1.0, 5, 2)
    assert result.aurc == pytest.approx(result.aurc_at_best)
    assert result.risk == pytest.approx([0.05, 0.075, 0.35 / 3, 0.95 / 4, 1.85 / 5])
    assert result.coverage == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_an_uncertainty_in_the_opposite_order_is_worse_than_chance() -> None:
    result = foretells_error([5.0, 4.0, 3.0, 2.0], [0.9, 0.8, 0.3, 0.2])
    assert result.spearman == pytest.approx(-1.0)
    assert result.auroc == 0.0
    assert result.aurc > result.aurc_of_chance > result.aurc_at_best


def test_an_uncertainty_that_is_always_the_same_foretells_nothing() -> None:
    result = foretells_error([1.0] * 4, [0.9, 0.2, 0.7, 0.4])
    assert result.spearman is None
    assert result.auroc == 0.5
    assert result.aurc == pytest.approx(result.aurc_of_chance)


def test_without_a_failed_case_there_is_no_auroc() -> None:
    assert foretells_error([1.0, 2.0], [0.9, 0.8]).auroc is None


def test_values_must_come_in_pairs() -> None:
    with pytest.raises(RunError, match="1 and 2"):
        foretells_error([1.0], [0.9, 0.8])
    with pytest.raises(RunError, match="one case at least"):
        foretells_error([], [])
