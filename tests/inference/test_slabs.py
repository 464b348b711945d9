"""A 2-D network over slabs of slices gives the lesions that it gives over all slices at once.

Not covered: a GPU, which holds all slices at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import inference.lesions
import inference.predict
import inference.slabs
from dicomnode.selftest.bundles import write_bundle
from dicomnode.selftest.volumes import LESION_LABEL
from inference.bundle import Preprocessing, read_bundle
from inference.engine import Model
from inference.labelmap import LabelMap, LesionMap
from inference.lesions import find_lesions
from inference.predict import segment
from inference.preprocess import ModelInput, prepare
from inference.slabs import Gathered, goes_in_slabs
from inference.volume import Affine, Box, Volume
from tests.inference.test_blocks import SHALLOW, built

SLICES_PER_SLAB = 4
WINDOW = {"kind": "window", "low": -1000.0, "high": 1000.0}
TURNED = np.diag([1.0, -1.0, 1.0, 1.0])
"""Rows that run the other way."""


def body_and_noise(affine: Affine | None = None) -> Volume:
    """15 slices, no two alike, with a body in the middle that not every slice shows."""
    voxels = np.random.default_rng(3).integers(-900, -300, (15, 72, 64), dtype=np.int16)
    voxels[3:11, 12:60, 9:50] += 700
    return Volume(voxels, np.diag([2.0, 0.8, 0.8, 1.0])[:, [2, 1, 0, 3]] if affine is None else affine, "HU")


def model_of(
    folder: Path, how: dict[str, Any], postprocessing: dict[str, Any], labels_overlap: bool = False
) -> Model:
    """A small U-Net with random weights, two labels and all that a card can ask for."""
    other = LESION_LABEL.model_copy(update={"number": 2, "name": "Other"})
    bundle = write_bundle(
        folder,
        preprocessing={"intensity": WINDOW, "window_size": [32, 32]} | how,
        postprocessing=postprocessing,
        labels=[LESION_LABEL.model_dump(), other.model_dump()],
        labels_overlap=labels_overlap,
    )
    channels = {
        "in_channels": 2 * how.get("context_slices", 0) + 1,
        "out_channels": 2 if labels_overlap else 3,
    }
    return Model(read_bundle(bundle), torch.device("cpu"), built(SHALLOW | channels, 2))


@dataclass(frozen=True)
class Outcome:
    """Lesions, how certain their voxels are in each label map, and how many slices each slab had."""

    lesion_map: LesionMap
    certainties: list[npt.NDArray[np.float32]]
    prepared: list[int]


def outcome(volume: Volume, model: Model, slices_per_slab: int) -> Outcome:
    """Without slabs for 0."""
    certainties, prepared = [], []

    def preparing(seen: Volume, how: Preprocessing, box: Box) -> ModelInput:
        prepared.append(box[0].stop - box[0].start)
        return prepare(seen, how, box)

    def finding(label_map: LabelMap, *others: Any) -> LesionMap:
        certainties.append(np.where(label_map.values > 0, others[-1], 0.0))
        return find_lesions(label_map, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference.slabs, "SLICES_PER_SLAB", slices_per_slab)
        patch.setattr(inference.slabs, "prepare", preparing)
        patch.setattr(inference.lesions, "find_lesions", finding)
        if not slices_per_slab:
            patch.setattr(inference.predict, "goes_in_slabs", lambda *_: False)
        return Outcome(segment(volume, model), certainties, prepared)


@pytest.mark.parametrize("labels_overlap", [False, True])
@pytest.mark.parametrize(
    ("how", "postprocessing"),
    [
        ({}, {}),
        ({"context_slices": 2}, {}),
        ({"context_slices": 1, "spacing_mm": [None, 0.7, 1.1]}, {}),
        ({"context_slices": 1, "mirrored": ["row", "column"]}, {"region": "body"}),
        ({"longest_side_px": 80, "canonical": True, "context_slices": 3}, {"region": "body"}),
    ],
)
def test_slabs_give_the_same_lesions(
    tmp_path: Path,
    how: dict[str, Any],
    postprocessing: dict[str, Any],
    labels_overlap: bool,
) -> None:
    volume = body_and_noise()
    volume = Volume(volume.voxels, volume.affine @ TURNED, "HU")
    threshold = {"probability_threshold": 0.3 if labels_overlap else 0.45, "peak_probability": 0.35}
    model = model_of(tmp_path, how, threshold | postprocessing, labels_overlap)
    expected, found = outcome(volume, model, 0), outcome(volume, model, SLICES_PER_SLAB)
    assert not expected.prepared
    assert len(found.prepared) > 1
    assert max(found.prepared) <= SLICES_PER_SLAB + 2 * how.get("context_slices", 0)
    assert expected.lesion_map.lesions
    assert found.lesion_map.lesions == expected.lesion_map.lesions
    for one, other in zip(found.lesion_map.layers, expected.lesion_map.layers, strict=True):
        np.testing.assert_array_equal(one, other)
    for certain, expected_certain in zip(found.certainties, expected.certainties, strict=True):
        np.testing.assert_allclose(certain, expected_certain, atol=1e-6)


def how_of(**values: Any) -> Preprocessing:
    usual = {"spatial_dims": 2, "spacing_mm": [None, 1.0, 1.0], "intensity": WINDOW, "window_size": [32, 32]}
    return Preprocessing.model_validate(usual | values)


TILTED = np.array([[0.0, 0.0, 0.8, 0.0], [1.0, 0.8, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("how", "affine"),
    [
        (how_of(intensity={"kind": "z_score"}), None),
        (how_of(mirrored=["slice"]), None),
        (how_of(spacing_mm=[1.0, 1.0, 1.0]), None),
        (how_of(spatial_dims=3, window_size=[8, 32, 32]), None),
        (how_of(canonical=True), np.diag([0.8, 0.8, -2.0, 1.0])[:, [2, 1, 0, 3]]),
        (how_of(canonical=True), np.diag([2.0, 0.8, 0.8, 1.0])),
        (how_of(context_slices=1), TILTED),
    ],
    ids=["z-score", "mirrored", "slice distance", "3-D", "reversed slices", "other plane", "tilted"],
)
def test_what_depends_on_more_than_neighbours_is_seen_at_once(
    how: Preprocessing, affine: Affine | None
) -> None:
    volume = body_and_noise(affine)
    assert not goes_in_slabs(volume, how, volume.box)


def test_slices_that_are_looked_at_alone_may_lie_anywhere() -> None:
    volume = body_and_noise(TILTED)
    assert goes_in_slabs(volume, how_of(), volume.box)


def test_memory_is_taken_for_what_was_found_only() -> None:
    gathered = Gathered((4, 5, 6), certain=True)
    values, certainty = np.zeros((2, 5, 6), np.uint8), np.full((2, 5, 6), 0.25, np.float32)
    values[1, 2, 3] = 1
    found = LabelMap(values, (LESION_LABEL,))
    gathered.add((slice(1, 3), slice(0, 5), slice(0, 6)), found, certainty)
    assert gathered.certainty is not None
    assert np.argwhere(gathered.values).tolist() == np.argwhere(gathered.certainty).tolist() == [[2, 2, 3]]
