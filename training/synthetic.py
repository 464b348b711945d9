"""Synthetic lesions: real ones, turned and scaled, put into lesion-free places of other images.

An image is (channel, row, column) or (channel, slice, row, column) float32, normalised as the
network sees it; its truth has the same axes without the channel and holds label numbers. Donors
must come from the training split alone. Whether this helps is measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from training.errors import DataError

Image = npt.NDArray[np.float32]
Truth = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator
Box = tuple[slice, ...]

BLEND = 3
"""Voxels around a lesion over which it passes into its new surroundings."""
RING_COVER = 0.6
"""Of less than this is a voxel that lies two voxels or more outside the lesion."""
MARGIN = 6
"""Voxels of its old surroundings that a donor brings: enough for `BLEND` at the smallest scale."""
SCALES = (0.75, 1.3)
CONTRASTS = (0.85, 1.15)
PLACES_TRIED = 48
MOST_DIFFERENCE = 0.75
"""A place fits when its mean and its spread differ from the donor's ring by no more, together, than
this many standard deviations of the image."""


@dataclass(frozen=True, eq=False)
class LesionPatch:
    """A lesion cut out with `MARGIN` voxels around it: `image` (channel, ...) and `mask` (...)."""

    image: Image
    mask: Mask
    label: int


@dataclass(frozen=True, eq=False)
class _Graft:
    """A donor as it will be put in: `cover` (...) is 1 in the lesion and falls to 0 in the ring."""

    image: Image
    mask: Mask
    cover: npt.NDArray[np.float32]

    @property
    def ring(self) -> Mask:
        """What surrounds the lesion and is blended, without the voxels beside it, which hold some of it."""
        ring: Mask = (self.cover > 0) & (self.cover < RING_COVER)
        return ring


def collect(sources: Iterable[tuple[Image, Truth]]) -> list[LesionPatch]:
    """Every lesion of the training images, one patch for each connected piece of a label.

    A lesion at the edge of its image is only a part of one and is left out, but for the slice axis,
    where the last slice is repeated. Raises DataError when image and truth do not fit.
    """
    patches = []
    for image, truth in sources:
        _check(image, truth)
        for label in np.unique(truth[truth > 0]):
            pieces = _pieces(truth == label)
            for number, box in enumerate(ndimage.find_objects(pieces), start=1):
                if _is_whole(box, truth.shape):
                    patches.append(_cut(image, pieces == number, box, int(label)))
    return patches


def insert(
    image: Image,
    truth: Truth,
    donor: LesionPatch,
    rng: Rng,
    allowed: Mask | None = None,
    turn_degrees: float = 180.0,
) -> tuple[Image, Truth]:
    """`image` and `truth` with the donor's lesion at a random place whose grey levels fit.

    The lesion is turned in the plane by up to `turn_degrees`, mirrored from left to right, scaled and
    slightly changed in contrast; it comes with the mean of its new surroundings instead of its old
    ones. Give few degrees where the image has an up: ultrasound. Everything beyond the blended
    ring stays as it was. Neither lesion nor ring touches a lesion that is there, or leaves
    `allowed`. Where no place fits, both come back as they are. The arrays given are never changed;
    equal generators give equal results. Raises DataError when image, truth and donor do not fit.
    """
    _check(image, truth)
    if donor.image.shape[0] != image.shape[0] or donor.image.ndim != image.ndim:
        raise DataError(
            f"a donor {donor.image.shape} does not fit an image {image.shape}: collect donors from "
            "images prepared in the same way"
        )
    graft = _turned(donor, np.deg2rad(turn_degrees), rng)
    free = truth == 0 if allowed is None else (truth == 0) & allowed
    box = _place(image, free, graft, rng) if graft.mask.any() else None
    if box is None:
        return image, truth
    inside = (slice(None), *box)
    there = image[inside]
    shift = _means(there, graft.ring) - _means(graft.image, graft.ring)
    arriving = graft.image + shift.reshape(-1, *(1,) * truth.ndim)
    new_image, new_truth = image.copy(), truth.copy()
    new_image[inside] = there * (1.0 - graft.cover) + arriving * graft.cover
    new_truth[box][graft.mask] = donor.label
    return new_image, new_truth


def _pieces(mask: Mask) -> npt.NDArray[np.int32]:
    connectivity = 8 if mask.ndim == 2 else 26
    pieces: npt.NDArray[np.int32] = cc3d.connected_components(
        mask, connectivity=connectivity, out_dtype=np.uint32
    ).astype(np.int32)
    return pieces


def _is_whole(box: Box, shape: tuple[int, ...]) -> bool:
    in_plane = zip(box[-2:], shape[-2:], strict=True)
    return all(part.start >= BLEND and part.stop <= n - BLEND for part, n in in_plane)


def _cut(image: Image, lesion: Mask, box: Box, label: int) -> LesionPatch:
    pad = ((MARGIN, MARGIN),) * lesion.ndim
    wide = tuple(slice(part.start, part.stop + 2 * MARGIN) for part in box)
    padded = np.pad(image, ((0, 0), *pad), mode="edge")
    return LesionPatch(padded[(slice(None), *wide)].copy(), np.pad(lesion, pad)[wide].copy(), label)


def _turned(donor: LesionPatch, most_turn: float, rng: Rng) -> _Graft:
    """The donor at a random angle and scale, with the borders of its patch as wide as needed."""
    angle, scale = rng.uniform(-most_turn, most_turn), rng.uniform(*SCALES)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle) * flip], [np.sin(angle), np.cos(angle) * flip]])
    back = np.eye(donor.mask.ndim)
    back[-2:, -2:] = turn.T
    back /= scale
    shape = _shape_after(donor.mask, back)
    centre = (np.array(donor.mask.shape) - 1) / 2
    offset = centre - back @ ((np.array(shape) - 1) / 2)

    def move(voxels: npt.NDArray[np.generic], mode: str) -> Image:
        moved: Image = ndimage.affine_transform(
            voxels.astype(np.float32), back, offset, shape, order=1, mode=mode
        )
        return moved

    mask = move(donor.mask, "constant") >= 0.5
    image = np.stack([move(channel, "nearest") for channel in donor.image])
    outside = _means(image, ~mask).reshape(-1, *(1,) * mask.ndim)
    contrast = np.float32(rng.uniform(*CONTRASTS))
    image = np.where(mask, outside + (image - outside) * contrast, image).astype(np.float32)
    return _tight(_Graft(image, mask, _cover(mask)))


def _shape_after(mask: Mask, back: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Of the box that holds all corners of the patch."""
    reach = np.abs(np.linalg.inv(back)) @ np.array(mask.shape)
    return tuple(int(n) for n in np.ceil(reach))


