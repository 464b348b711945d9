"""Whether two ways to compute a network mean the same: the share of labels that they have in common."""

from __future__ import annotations

import torch

LEAST_AGREEMENT = 0.999
"""Of the exact mode; on noise, of which more lies near a border between labels than of an image."""


def noise(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Images (n, channel, ...) of noise, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def agreement(found: torch.Tensor, expected: torch.Tensor, overlap: bool) -> float:
    """Share of the labels that two logits (n, class, ...) both mean; 0 for what is not a number.

    With `overlap` each class is a label by itself.
    """
    if not found.isfinite().all():
        return 0.0
    there, here = (logits > 0 if overlap else logits.argmax(dim=1) for logits in (found, expected))
    return float((there == here).double().mean())
