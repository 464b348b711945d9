"""The fully convolutional network (FCN-8s) of Long, Shelhamer and Darrell, CVPR 2015."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from inference.networks.resize import resized

SCORED = 3
"""How many of the deepest pooled maps are scored."""


class FCN(nn.Module):
    """Plain convolutions and pooling; three depths are scored, upsampled and added.

    In: (n, channel, row, column) or (n, channel, slice, row, column) of any size. Out: logits of the
    same size. One block of two 3x3 convolutions and one pooling for each number in `channels`: with
    five the scored strides are 8, 16 and 32, as in FCN-8s. Against the paper it has fewer channels,
    normalises after each convolution of a block, replaces the 7x7 layer "fc6" by a 3x3 one, and
    always upsamples linearly where the paper learns a filter that starts as linear.

    Raises ValueError when `channels` has fewer than three numbers.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128, 256, 256),
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if len(channels) < SCORED:
            raise ValueError(f"channels needs at least {SCORED} numbers: {list(channels)}")
        widths = [in_channels, *channels]
        self.blocks = nn.ModuleList(
            _block(spatial_dims, before, after, norm) for before, after in pairwise(widths)
        )
        # A last map too small to pool evenly keeps its border: no size loses its edge pixels.
        self.pool = Pool[Pool.MAX, spatial_dims](kernel_size=2, ceil_mode=True)
        self.head = nn.Sequential(
            _layer(spatial_dims, channels[-1], channels[-1], 3, None),
            _layer(spatial_dims, channels[-1], channels[-1], 1, None),
        )
        self.scores = nn.ModuleList(
            Conv[Conv.CONV, spatial_dims](width, out_channels, kernel_size=1) for width in channels[-SCORED:]
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, class, ...) of the size of `image`."""
        maps = []
        features = image
        for block in self.blocks:
            features = self.pool(block(features))
            maps.append(features)
        maps[-1] = self.head(features)
        scores = [score(features) for score, features in zip(self.scores, maps[-SCORED:], strict=True)]
        logits = scores.pop()
        while scores:
            finer = scores.pop()
            logits = resized(logits, finer.shape[2:]) + finer
        return resized(logits, image.shape[2:])


def _block(spatial_dims: int, before: int, after: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        _layer(spatial_dims, before, after, 3, norm), _layer(spatial_dims, after, after, 3, norm)
    )


def _layer(spatial_dims: int, before: int, after: int, kernel_size: int, norm: str | None) -> nn.Module:
    layer: nn.Module = Convolution(
        spatial_dims, before, after, kernel_size=kernel_size, adn_ordering="NA", act="relu", norm=norm
    )
    return layer
