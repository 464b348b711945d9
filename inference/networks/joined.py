"""Skip connections whose joined map lies where the one before lay.

A joined map of a 3-D network is larger than what the C library keeps, so the system clears memory for each
of them, which takes longer than joining.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import torch
from monai.networks.layers.simplelayers import SkipConnection
from torch import nn

from inference.networks.onednn import Merged, in_order, is_chain


class Joined(nn.Module):
    """`image` and `below(image)`, one's channels behind the other's. For one thread at a time.

    What it gives is only valid until the next call.
    """

    def __init__(self, below: nn.Module) -> None:
        super().__init__()
        self.below = below
        self._room = torch.empty(0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The joined map (n, channel, ...) of `image` (n, channel, ...)."""
        found = self.below(image)
        channels = image.shape[1] + found.shape[1]
        size = len(image), *image.shape[2:], channels
        if math.prod(size) > len(self._room) or image.dtype is not self._room.dtype:
            self._room = image.new_empty(math.prod(size))
        joined = self._room[: math.prod(size)].view(size).movedim(-1, 1)
        torch.cat((image, found), 1, out=joined)
        return joined

    def __deepcopy__(self, memo: dict[int, Any]) -> Joined:
        """With room of its own."""
        return Joined(copy.deepcopy(self.below, memo))


def join_in_place(network: nn.Module) -> None:
    """Give skip connections of a merged network, in place, room that stays; where a convolution follows."""
    for parent in list(network.modules()):
        if not is_chain(parent):
            continue
        called = [place for place in in_order(parent) if not isinstance(place.module, nn.Identity)]
        for one, following in pairwise(called):
            skip = one.module
            if not isinstance(skip, SkipConnection) or not isinstance(following.module, Merged):
                continue
            if skip.mode == "cat" and skip.dim == 1:
                setattr(one.parent, one.name, Joined(skip.submodule))
