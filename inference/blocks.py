"""Blocks with a halo: an image in parts that fit into memory, with exactly the answer of the whole image.

A block reads its halo beside what it answers for, so nothing is blended and no voxel is answered twice. At
the borders of the image a block ends where the image ends: the network sees the same border as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from inference.view import View

Part = tuple[slice, ...]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """A part of an image in voxels, one slice per spatial axis: what is read, what is answered for."""

    reads: Part
    answers: Part

    @property
    def answers_of_read(self) -> Part:
        """What is answered for, counted from the beginning of what is read."""
        return tuple(
            slice(answered.start - read.start, answered.stop - read.start)
            for read, answered in zip(self.reads, self.answers, strict=True)
        )


def plan_blocks(
    shape: Sequence[int], view: View, most_voxels: int, within: Part | None = None
) -> tuple[Block, ...]:
    """The blocks for an image of `shape` that read the fewest voxels, none of them more than `most_voxels`.

    Every side of `shape` must be a multiple of the view's step. Where even the smallest blocks read more
    than `most_voxels`, those. They answer for the part `within`, and up to a step around it.
    """
    parts = within or tuple(slice(0, n) for n in shape)
    choices = [_choices(*axis) for axis in zip(shape, parts, view.step, view.halo, strict=True)]
    largest = _outer([np.array([_longest(parts) for parts in axis]) for axis in choices])
    total = _outer([np.array([_sum(parts) for parts in axis]) for axis in choices])
    fits = largest <= max(most_voxels, int(largest.min()))
    best = np.unravel_index(np.where(fits, total, np.iinfo(np.int64).max).argmin(), total.shape)
    chosen = [axis[int(number)] for axis, number in zip(choices, best, strict=True)]
    return tuple(
        Block(tuple(read for read, _ in parts), tuple(answered for _, answered in parts))
        for parts in product(*chosen)
    )


def padded(image: torch.Tensor, view: View, window_size: Sequence[int]) -> tuple[torch.Tensor, Part]:
    """`image` (n, channel, ...) grown to whole steps, at least to the training window, and its place there.

    That is the middle, and the borders are repeated: as windows do that are larger than an image.
    """
    shape = image.shape[2:]
    sizes = [
        max(size, -(-n // step) * step) for n, size, step in zip(shape, window_size, view.step, strict=True)
    ]
    before = [(size - n) // 2 for n, size in zip(shape, sizes, strict=True)]
    place = tuple(slice(start, start + n) for start, n in zip(before, shape, strict=True))
    if sizes == list(shape):
        return image, place
    amounts = [
        number
        for start, n, size in reversed(list(zip(before, shape, sizes, strict=True)))
        for number in (start, size - n - start)
    ]
    return functional.pad(image, amounts, mode="replicate"), place


def _choices(n: int, part: slice, step: int, halo: int) -> list[list[tuple[slice, slice]]]:
    """Ways to cut `part` of an axis of `n` voxels evenly into more and more parts.

    For each the parts, as (read, answered for).
    """
    first, last = part.start // step, -(-part.stop // step)
    ways = []
    count = 1
    while count <= last - first:
        cuts = [(first + round(number * (last - first) / count)) * step for number in range(count + 1)]
        ways.append([(slice(max(0, a - halo), min(n, b + halo)), slice(a, b)) for a, b in pairwise(cuts)])
        if _longest(ways[-1]) <= step + 2 * halo:  # no way reads less at a time
            break
        count = max(count + 1, count * 5 // 4)
    return ways


def _longest(parts: list[tuple[slice, slice]]) -> int:
    return max(int(read.stop - read.start) for read, _ in parts)


def _sum(parts: list[tuple[slice, slice]]) -> int:
    return sum(int(read.stop - read.start) for read, _ in parts)


def _outer(numbers: list[Counts]) -> Counts:
    """The products of one number of every axis."""
    products = numbers[0]
    for axis in numbers[1:]:
        products = np.multiply.outer(products, axis)
    return products
