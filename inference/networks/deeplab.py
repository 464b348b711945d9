"""DeepLabV3+ of Chen et al., ECCV 2018: dilated convolutions at several rates, and a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks.convolutions import Convolution, ResidualUnit
from monai.networks.layers.factories import Conv
from torch import nn

from inference.networks.resize import resized

STAGES = {8: ((2, 1), (2, 1), (1, 2), (1, 4)), 16: ((2, 1), (2, 1), (2, 1), (1, 2))}
"""(stride, dilation) of the four encoder stages for each output stride; the stem halves once before."""
UNITS = 2
"""Residual units in a stage, of two convolutions each: a ResNet-18."""


class DeepLabV3Plus(nn.Module):
    """Residual encoder, atrous spatial pyramid pooling, and a decoder that adds the map at stride 4.

    In: (n, channel, row, column) or (n, channel, slice, row, column) of any size. Out: logits of the
    same size. `channels` are those of the four encoder stages; `rates` are the dilations of the
    pyramid in pixels of the encoder's map, which is `output_stride` times coarser than the image
    (paper: 6, 12, 18 at stride 16 on images of 513). Against the paper the encoder is smaller (it
    uses Xception or ResNet-101) and convolutions are not separable.

    Raises ValueError when `output_stride` is neither 8 nor 16, or `channels` are not four.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128, 192),
        output_stride: int = 16,
        rates: Sequence[int] = (6, 12, 18),
        pyramid_channels: int = 96,
        low_level_channels: int = 24,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if output_stride not in STAGES:
            raise ValueError(f"output_stride {output_stride} must be one of {sorted(STAGES)}")
        stages = STAGES[output_stride]
        if len(channels) != len(stages):
            raise ValueError(f"channels needs {len(stages)} numbers: {list(channels)}")
        self.stem = _layer(spatial_dims, in_channels, channels[0], 3, norm, stride=2)
        widths = [channels[0], *channels]
        self.stages = nn.ModuleList(
            _stage(spatial_dims, before, after, norm, stride, dilation)
            for before, after, (stride, dilation) in zip(widths[:-1], channels, stages, strict=True)
        )
        self.pyramid = _Pyramid(spatial_dims, channels[-1], pyramid_channels, rates, norm)
        self.low_level = _layer(spatial_dims, channels[0], low_level_channels, 1, norm)
        self.decoder = nn.Sequential(
            _layer(spatial_dims, pyramid_channels + low_level_channels, pyramid_channels, 3, norm),
            _layer(spatial_dims, pyramid_channels, pyramid_channels, 3, norm),
            Conv[Conv.CONV, spatial_dims](pyramid_channels, out_channels, kernel_size=1),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, class, ...) of the size of `image`."""
        first, *others = self.stages
        fine = first(self.stem(image))
        features = fine
        for stage in others:
            features = stage(features)
        features = resized(self.pyramid(features), fine.shape[2:])
        return resized(self.decoder(torch.cat([features, self.low_level(fine)], dim=1)), image.shape[2:])


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: one pixel, three dilations and the whole image side by side."""

    def __init__(self, spatial_dims: int, before: int, after: int, rates: Sequence[int], norm: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_layer(spatial_dims, before, after, 1, norm)]
            + [_layer(spatial_dims, before, after, 3, norm, dilation=rate) for rate in rates]
        )
        # Without a norm: one value per channel and image leaves nothing to take a deviation from.
        self.whole_image = _layer(spatial_dims, before, after, 1, None)
        self.project = _layer(spatial_dims, after * (len(rates) + 2), after, 1, norm)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        seen = [branch(features) for branch in self.branches]
        mean = features.mean(dim=tuple(range(2, features.ndim)), keepdim=True)
        seen.append(self.whole_image(mean).expand(-1, -1, *features.shape[2:]))
        projected: torch.Tensor = self.project(torch.cat(seen, dim=1))
        return projected


def _stage(
    spatial_dims: int, before: int, after: int, norm: str, stride: int, dilation: int
) -> nn.Sequential:
    return nn.Sequential(
        *(
            ResidualUnit(
                spatial_dims,
                before if unit == 0 else after,
                after,
                strides=stride if unit == 0 else 1,
                dilation=dilation,
                adn_ordering="NA",
                act="relu",
                norm=norm,
                bias=False,
            )
            for unit in range(UNITS)
        )
    )


def _layer(
    spatial_dims: int,
    before: int,
    after: int,
    kernel_size: int,
    norm: str | None,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Module:
    layer: nn.Module = Convolution(
        spatial_dims,
        before,
        after,
        kernel_size=kernel_size,
        strides=stride,
        dilation=dilation,
        adn_ordering="NA",
        act="relu",
        norm=norm,
        bias=norm is None,
    )
    return layer