def _cover(mask: Mask) -> npt.NDArray[np.float32]:
    """1 in the mask, then half a cosine down to 0 at `BLEND` + 1 voxels."""
    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    far = (ndimage.distance_transform_edt(~mask) / (BLEND + 1)).clip(0.0, 1.0)
    cover: npt.NDArray[np.float32] = np.where(far >= 1.0, 0.0, 0.5 * (1.0 + np.cos(np.pi * far))).astype(
        np.float32
    )
    return cover


def _tight(graft: _Graft) -> _Graft:
    """Without borders that nothing is blended in."""
    boxes = ndimage.find_objects((graft.cover > 0).astype(np.int8))
    if not boxes:
        return graft
    box = boxes[0]
    return _Graft(graft.image[(slice(None), *box)], graft.mask[box], graft.cover[box])


def _place(image: Image, free: Mask, graft: _Graft, rng: Rng) -> Box | None:
    """The best of some random places, or None where none is free and alike."""
    room = [n - s for n, s in zip(free.shape, graft.mask.shape, strict=True)]
    if min(room) < 0:
        return None
    unit = float(image.std()) or 1.0
    wanted = _look(graft.image, graft.ring)
    best, least = None, MOST_DIFFERENCE
    for _ in range(PLACES_TRIED):
        corner = [int(rng.integers(n + 1)) for n in room]
        box = tuple(slice(c, c + s) for c, s in zip(corner, graft.mask.shape, strict=True))
        if not free[box][graft.cover > 0].all():
            continue
        difference = float(np.abs(_look(image[(slice(None), *box)], graft.ring) - wanted).mean(axis=1).sum())
        if difference / unit <= least:
            best, least = box, difference / unit
    return best


def _look(image: Image, where: Mask) -> npt.NDArray[np.float32]:
    """Mean and spread (2, channel) of an image at some voxels."""
    values = image[:, where]
    return np.stack([values.mean(axis=1), values.std(axis=1)])


def _means(image: Image, where: Mask) -> npt.NDArray[np.float32]:
    means: npt.NDArray[np.float32] = image[:, where].mean(axis=1)
    return means


def _check(image: Image, truth: Truth) -> None:
    if image.shape[1:] != truth.shape or truth.ndim not in (2, 3):
        raise DataError(
            f"an image (channel, ...) and truth on its grid are needed, got {image.shape} and {truth.shape}"
        )
