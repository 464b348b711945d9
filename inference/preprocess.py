"""From a volume to network input, each step beside its inverse. Training uses the same code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from inference.bundle import Preprocessing, Window, ZScore
from inference.orientation import UNTURNED, Turn, to_canonical
from inference.straighten import Straightening, straightening
from inference.volume import Box, Volume, Voxels

SLICES_AT_A_TIME = 32
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class ModelInput:
    """`image` (slice, row, column) float32 on the model's grid, normalised; covers `box` of the source."""

    image: torch.Tensor
    box: Box
    source_shape: tuple[int, int, int]
    turn: Turn = UNTURNED
    straightening: Straightening | None = None

    @property
    def cropped_shape(self) -> tuple[int, int, int]:
        """Shape of what was turned: the box, made upright where it was not."""
        if self.straightening is not None:
            return self.straightening.upright_shape
        slices, rows, columns = (part.stop - part.start for part in self.box)
        return slices, rows, columns


def prepare(
    volume: Volume, how: Preprocessing, box: Box | None = None, device: torch.device = CPU
) -> ModelInput:
    """Crop to `box` (default: everything), make upright, turn, resample to the model's grid, normalise.

    A network that looks at each slice alone gets the slices as they are, wherever they lie. All is done on
    `device`, where the image stays.
    """
    box = box or volume.box
    voxels = _on_device(volume.voxels[box], device)
    upright = straightening(volume, box) if how.looks_across_slices else None
    if upright is not None:
        voxels = upright.apply(voxels)
    turn = turn_of(volume, how)
    step_mm = None if upright is None else upright.step_mm
    image = resample(turn.apply(voxels), model_shape(volume, how, tuple(voxels.shape), step_mm))
    return ModelInput(normalise(image, how.intensity), box, volume.shape, turn, upright)


def _on_device(voxels: Voxels, device: torch.device) -> torch.Tensor:
    """A float32 copy of our own. A card gets the stored type, which is smaller, from memory it can read."""
    if device.type == "cpu":
        return torch.from_numpy(np.array(voxels, dtype=np.float32))
    stored_type = torch.from_numpy(np.empty(0, voxels.dtype)).dtype
    staged = torch.empty(voxels.shape, dtype=stored_type, pin_memory=device.type == "cuda")
    staged.numpy()[...] = voxels
    return staged.to(device, non_blocking=True).float()


def on_grid(region: npt.NDArray[np.bool_], image: ModelInput) -> Box | None:
    """The box on the model's grid that holds a region (slice, row, column) of a whole volume.

    None for a volume that was made upright, whose slices have moved.
    """
    return None if image.straightening else on_turned_grid(region, image.turn, image.image.shape)


def on_turned_grid(region: npt.NDArray[np.bool_], turn: Turn, shape: Sequence[int]) -> Box:
    """The same on a model's grid of `shape` that covers the whole volume."""
    turned = turn.apply(torch.from_numpy(region))
    bounds = []
    for axis, (n, on_model) in enumerate(zip(turned.shape, shape, strict=True)):
        inside = turned.movedim(axis, 0).flatten(1).any(dim=1).nonzero().flatten()
        # one voxel more, because resampling back mixes neighbours
        low, high = int(inside[0]) * on_model / n, (int(inside[-1]) + 1) * on_model / n
        bounds.append(slice(max(0, math.floor(low) - 1), min(on_model, math.ceil(high) + 1)))
    return bounds[0], bounds[1], bounds[2]


def restore(values: torch.Tensor, image: ModelInput) -> torch.Tensor:
    """Values (class, slice, row, column) on the model's grid, brought back to the source's `box`."""
    slices, rows, columns = (image.cropped_shape[axis] for axis in image.turn.axes)
    cropped = image.turn.undo(resample(values, (slices, rows, columns)))
    return cropped if image.straightening is None else image.straightening.undo(cropped)


def turn_of(volume: Volume, how: Preprocessing) -> Turn:
    """How the volume is turned for the model; images without a place in the patient stay as they are."""
    return to_canonical(volume.affine) if how.canonical and volume.has_geometry else UNTURNED


def model_shape(
    volume: Volume, how: Preprocessing, shape: tuple[int, ...], step_mm: float | None = None
) -> tuple[int, int, int]:
    """Shape of the model's grid, turned, that covers `shape` voxels of the volume as it lies.

    `step_mm` is the slice distance where it is not the volume's own.
    """
    turn = turn_of(volume, how)
    turned = tuple(shape[axis] for axis in turn.axes)
    if volume.has_geometry:
        slice_mm, row_mm, column_mm = volume.spacing_mm
        source: tuple[float | None, ...] = turn.of((step_mm or slice_mm, row_mm, column_mm))
    else:
        source = (None, *(volume.in_plane_spacing_mm or (None, None)))
    slices, rows, columns = (
        n if target is None or spacing is None else max(1, round(n * spacing / target))
        for n, spacing, target in zip(turned, source, how.spacing_mm, strict=True)
    )
    if how.longest_side_px is not None:
        scale = how.longest_side_px / max(rows, columns)
        rows, columns = max(1, round(rows * scale)), max(1, round(columns * scale))
    return slices, rows, columns


def resample(image: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Trilinear resampling of (slice, row, column) or (channel, slice, row, column) to `shape`.

    Both grids cover the same field of view, so the inverse is a call with the other shape. When the
    grid gets coarser in a plane, area averaging goes first so that small lesions are not skipped.
    """
    if tuple(image.shape[-3:]) == shape:
        return image
    batch = image[None, None] if image.ndim == 3 else image[None]
    if batch.shape[2] != shape[0]:
        batch = _interpolated(batch, shape)
    else:  # slices do not mix: a few at a time take less memory
        result = batch.new_empty(*batch.shape[:2], *shape)
        parts, targets = (torch.split(whole, SLICES_AT_A_TIME, 2) for whole in (batch, result))
        for part, target in zip(parts, targets, strict=True):
            target.copy_(_interpolated(part, (part.shape[2], *shape[1:])))
        batch = result
    return batch[0, 0] if image.ndim == 3 else batch[0]


def _interpolated(batch: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """(n, channel, slice, row, column) by area to what is coarser, then trilinear."""
    coarser = tuple(min(a, b) for a, b in zip(batch.shape[2:], shape, strict=True))
    if coarser != tuple(batch.shape[2:]):
        batch = functional.interpolate(batch, size=coarser, mode="area")
    return functional.interpolate(batch, size=shape, mode="trilinear", align_corners=False)


def normalise(image: torch.Tensor, how: Window | ZScore) -> torch.Tensor:
    """Intensities as the network expects them, in the memory of `image`."""
    if isinstance(how, Window):
        return image.sub_(how.low).div_(how.high - how.low).clamp_(0.0, 1.0)
    counted = image[image > image.mean()] if how.foreground else image
    if counted.numel() < 2:  # a constant image has no foreground
        counted = image
    mean, deviation = counted.mean(), counted.std().clamp_min(1e-6)
    return image.sub_(mean).div_(deviation)


def stack_context(image: torch.Tensor, context_slices: int, part: slice = slice(None)) -> torch.Tensor:
    """(slice, row, column) to (slice, channel, row, column): each slice of `part` with its neighbours.

    At the ends of the volume the last slice is repeated.
    """
    offsets = torch.arange(-context_slices, context_slices + 1, device=image.device)
    index = torch.arange(image.shape[0], device=image.device)[part, None] + offsets[None, :]
    return image[index.clamp(0, image.shape[0] - 1)]
