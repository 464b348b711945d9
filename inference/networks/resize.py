"""Linear resizing of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

MODES = {2: "bilinear", 3: "trilinear"}


def resized(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """`features` (n, channel, ...) brought to the spatial `size`, bi- or trilinearly."""
    if tuple(features.shape[2:]) == tuple(size):
        return features
    mode = MODES[features.ndim - 2]
    return functional.interpolate(features, size=tuple(size), mode=mode, align_corners=False)
