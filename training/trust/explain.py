"""Where a network looks: seg-Grad-CAM, and occlusion sensitivity.

Both explain one class in one region of one image: a slice with its channels (channel, row, column)
or a window (channel, slice, row, column), of a size that the network takes. Both return a map on
that grid. A map shows what moves the network; it does not show that the network is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from training.errors import RunError

Map = npt.NDArray[np.float32]

IMAGES_PER_STEP = 16
LINEAR = {2: "bilinear", 3: "trilinear"}


def seg_grad_cam(
    network: nn.Module, image: torch.Tensor, region: torch.Tensor, label: int = 1, layer: str | None = None
) -> Map:
    """Which parts of a layer's output speak for `label` in `region` (bool, spatial), from 0 to 1.

    Seg-Grad-CAM (Vinogradova, Dibrov and Myers, AAAI 2020): the channels of `layer` are weighted by
    the mean gradient of the class score summed over the region. The score is the log odds, the
    logit less the log-sum-exp of the other classes', because a softmax sees nothing but
    differences. All is 0 where no part of the layer speaks for the label.

    `layer` is a module's name, by default that of `deepest_convolution`. Raises RunError when
    there is no such layer, the region is empty or does not fit.
    """
    _check(image, region)
    name = layer or deepest_convolution(network, image)
    with _evaluating(network), torch.enable_grad():
        activation, logits = _run_keeping(network, _module(network, name), image)
        score = _log_odds(logits[0], label)[region].sum()
        (gradient,) = torch.autograd.grad(score, activation)
    spatial = tuple(range(2, gradient.ndim))
    cam = (gradient.mean(dim=spatial, keepdim=True) * activation).sum(dim=1, keepdim=True).relu()
    cam = functional.interpolate(
        cam.detach(), size=image.shape[1:], mode=LINEAR[len(spatial)], align_corners=False
    )[0, 0]
    result: Map = (cam / cam.max().clamp_min(1e-12)).cpu().numpy()
    return result


def deepest_convolution(network: nn.Module, image: torch.Tensor) -> str:
    """The convolution with the coarsest output for `image`; of several, that with the most channels.

    An output of one voxel has no places, so it is passed over. Raises RunError when none is left.
    """
    seen: dict[str, tuple[int, int]] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):

            def note(_: nn.Module, __: object, output: torch.Tensor, name: str = name) -> None:
                seen[name] = (output[0, 0].numel(), output.shape[1])

            handles.append(module.register_forward_hook(note))
    try:
        with _evaluating(network), torch.inference_mode():
            network(image[None])
    finally:
        for handle in handles:
            handle.remove()
    placed = [name for name, (voxels, _) in seen.items() if voxels > 1]
    if not placed:
        raise RunError("the network has no convolution with more than one output voxel: name a layer")
    return min(reversed(placed), key=lambda name: (seen[name][0], -seen[name][1]))


def occlusion_map(
    network: nn.Module,
    image: torch.Tensor,
    region: torch.Tensor,
    label: int = 1,
    size: int | tuple[int, ...] = 8,
) -> Map:
    """How far the mean probability of `label` in `region` drops when the place is hidden.

    A patch of `size` moves by half of it; it gets the image's mean of each channel. A voxel's value is the
    mean over the patches that hide it, from -1 to 1; negative values speak against the label
    (Zeiler and Fergus, ECCV 2014). Raises RunError when the region is empty or does not fit.
    """
    _check(image, region)
    sizes = (size,) * region.ndim if isinstance(size, int) else size
    sizes = tuple(min(s, n) for s, n in zip(sizes, region.shape, strict=True))
    patches = list(_patches(tuple(region.shape), sizes))
    mean = image.mean(dim=tuple(range(1, image.ndim)), keepdim=True)
    total, times = torch.zeros(region.shape), torch.zeros(region.shape)
    with _evaluating(network), torch.inference_mode():
        whole = _mean_probability(network, image[None], region, label)
        for first in range(0, len(patches), IMAGES_PER_STEP):
            some = patches[first : first + IMAGES_PER_STEP]
            hidden = torch.stack([_hide(image, patch, mean) for patch in some])
            drops = whole - _mean_probability(network, hidden, region, label)
            for patch, drop in zip(some, drops, strict=True):
                total[patch] += drop.cpu()
                times[patch] += 1.0
    result: Map = (total / times).numpy()
    return result


def _patches(shape: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Patches that cover every voxel; the last along an axis ends with it."""
    starts = [
        sorted({*range(0, n - size, max(1, size // 2)), n - size})
        for n, size in zip(shape, sizes, strict=True)
    ]
    for corner in itertools.product(*starts):
        yield tuple(slice(start, start + size) for start, size in zip(corner, sizes, strict=True))


def _hide(image: torch.Tensor, patch: tuple[slice, ...], mean: torch.Tensor) -> torch.Tensor:
    hidden = image.clone()
    hidden[(slice(None), *patch)] = mean
    return hidden


def _mean_probability(
    network: nn.Module, batch: torch.Tensor, region: torch.Tensor, label: int
) -> torch.Tensor:
    """(n,): mean over the region."""
    probability: torch.Tensor = network(batch).float().softmax(dim=1)[:, label]
    return probability[:, region].mean(dim=1)


def _log_odds(logits: torch.Tensor, label: int) -> torch.Tensor:
    """Of `logits` (class, ...)."""
    others = [number for number in range(logits.shape[0]) if number != label]
    return logits[label] - logits[others].logsumexp(dim=0)


def _run_keeping(
    network: nn.Module, module: nn.Module, image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of `module` and the logits. No hook stays behind."""
    kept: list[torch.Tensor] = []

    def keep(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        kept.append(output)
        return output.clone()  # what follows may work in place

    handle = module.register_forward_hook(keep)
    try:
        logits = network(image[None].requires_grad_())
    finally:
        handle.remove()
    return kept[-1], logits


def _module(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        raise RunError(f"the network has no layer {name!r}: name one of network.named_modules()") from error


def _check(image: torch.Tensor, region: torch.Tensor) -> None:
    if region.dtype != torch.bool or image.shape[1:] != region.shape or region.ndim not in LINEAR:
        raise RunError(
            f"an image (channel, ...) and a bool region on its grid are needed, got {tuple(image.shape)} "
            f"and {region.dtype} {tuple(region.shape)}"
        )
    if not region.any():
        raise RunError("the region to explain is empty: give what was found, or the truth")


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time being; then every module is as it was, a wrapper and what it holds."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
