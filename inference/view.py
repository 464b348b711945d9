"""How far a network looks, found out by trying it: what halo makes blocks of an image exact.

A value that is not a number spoils every output that depends on it, whatever the weights are. So one pass
over an image with one spoiled plane shows how far that plane is seen, for any network of torch modules. A
norm that takes its mean from the image (instance, group, layer), a pooling over all of it, or attention
spoils everything: such a network has no view, and its blocks would not give what the whole image gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

FARTHEST = {2: 1024, 3: 256}
"""Pixels or voxels along an axis up to which a view is looked for, by spatial dimensions."""
THIN = 2
"""Steps across the axis that is tried."""


@dataclass(frozen=True)
class View:
    """What a network sees around each voxel, one number per spatial axis, in voxels of its input.

    An output depends on no input more than `reach` away. The coarsest map of the network has one voxel
    for `step` of the input: blocks begin and end at multiples of it.
    """

    reach: tuple[int, ...]
    step: tuple[int, ...]

    @property
    def halo(self) -> tuple[int, ...]:
        """`reach` in whole steps: what a block reads beyond what it answers for."""
        return tuple(-(-reach // step) * step for reach, step in zip(self.reach, self.step, strict=True))


@torch.inference_mode()
def view_of(network: torch.nn.Module, channels: int, window_size: Sequence[int]) -> View | None:
    """The view of `network` (in eval mode), which takes `channels` and was trained on `window_size`.

    None where it depends on the whole image, or sees farther than `FARTHEST`.
    """
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    step = _step(network, torch.zeros(1, channels, *window_size, device=device))
    if step is None:
        return None
    reach = []
    for axis in range(len(window_size)):
        found = _reach(network, channels, step, axis, device)
        if found is None:
            return None
        reach.append(found)
    return View(tuple(reach), step)


def _step(network: torch.nn.Module, image: torch.Tensor) -> tuple[int, ...] | None:
    """Size of the image over size of the smallest map on the way; None where that is no whole number."""
    sizes = [tuple(image.shape[2:])]

    def note(_module: torch.nn.Module, _given: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == image.ndim:
            sizes.append(tuple(output.shape[2:]))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    smallest = [min(along) for along in zip(*sizes, strict=True)]
    if any(n % least for n, least in zip(sizes[0], smallest, strict=True)):
        return None
    return tuple(n // least for n, least in zip(sizes[0], smallest, strict=True))


def _reach(
    network: torch.nn.Module, channels: int, step: tuple[int, ...], axis: int, device: torch.device
) -> int | None:
    """How far a plane across `axis` is seen at most, up to a step too much.

    What lies between two voxels of the coarsest map is seen unlike far, so one step less one is added to
    what a plane at the beginning of a step shows.
    """
    length = 8 * step[axis]
    shape = [THIN * along for along in step]
    while length <= FARTHEST[len(step)]:
        shape[axis] = length
        image = torch.zeros(1, channels, *shape, device=device)
        image.select(axis + 2, length // 2).fill_(torch.nan)
        spoiled = network(image).isnan().movedim(axis + 2, 0).flatten(1).any(dim=1).nonzero()
        first, last = int(spoiled.min()), int(spoiled.max())
        if first > 0 and last < length - 1:
            return max(length // 2 - first, last - length // 2) + step[axis] - 1
        length *= 2
    return None
