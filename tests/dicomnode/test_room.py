"""One volume after the other in the same memory, and never two of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dicomnode.read import room
from dicomnode.read.room import Room
from inference.volume import Voxels

SHAPE = (3, 4, 5)


def filled(where: Room, value: int, shape: tuple[int, ...] = SHAPE) -> Voxels:
    voxels = where.empty(shape, np.int16)
    voxels[...] = value
    return voxels


def address(voxels: Voxels) -> int:
    return int(voxels.ctypes.data)


def test_the_next_volume_lies_where_the_last_one_lay() -> None:
    where = Room()
    voxels = filled(where, 1)
    assert (voxels.shape, voxels.dtype.name, voxels.flags.writeable) == (SHAPE, "int16", True)
    before = address(voxels)
    del voxels
    assert address(filled(where, 2)) == before


@pytest.mark.parametrize(
    "keep",
    [lambda v: v, lambda v: v[1:], lambda v: v.reshape(-1)[7:].view(np.uint8), torch.from_numpy, memoryview],
    ids=["itself", "a part", "other bytes of it", "a tensor", "a buffer"],
)
def test_what_somebody_still_has_is_never_written_over(keep: Callable[[Voxels], object]) -> None:
    where = Room()
    kept = keep(filled(where, 1))
    others = [filled(where, 2), filled(where, 3)]
    assert bool((np.asarray(kept).view(np.int16) == 1).all())
    assert bool((others[0] == 2).all())


def test_a_larger_one_takes_the_place_of_a_smaller_one_and_the_other_way_round() -> None:
    where = Room()
    filled(where, 1)
    large = filled(where, 2, (30, 40, 50))
    assert (large.shape, bool((large == 2).all())) == ((30, 40, 50), True)
    before = address(large)
    del large
    small = where.empty(SHAPE, np.float32)
    assert (small.shape, small.dtype.name, address(small)) == (SHAPE, "float32", before)


def test_a_volume_beyond_the_limit_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    where = Room()
    monkeypatch.setattr(room, "MOST_KEPT_BYTES", 100)
    assert where.empty(SHAPE, np.int16).base is None
    assert where.empty((5, 5, 2), np.int16).base is not None
