"""A network for CPUs whose large convolutions multiply numbers of 8 bits: faster, and not quite the same.

Processors with VNNI multiply and add four pairs of 8 bits where they do one pair in float32. Weights are
rounded channel by channel, and what goes into a layer to 256 levels between limits that were observed on
images; sums are whole numbers of 32 bits, and what comes out is float32 again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvTransposeNd

from inference.errors import BundleError
from inference.networks.onednn import CHANNELS_LAST, Added, Merged

FEWEST_CHANNELS = 16
"""The first and the last layers have fewer: rounding costs the most there, and gains the least."""
LEVELS = 255
LARGEST_WEIGHT = 127
WITH_VNNI = "cpu-vnni"
VALUES_AT_A_TIME = 2**18

Limits = tuple[float, float]


def kind_of(device: torch.device) -> str:
    """The kind of a device, where kinds round alike: "cuda", "cpu", or "cpu-vnni" for one with VNNI.

    Without VNNI sums of 8 bits may overflow on their way.
    """
    if device.type != "cpu" or not hasattr(torch.ops.onednn, "qconv_pointwise"):
        return device.type
    able = torch.cpu.get_capabilities()
    return WITH_VNNI if able.get("avx512_vnni") or able.get("avx_vnni") else "cpu"


class Levels(nn.Module):
    """A map as numbers of 8 bits, for values between `limits`; what lies beyond becomes the limit."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        # padding is 0, which must have a level of its own
        low, high = min(0.0, limits[0]), max(0.0, limits[1])
        self.scale = max((high - low) / LEVELS, torch.finfo(torch.float32).tiny)
        self.zero = round(-low / self.scale)
        self.offset = torch.tensor(self.zero + 0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Every value of `image` (n, channel, ...) as the number of its level; levels stay what they are."""
        if image.dtype is torch.uint8:
            return image
        image = image.contiguous(memory_format=CHANNELS_LAST[image.ndim])
        result = torch.empty_like(image, dtype=torch.uint8)
        for values, numbers in zip(_pieces(image), _pieces(result), strict=True):
            scaled = torch.add(self.offset, values, alpha=1.0 / self.scale)
            numbers.copy_(scaled.clamp_(0.0, LEVELS + 0.5))  # which cuts off: the half makes that rounding
        return result

    def same_as(self, other: Levels) -> bool:
        """Whether both make the same numbers."""
        return (self.scale, self.zero) == (other.scale, other.zero)


class Rounded(nn.Module):
    """A merged convolution in 8 bits, of values between `limits`."""

    def __init__(self, layer: Merged, limits: Limits) -> None:
        super().__init__()
        convolution = layer.convolution
        self.slope = layer.slope
        self.levels = Levels(limits)
        weight = convolution.weight.detach()
        largest = weight.abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        self.weight_scales = largest / LARGEST_WEIGHT
        self.weight_zeros = torch.zeros(len(largest), dtype=torch.int32)
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        self.size = tuple(map(list, (convolution.stride, convolution.padding, convolution.dilation)))
        rounded = (weight / self.weight_scales.view(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8)
        self.weight = torch.ops.onednn.qconv_prepack(
            rounded, self.weight_scales, self.levels.scale, self.levels.zero, *self.size, 1, None
        )

    def forward(self, image: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """The map (n, channel, ...) of `image` (n, channel, ...), plus `other`, in float32."""
        given = (
            self.levels(image),
            self.levels.scale,
            self.levels.zero,
            self.weight,
            self.weight_scales,
            self.weight_zeros,
            self.bias,
        )
        result: torch.Tensor = torch.ops.onednn.qconv_pointwise(
            *given, *self.size, 1, 1.0, 0, torch.float32, "none", [], ""
        )
        if other is not None:
            return result.add_(other)
        return result if self.slope is None else functional.leaky_relu_(result, self.slope)


def _pieces(image: torch.Tensor) -> Sequence[torch.Tensor]:
    """The values of a map in the order of memory, in pieces that stay in a processor's cache.

    Nothing that is as large as the map is written between: to fetch that memory would take most of the time.
    """
    return torch.split(image.movedim(1, -1).flatten(), VALUES_AT_A_TIME)


def can_round(layer: nn.Module) -> bool:
    """Whether a layer of a merged network has a form in 8 bits."""
    return (
        isinstance(layer, Merged)
        and not isinstance(layer.convolution, _ConvTransposeNd)
        and layer.convolution.groups == 1
        and min(layer.convolution.in_channels, layer.convolution.out_channels) >= FEWEST_CHANNELS
    )


@contextmanager
def observed(network: nn.Module) -> Iterator[dict[str, Limits]]:
    """The lowest and highest values that go into the layers of a merged network while this is open.

    By the names of the convolutions; empty where no layer can be rounded.
    """
    limits: dict[str, Limits] = {}

    def note(layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, Merged)
        low, high = (float(found) for found in given[0].aminmax())
        known = limits.get(layer.name, (low, high))
        limits[layer.name] = min(low, known[0]), max(high, known[1])

    hooks = [layer.register_forward_pre_hook(note) for layer in network.modules() if can_round(layer)]
    try:
        yield limits
    finally:
        for hook in hooks:
            hook.remove()


def rounded(network: nn.Module, limits: Mapping[str, Limits]) -> nn.Module:
    """A copy of a merged network with its large layers in 8 bits.

    Raises BundleError when `limits` are not those of its layers.
    """
    fast = copy.deepcopy(network)
    layers = {layer.name for layer in fast.modules() if can_round(layer) and isinstance(layer, Merged)}
    if not layers or layers != set(limits):
        raise BundleError(
            f"the limits of the fast mode are for other layers than the network has "
            f"({len(limits)} and {len(layers)}): measure it again with `dicomtrain fast`"
        )
    _round_below(fast, limits)
    return fast


def _round_below(parent: nn.Module, limits: Mapping[str, Limits]) -> None:
    for name, module in list(parent.named_children()):
        if isinstance(module, Merged):
            if module.name in limits:
                setattr(parent, name, Rounded(module, limits[module.name]))
        else:
            _round_below(module, limits)
            if (levels := _shared_levels(module)) is not None:
                setattr(parent, name, nn.Sequential(levels, module))


def _shared_levels(module: nn.Module) -> Levels | None:
    """The levels of what a residual unit is given, where both of its ways begin with them."""
    if not isinstance(module, Added) or not isinstance(module.before, nn.Identity):
        return None
    first = next((layer for layer in module.beside.modules() if isinstance(layer, Rounded | Merged)), None)
    if not isinstance(module.last, Rounded) or not isinstance(first, Rounded):
        return None
    return first.levels if first.levels.same_as(module.last.levels) else None
