"""Layers with few output channels, as layers with more: the same answers in half the time.

A vector of a processor holds 16 numbers, and oneDNN gives each output channel one of them. The last layers
of a network have two or three channels at full size, and leave most of every vector empty.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from inference.networks.onednn import CHANNELS_LAST, Merged, convolved

NUMBERS_PER_VECTOR = 16
MOST_CHANNELS = 8
MOST_SPREAD = 32
"""Channels of all voxels that one voxel of a transposed convolution becomes."""


class Strip(Merged):
    """A convolution that answers for `width` neighbours along the last axis at once, as channels of one.

    Channels lie side by side in memory, so neighbours as channels lie as neighbours do: nothing is moved.
    """

    def __init__(self, layer: Merged) -> None:
        super().__init__(layer.convolution, layer.name)
        self.slope = layer.slope
        self.width = 1 << ((NUMBERS_PER_VECTOR // layer.convolution.out_channels).bit_length() - 1)
        self.wide = _wide(layer.convolution, self.width)

    def forward(self, image: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """As `Merged.forward`."""
        if image.shape[-1] % self.width:
            return super().forward(image, other)
        beside = None if other is None else _as_strips(other, self.width)
        return _as_voxels(convolved(self.wide, self.slope, image, beside), self.width)


class Spread(Merged):
    """A transposed convolution as a convolution whose channels are the voxels that each voxel becomes."""

    def __init__(self, layer: Merged) -> None:
        super().__init__(layer.convolution, layer.name)
        self.slope = layer.slope
        self.spread, self.first = _spread(layer.convolution)

    def forward(self, image: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """As `Merged.forward`."""
        assert other is None
        found = convolved(self.spread, self.slope, image, None).movedim(1, -1)
        place = tuple(slice(a, a + n) for a, n in zip(self.first, image.shape[2:], strict=True))
        axes, steps = len(place), self.convolution.stride
        channels = *steps, self.convolution.out_channels
        voxels: torch.Tensor = torch.unflatten(found[(slice(None), *place)], -1, channels)
        beside = [axis for number in range(axes) for axis in (1 + number, 1 + axes + number)]
        size = [n * step for n, step in zip(image.shape[2:], steps, strict=True)]
        return voxels.permute(0, *beside, 1 + 2 * axes).reshape(len(image), *size, -1).movedim(-1, 1)


def widen_narrow(network: nn.Module) -> None:
    """Give the narrow layers of a merged network, in place, the form that fills vectors.

    The new forms have weights that are 0: what is not a number spreads farther through them.
    """
    for name, module in list(network.named_children()):
        if type(module) is not Merged:
            widen_narrow(module)
        elif _can_be_strip(module.convolution):
            setattr(network, name, Strip(module))
        elif _can_spread(module.convolution):
            setattr(network, name, Spread(module))


def _can_be_strip(layer: _ConvNd) -> bool:
    """Whether it has few outputs, and one for each voxel along the last axis, from more voxels than one."""
    return (
        not isinstance(layer, _ConvTransposeNd)
        and layer.out_channels <= MOST_CHANNELS
        and layer.groups == layer.stride[-1] == layer.dilation[-1] == 1
        and layer.kernel_size[-1] == 2 * int(layer.padding[-1]) + 1 > 1
    )


def _can_spread(layer: _ConvNd) -> bool:
    """Whether it has few outputs, and each voxel becomes as many as its stride says."""
    if not isinstance(layer, _ConvTransposeNd) or layer.groups > 1 or set(layer.dilation) != {1}:
        return False
    spread = layer.out_channels * torch.Size(layer.stride).numel()
    sizes = zip(layer.kernel_size, layer.output_padding, layer.stride, map(int, layer.padding), strict=True)
    return (
        layer.out_channels <= MOST_CHANNELS
        and layer.out_channels < spread <= MOST_SPREAD
        and all(kernel + more == step + 2 * padding for kernel, more, step, padding in sizes)
    )


def _as_strips(image: torch.Tensor, width: int) -> torch.Tensor:
    """A map with `width` voxels of the last axis as channels of one."""
    rows = image.movedim(1, -1)
    return torch.unflatten(rows, -2, (-1, width)).flatten(-2).movedim(-1, 1)


def _as_voxels(strips: torch.Tensor, width: int) -> torch.Tensor:
    """What `_as_strips` was given."""
    rows = strips.movedim(1, -1)
    return torch.unflatten(rows, -1, (width, -1)).flatten(-3, -2).movedim(-1, 1)


def _wide(layer: _ConvNd, width: int) -> _ConvNd:
    """A convolution with the outputs (place in the strip, channel), whose kernel sees the whole strip."""
    *kernel, last = layer.kernel_size
    outputs, inputs = layer.weight.shape[:2]
    weight = layer.weight.new_zeros(width, outputs, inputs, *kernel, last + width - 1)
    for place in range(width):
        weight[place, ..., place : place + last] = layer.weight.detach()
    return _convolution(
        weight.flatten(0, 1), layer.bias, width, (*layer.stride[:-1], width), layer.padding, layer.dilation
    )


def _spread(layer: _ConvNd) -> tuple[_ConvNd, list[int]]:
    """A convolution with the outputs (place in the step, channel), and where its map begins to count.

    Output `step * i + place` of an axis is a sum over inputs `i + offset` by the weights
    `place + padding - step * offset`.
    """
    axes = list(zip(layer.stride, map(int, layer.padding), layer.kernel_size, strict=True))
    offsets = [_offsets(*axis) for axis in axes]
    sizes = [len(along) for along in offsets]
    taps_first = layer.weight.detach().movedim((0, 1), (-1, -2))
    weight = taps_first.new_zeros(*layer.stride, *sizes, *taps_first.shape[-2:])
    for places in product(*(range(step) for step in layer.stride)):
        for numbers in product(*(range(n) for n in sizes)):
            taps = tuple(
                place + padding - step * along[number]
                for place, number, along, (step, padding, _) in zip(
                    places, numbers, offsets, axes, strict=True
                )
            )
            if all(0 <= tap < n for tap, n in zip(taps, layer.kernel_size, strict=True)):
                weight[places + numbers] = taps_first[taps]
    weight = weight.movedim((-2, -1), (len(axes), len(axes) + 1)).flatten(0, len(axes))
    paddings = [max(-along[0], along[-1]) for along in offsets]
    voxels = torch.Size(layer.stride).numel()
    spread = _convolution(weight, layer.bias, voxels, 1, tuple(paddings), 1)
    return spread, [padding + along[0] for padding, along in zip(paddings, offsets, strict=True)]


def _offsets(step: int, padding: int, kernel: int) -> range:
    """Of the inputs that the outputs of a step depend on."""
    of_taps = [
        (place + padding - tap) // step
        for place, tap in product(range(step), range(kernel))
        if (place + padding - tap) % step == 0
    ]
    return range(min(of_taps), max(of_taps) + 1)


def _convolution(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    copies: int,
    stride: int | tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: int | tuple[int, ...],
) -> _ConvNd:
    """A convolution with this weight, and the bias of a narrow one `copies` times."""
    of = {4: nn.Conv2d, 5: nn.Conv3d}[weight.ndim]
    outputs, inputs, *kernel = weight.shape
    layer = of(inputs, outputs, tuple(kernel), stride, padding, dilation, bias=bias is not None)  # type: ignore[arg-type]
    layer.weight = nn.Parameter(
        weight.contiguous(memory_format=CHANNELS_LAST[weight.ndim]), requires_grad=False
    )
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().repeat(copies), requires_grad=False)
    return layer.eval()
