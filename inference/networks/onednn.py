"""A network for the CPU: convolution, norm and activation in one call of oneDNN, with the same answers.

By itself torch sends a convolution of a 3-D map with few rows past oneDNN, to one of its own that copies the
map 27 times and takes up to three times as long. The functions called here are those that torch.compile
uses; they need no compiler, and have no gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from monai.networks.blocks.convolutions import ResidualUnit
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

from inference.networks.normed import Normed, takes_from_image

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""How maps and weights lie in memory, by the number of their axes."""
TOLERANCE = 1e-3
"""Of the largest logit: how far merged layers may be from the network. They are usually within 1e-6, with
instance norms within 1e-5."""


class Merged(nn.Module):
    """A convolution with what follows it."""

    def __init__(self, convolution: _ConvNd, name: str) -> None:
        super().__init__()
        self.convolution = convolution
        self.name = name
        """That of the convolution in the network as it was loaded."""
        self.slope: float | None = None
        """What an activation multiplies negative values by; None without one."""

    def take_norm(self, norm: _BatchNorm) -> None:
        """Make a norm that follows part of the weights."""
        transposed = isinstance(self.convolution, _ConvTransposeNd)
        self.convolution = fuse_conv_bn_eval(self.convolution, norm, transpose=transposed)

    def drop_bias(self) -> None:
        """For a norm that takes the mean away again: sums of squares are the more exact for it."""
        self.convolution.register_parameter("bias", None)

    @property
    def can_add(self) -> bool:
        """Whether the call adds another map at its end."""
        return self.slope is None and not isinstance(self.convolution, _ConvTransposeNd)

    def forward(self, image: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """The map (n, channel, ...) of `image` (n, channel, ...); plus `other`, where it `can_add`."""
        return convolved(self.convolution, self.slope, image, other)


def convolved(
    layer: _ConvNd, slope: float | None, image: torch.Tensor, other: torch.Tensor | None
) -> torch.Tensor:
    """The map of `image` by one call of oneDNN, with the activation of a `slope`, or `other` added to it."""
    # oneDNN's ReLU makes 0 of what is not a number, and hides how far a network looks
    fused = ("leaky_relu", [slope]) if slope else ("none", [])
    given = (layer.weight, layer.bias, layer.padding)
    size = (layer.stride, layer.dilation, layer.groups)
    convolve = torch.ops.mkldnn._convolution_pointwise
    result: torch.Tensor
    if other is not None:
        result = convolve.binary(image, other, *given, *size, "add", 1.0, None, [], None)
    elif isinstance(layer, _ConvTransposeNd):
        transposed = torch.ops.mkldnn._convolution_transpose_pointwise
        result = transposed(image, *given, layer.output_padding, *size, *fused, "")
    else:
        result = convolve(image, *given, *size, *fused, "")
    return functional.relu_(result) if slope == 0.0 else result


class Added(nn.Module):
    """A residual unit: `last(before(image)) + beside(image)`, with the sum in the last convolution's call."""

    def __init__(self, before: nn.Module, last: Merged, beside: nn.Module) -> None:
        super().__init__()
        self.before, self.last, self.beside = before, last, beside

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The map (n, channel, ...) of `image` (n, channel, ...)."""
        result: torch.Tensor = self.last(self.before(image), self.beside(image))
        return result


class Summed(nn.Module):
    """A residual unit that ends with an activation: `before(image) + image`, in the memory of the first."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before = before

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The map (n, channel, ...) of `image` (n, channel, ...)."""
        result: torch.Tensor = self.before(image)
        return result.add_(image)


class Place(NamedTuple):
    """Where a module is kept."""

    parent: nn.Module
    name: str
    module: nn.Module


@torch.inference_mode()
def merged(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy of `network` (in eval mode, on the CPU) with merged layers; itself where that cannot be.

    Both are tried on `example` (n, channel, ...), so a network that uses its layers in a way that is not
    foreseen here stays as it is.
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return network
    fast = copy.deepcopy(network)
    _merge_below(fast, {module: name for name, module in fast.named_modules()})
    _add_below(fast)
    expected = network(example)
    try:
        found = fast(example)
    except (RuntimeError, TypeError, AttributeError):  # a layer that oneDNN or the network refuses
        return network
    far = float((found - expected).abs().max()) > TOLERANCE * float(expected.abs().max())
    return network if far else fast


def _merge_below(parent: nn.Module, names: Mapping[nn.Module, str]) -> None:
    if is_chain(parent):
        _merge_chain(list(in_order(parent)), names)
        return
    for name, module in list(parent.named_children()):
        _merge_chain([Place(parent, name, module)], names)


def is_chain(module: nn.Module) -> bool:
    """Whether it does nothing but call its children one after the other."""
    return type(module).forward is nn.Sequential.forward


def in_order(chain: nn.Module) -> Iterator[Place]:
    """The modules that are called, in order, with chains in a chain opened."""
    for name, module in chain.named_children():
        if is_chain(module):
            yield from in_order(module)
        else:
            yield Place(chain, name, module)


def _merge_chain(places: list[Place], names: Mapping[nn.Module, str]) -> None:
    """Merge what follows a convolution into it, and leave nothing in its place."""
    last: Merged | Normed | None = None
    for parent, name, module in places:
        slope = _slope(module)
        if _can_merge(module):
            last = Merged(module, names[module])  # type: ignore[arg-type]  # mypy does not see through type()
            setattr(parent, name, last)
        elif takes_from_image(module):
            if isinstance(last, Merged):
                last.drop_bias()
            last = Normed(module)
            setattr(parent, name, last)
        elif isinstance(last, Merged) and isinstance(module, _BatchNorm) and module.running_var is not None:
            last.take_norm(module)
            setattr(parent, name, nn.Identity())
        elif last is not None and slope is not None:
            last.slope = slope
            setattr(parent, name, nn.Identity())
            last = None
        elif not isinstance(module, nn.Identity | _DropoutNd):
            last = None
            if not isinstance(module, Merged):  # met before: the network keeps it in two places
                _merge_below(module, names)


def _add_below(parent: nn.Module) -> None:
    """Make the sums of residual units part of their last convolutions."""
    for name, module in list(parent.named_children()):
        _add_below(module)
        if type(module) is ResidualUnit and (added := _added(module)) is not None:
            setattr(parent, name, added)


def _added(unit: ResidualUnit) -> Added | Summed | None:
    """None where no convolution ends one of the two ways."""
    if isinstance(unit.residual, Merged) and unit.residual.can_add:
        return Added(nn.Identity(), unit.residual, unit.conv)
    called = [place.module for place in in_order(unit.conv)]
    layers = [module for module in called if not isinstance(module, nn.Identity | _DropoutNd)]
    if not isinstance(unit.residual, nn.Identity) or not isinstance(layers[-1], Merged):
        return None
    if layers[-1].can_add:
        return Added(nn.Sequential(*layers[:-1]), layers[-1], nn.Identity())
    return Summed(nn.Sequential(*layers))


def _can_merge(module: nn.Module) -> bool:
    """Whether oneDNN's call means the same: plain zeros around the image, amounts in numbers."""
    return (
        type(module) in CONVOLUTIONS
        and isinstance(module, _ConvNd)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not (isinstance(module, _ConvTransposeNd) and module.groups > 1)
    )


def _slope(activation: nn.Module) -> float | None:
    """What it multiplies negative values by, and it changes no others; None for anything else."""
    if isinstance(activation, nn.ReLU):
        return 0.0
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    if isinstance(activation, nn.PReLU) and activation.num_parameters == 1:
        return float(activation.weight)
    return None
