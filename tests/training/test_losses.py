"""The loss against worked examples and another package."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses.dice import DiceLoss

from training.config import LossWeights
from training.losses import segmentation_loss, tversky_loss

BOTH = LossWeights()
ENTROPY = LossWeights(tversky=0.0)
OVERLAP = LossWeights(cross_entropy=0.0)


def random_batch(
    classes: int = 2, shape: tuple[int, ...] = (12, 14), seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, *shape, generator=generator) * 2
    truth = torch.randint(0, classes, (3, *shape), generator=generator)
    return logits, truth, torch.rand(3, *shape, generator=generator) < 0.8


def worked() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four pixels with lesion probabilities 0.8, 0.4, 0.2, 0.5; lesions are the first two; the last is not
    counted."""
    probability = torch.tensor([0.8, 0.4, 0.2, 0.5])
    logits = torch.stack([1 - probability, probability]).log()[None, :, None, :]
    truth = torch.tensor([[[1, 1, 0, 1]]])
    return logits, truth, torch.tensor([[[True, True, True, False]]])


def test_cross_entropy_of_the_worked_example_weighs_lesions_and_leaves_out_what_does_not_count() -> None:
    weights = ENTROPY.model_copy(update={"lesion": 3.0})
    expected = -(3 * math.log(0.8) + 3 * math.log(0.4) + math.log(0.8)) / 7
    assert segmentation_loss(*worked(), weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("missed", [0.5, 0.7])
def test_tversky_of_the_worked_example(missed: float) -> None:
    hit, false, lost = 0.8 + 0.4, 0.2, 0.2 + 0.6
    expected = 1 - (hit + 1) / (hit + (1 - missed) * false + missed * lost + 1)
    weights = OVERLAP.model_copy(update={"missed": missed})
    assert segmentation_loss(*worked(), weights).item() == pytest.approx(expected, rel=1e-5)


def test_both_parts_are_added_with_their_weights() -> None:
    batch = random_batch()
    entropy, overlap = (segmentation_loss(*batch, weights) for weights in (ENTROPY, OVERLAP))
    both = segmentation_loss(*batch, LossWeights(cross_entropy=2.0, tversky=0.5))
    assert both.item() == pytest.approx(2 * entropy.item() + 0.5 * overlap.item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(24, 30), (8, 12, 14)])
@pytest.mark.parametrize("classes", [2, 4])
def test_equal_tversky_weights_make_the_dice_loss_of_another_package(
    classes: int, shape: tuple[int, ...]
) -> None:
    logits, truth, _ = random_batch(classes, shape)
    everything = torch.ones_like(truth, dtype=torch.bool)
    ours = segmentation_loss(logits, truth, everything, OVERLAP)
    # one pixel on both sides of the Tversky fraction is two of the Dice fraction
    theirs = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=2.0, smooth_dr=2.0
    )(logits, truth[:, None])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_cross_entropy_of_several_classes_is_that_of_torch() -> None:
    logits, truth, counted = random_batch(4)
    expected = torch.nn.functional.cross_entropy(logits.movedim(1, -1)[counted], truth[counted])
    assert segmentation_loss(logits, truth, counted, ENTROPY).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_what_is_not_counted_changes_nothing_and_gets_no_gradient(classes: int) -> None:
    logits, truth, counted = random_batch(classes)
    other = torch.where(counted[:, None], logits, torch.randn_like(logits) * 50)
    otherwise = torch.where(counted, truth, 0)
    losses = []
    for tried, known in ((logits, truth), (other, truth), (logits, otherwise)):
        tried = tried.clone().requires_grad_()
        loss = segmentation_loss(tried, known, counted, BOTH)
        loss.backward()  # type: ignore[no-untyped-call]
        assert tried.grad is not None
        assert (tried.grad.movedim(1, -1)[~counted] == 0).all()
        assert (tried.grad.movedim(1, -1)[counted] != 0).any()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)


def test_a_batch_of_which_nothing_counts_costs_nothing_and_has_a_finite_gradient() -> None:
    logits, truth, counted = random_batch()
    logits.requires_grad_()
    loss = segmentation_loss(logits, truth, torch.zeros_like(counted), BOTH)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None and (logits.grad == 0).all()


def test_a_background_batch_costs_less_the_less_is_found_in_it() -> None:
    nothing = torch.zeros(2, 8, 8, dtype=torch.bool)
    counted = torch.ones_like(nothing)
    losses = [tversky_loss(torch.full((2, 8, 8), p), nothing, counted, 0.5).item() for p in (0.0, 0.1, 0.9)]
    assert losses[0] == pytest.approx(0.0)
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("shape", [(12, 14), (6, 8, 10)])
def test_heads_of_deep_supervision_weigh_half_of_the_one_before(shape: tuple[int, ...]) -> None:
    _, truth, counted = random_batch(3, shape)
    heads = [random_batch(3, shape, seed)[0] for seed in (1, 2, 3)]
    single = [segmentation_loss(head, truth, counted, BOTH).item() for head in heads]
    together = segmentation_loss(torch.stack(heads, dim=1), truth, counted, BOTH).item()
    assert together == pytest.approx((4 * single[0] + 2 * single[1] + single[2]) / 7, rel=1e-5)


def test_the_sure_and_right_cost_almost_nothing_and_the_sure_and_wrong_much() -> None:
    _, truth, counted = random_batch(3)
    right = torch.nn.functional.one_hot(truth, 3).movedim(-1, 1) * 40.0
    assert segmentation_loss(right, truth, counted, BOTH).item() < 1e-3
    assert segmentation_loss(right.roll(1, dims=1), truth, counted, BOTH).item() > 20.0
