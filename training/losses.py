"""What training minimises."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.config import LossWeights


def segmentation_loss(
    logits: torch.Tensor, lesion: torch.Tensor, counted: torch.Tensor, weights: LossWeights
) -> torch.Tensor:
    """Weighted cross entropy plus the Tversky loss.

    `logits` (n, 2, row, column); `lesion` and `counted` bool (n, row, column). Pixels that are not
    counted take no part. A lesion fills about 1 % of a window: without a weight the network learns
    to find nothing.
    """
    entropy = functional.cross_entropy(logits, lesion.long(), reduction="none")
    weight = counted * torch.where(lesion, weights.lesion, 1.0)
    weighted = (entropy * weight).sum() / weight.sum().clamp_min(1.0)
    probability = logits.softmax(dim=1)[:, 1]
    loss: torch.Tensor = weights.cross_entropy * weighted
    return loss + weights.tversky * tversky_loss(probability, lesion, counted, weights.missed)


def tversky_loss(
    probability: torch.Tensor, lesion: torch.Tensor, counted: torch.Tensor, missed: float
) -> torch.Tensor:
    """1 - Tversky index over the whole batch; `missed` = 0.5 makes it the Dice loss.

    `probability` of lesion (n, row, column). Salehi et al., MLMI 2017. One pixel is added to both
    sides of the fraction, so a batch without lesions has the loss 0 when nothing is found in it.
    """
    truth = (lesion & counted).float()
    found = probability * counted
    hit = (found * truth).sum()
    false = (found * (1.0 - truth)).sum()
    lost = ((1.0 - found) * truth).sum()
    return 1.0 - (hit + 1.0) / (hit + (1.0 - missed) * false + missed * lost + 1.0)
