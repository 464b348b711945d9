"""Instance norm of maps whose channels lie side by side, where they lie.

torch's own copies such a map to the other order and back for each norm, which takes longer than the norm. As
a group norm with one channel in each group it is the same arithmetic, in the order in which the map is kept.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.instancenorm import _InstanceNorm


class Normed(nn.Module):
    """An instance norm, with the activation that follows it."""

    def __init__(self, norm: _InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.slope: float | None = None
        """What an activation multiplies negative values by; None without one."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The map (n, channel, ...) of `image` (n, channel, ...)."""
        result = functional.group_norm(image, image.shape[1], self.weight, self.bias, self.eps)
        return result if self.slope is None else functional.leaky_relu_(result, self.slope)


def takes_from_image(module: nn.Module) -> TypeGuard[_InstanceNorm]:
    """Whether it is an instance norm that takes mean and deviation from the image."""
    return isinstance(module, _InstanceNorm) and module.running_mean is None
