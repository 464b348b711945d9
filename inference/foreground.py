"""What a card found, brought to the host: only the box around it, as little else is ever looked at.

Labels and their joint probability are five bytes a voxel, 393 MB for a CT of 300 slices of 512 x 512.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inference.volume import Box


def is_on_host(found: torch.Tensor) -> bool:
    """Whether the values are in the memory of the host already, so that nothing is brought."""
    return found.device.type == "cpu"


def foreground_box(found: torch.Tensor) -> Box:
    """The smallest box (slice, row, column) around all that is not 0; an empty one where there is nothing.

    Only its six numbers leave the device.
    """
    slices = _ends(found.flatten(1).any(dim=1))
    across = found[slices].any(dim=0)
    return slices, _ends(across.any(dim=1)), _ends(across.any(dim=0))


def on_host(found: torch.Tensor, box: Box | None) -> npt.NDArray[Any]:
    """The values (slice, row, column) in `box`, 0 around it. Without a box all values, nothing copied."""
    if box is None:
        return found.numpy()
    whole = np.zeros(found.shape, torch.empty(0, dtype=found.dtype).numpy().dtype)
    whole[box] = found[box].cpu().numpy()
    return whole


def _ends(along: torch.Tensor) -> slice:
    """From the first to the last place of an axis that has something."""
    places = along.nonzero().flatten()
    if not len(places):
        return slice(0, 0)
    first, last = places[[0, -1]].tolist()
    return slice(first, last + 1)
