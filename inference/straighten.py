"""An even, upright grid for networks that look across slices, and the way back to the slices as they are.

Slices at uneven distances, or shifted sideways by a gantry tilt, are no grid that a 3-D network was trained
on. So the volume is interpolated along its normal for inference, and what the network says is read off at
the places of the native slices. Images and results stay on the native slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from inference.volume import Box, Volume

LEAST_TILT_DEGREES = 2.0
"""Below it a slice of 5 mm moves sideways by less than a fifth of a millimetre."""


@dataclass(frozen=True)
class Straightening:
    """Where native slices lie in the upright grid; shapes are (slice, row, column).

    `places` are in slices of the upright grid; slice i begins at row `row_shifts[i]` and column
    `column_shifts[i]` of it (fractional, not negative).
    """

    native_shape: tuple[int, int, int]
    upright_shape: tuple[int, int, int]
    step_mm: float
    """Slice distance of the upright grid, along the normal."""
    places: tuple[float, ...]
    row_shifts: tuple[float, ...]
    column_shifts: tuple[float, ...]

    def apply(self, voxels: torch.Tensor) -> torch.Tensor:
        """Native voxels (slice, row, column), float, on the upright grid; beside the images their minimum."""
        fill = voxels.min()
        _, rows, columns = self.upright_shape
        shifted = [
            _moved(_moved(image, down, 0, rows, fill), right, 1, columns, fill)
            for image, down, right in zip(voxels, self.row_shifts, self.column_shifts, strict=True)
        ]
        upright = torch.arange(self.upright_shape[0], dtype=torch.float64)
        places = torch.tensor(self.places, dtype=torch.float64)
        return _read_off(torch.stack(shifted), torch.from_numpy(np.interp(upright, places, _count(places))))

    def undo(self, values: torch.Tensor) -> torch.Tensor:
        """Values (class, slice, row, column) on the upright grid, read off at the native voxels."""
        _, rows, columns = self.native_shape
        slices = _read_off(values.movedim(1, 0), torch.tensor(self.places, dtype=torch.float64))
        native = [
            _moved(_moved(image, -down, 1, rows, 0.0), -right, 2, columns, 0.0)
            for image, down, right in zip(slices, self.row_shifts, self.column_shifts, strict=True)
        ]
        return torch.stack(native, dim=1)


def straightening(volume: Volume, box: Box) -> Straightening | None:
    """How the part `box` of a volume becomes even and upright; None where it is so already."""
    if not volume.has_geometry or box[0].stop - box[0].start < 2:
        return None
    slice_step, row_step, column_step = volume.affine[:3, :3].T
    normal = np.cross(row_step, column_step)
    normal = normal / np.linalg.norm(normal)
    rise_mm = float(slice_step @ normal)
    tilt = np.degrees(np.arccos(np.clip(abs(rise_mm) / np.linalg.norm(slice_step), 0.0, 1.0)))
    if not volume.slice_places and tilt < LEAST_TILT_DEGREES:
        return None
    places = volume.to_steps([(i, 0, 0) for i in range(box[0].start, box[0].stop)])[:, 0]
    places = places - places[0]
    down, right = (
        (places * float(slice_step @ step / (step @ step)) for step in (row_step, column_step))
        if tilt >= LEAST_TILT_DEGREES
        else (np.zeros_like(places), np.zeros_like(places))
    )
    down, right = down - down.min(), right - right.min()
    native = tuple(part.stop - part.start for part in box)
    return Straightening(
        native_shape=(native[0], native[1], native[2]),
        upright_shape=(
            int(np.ceil(places[-1] - 1e-6)) + 1,
            native[1] + int(np.ceil(down.max() - 1e-6)),
            native[2] + int(np.ceil(right.max() - 1e-6)),
        ),
        step_mm=abs(rise_mm),
        places=tuple(places.tolist()),
        row_shifts=tuple(down.tolist()),
        column_shifts=tuple(right.tolist()),
    )


def _count(places: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(places), dtype=torch.float64)


def _read_off(images: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Linear interpolation along the first axis at fractional indices; beyond the ends the end."""
    at = at.to(images.device).clamp(0, len(images) - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=len(images) - 1)
    share = (at - low).to(images.dtype).reshape(-1, *[1] * (images.ndim - 1))
    return torch.lerp(images[low], images[high], share)


def _moved(
    image: torch.Tensor, by: float, axis: int, length: int, fill: float | torch.Tensor
) -> torch.Tensor:
    """`image` moved by a fraction of pixels along one axis, on an axis of `length` pixels."""
    if by == 0.0 and length == image.shape[axis]:
        return image
    source = torch.arange(length, dtype=torch.float64) - by
    outside = (source < -0.5) | (source > image.shape[axis] - 0.5)
    moved = _read_off(image.movedim(axis, 0), source)
    outside = outside.to(image.device).reshape(-1, *[1] * (moved.ndim - 1))
    return moved.masked_fill(outside, fill).movedim(0, axis)
