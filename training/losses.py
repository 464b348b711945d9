"""What training minimises."""

from __future__ import annotations

import torch
from torch.nn import functional

from training.config import LossWeights


def segmentation_loss(
    logits: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor, weights: LossWeights
) -> torch.Tensor:
    """Weighted cross entropy plus the Tversky loss.

    `logits` (n, class, ...), or (n, head, class, ...) from a network with deep supervision, whose heads
    weigh 1, 1/2, 1/4 ... (Isensee et al., Nat Methods 2021). `truth` int64 and `counted` bool (n, ...):
    what is not counted takes no part.
    """
    if logits.ndim == truth.ndim + 1:
        return _one_head(logits, truth, counted, weights)
    shares = torch.tensor([0.5**head for head in range(logits.shape[1])])
    heads = [_one_head(logits[:, head], truth, counted, weights) for head in range(logits.shape[1])]
    total: torch.Tensor = sum(
        (share * loss for share, loss in zip(shares / shares.sum(), heads, strict=True)), torch.zeros(())
    )
    return total


def _one_head(
    logits: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor, weights: LossWeights
) -> torch.Tensor:
    entropy = functional.cross_entropy(logits, truth, reduction="none")
    weight = counted * torch.where(truth > 0, weights.lesion, 1.0)
    weighted = (entropy * weight).sum() / weight.sum().clamp_min(1.0)
    probabilities = logits.softmax(dim=1)
    labels = range(1, logits.shape[1])
    overlap = [tversky_loss(probabilities[:, k], truth == k, counted, weights.missed) for k in labels]
    loss: torch.Tensor = weights.cross_entropy * weighted + weights.tversky * torch.stack(overlap).mean()
    return loss


def tversky_loss(
    probability: torch.Tensor, lesion: torch.Tensor, counted: torch.Tensor, missed: float
) -> torch.Tensor:
    """1 - Tversky index of one label over the whole batch; `missed` = 0.5 makes it the Dice loss.

    `probability` of the label (n, ...). Salehi et al., MLMI 2017. One pixel is added to both
    sides of the fraction, so a batch without the label has the loss 0 when nothing is found in it.
    """
    truth = (lesion & counted).float()
    found = probability * counted
    hit = (found * truth).sum()
    false = (found * (1.0 - truth)).sum()
    lost = ((1.0 - found) * truth).sum()
    return 1.0 - (hit + 1.0) / (hit + (1.0 - missed) * false + missed * lost + 1.0)
