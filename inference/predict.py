"""The whole way from a volume to its lesions, in one function."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from inference.body import body_mask
from inference.engine import Model
from inference.errors import UnsuitableVolume
from inference.labelmap import LesionMap
from inference.lesions import decide, lesions_in
from inference.lungs import lung_mask
from inference.orientation import plane_of
from inference.preprocess import ModelInput, on_grid, prepare
from inference.slabs import goes_in_slabs, labelled_in_slabs
from inference.volume import Box, Volume

Mask = npt.NDArray[np.bool_]

MARGIN_MM = 10.0


def segment(volume: Volume, model: Model) -> LesionMap:
    """Find the lesions of `volume`: region, network input, probabilities, decision.

    Raises UnsuitableVolume when the volume does not fit the model, OutOfMemory when the device is
    too small.
    """
    card = model.bundle.card
    if volume.intensity_unit != card.intensity_unit:
        raise UnsuitableVolume(
            f"model {card.name} works on {card.intensity_unit}, this volume is {volume.intensity_unit}"
        )
    _check_plane(volume, model)
    region = find_region(volume, card.postprocessing.region)
    asked = region if card.postprocessing.region == "body" else None
    box = volume.box if region is None or asked is not None else surrounding(region, volume)
    if model.device.type == "cpu" and goes_in_slabs(volume, card.preprocessing, box):
        found = labelled_in_slabs(volume, model, box, asked)
        return lesions_in(found, volume, card.postprocessing, region)
    image = _prepared(volume, model, box)
    answers = model.answers(image, None if asked is None else on_grid(asked, image))
    try:
        return decide(answers, image, volume, card, region)
    except torch.cuda.OutOfMemoryError:  # the volume may have many more voxels than the model's grid
        answers = answers.cpu()
        torch.cuda.empty_cache()
        return decide(answers, image, volume, card, region)


def _prepared(volume: Volume, model: Model, box: Box) -> ModelInput:
    """The network's input, on its device where that has the room."""
    how = model.bundle.card.preprocessing
    try:
        return prepare(volume, how, box, model.device)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return prepare(volume, how, box)


def _check_plane(volume: Volume, model: Model) -> None:
    wanted = model.bundle.card.preprocessing.plane
    if wanted == "any" or not volume.has_geometry:
        return
    plane = plane_of(volume)
    if plane != wanted:
        raise UnsuitableVolume(
            f"model {model.bundle.card.name} was trained on {wanted} slices, these are {plane}: "
            f"route {wanted} series to it only"
        )


def find_region(volume: Volume, region: str) -> Mask | None:
    """The part of the body that a model looks at, or None for all of it."""
    if region == "lungs":
        return lung_mask(volume)
    if region == "body":
        return body_mask(volume)
    return None


def surrounding(region: Mask, volume: Volume) -> Box:
    """The box (slice, row, column) around a region, with a margin for the network's view."""
    bounds: list[slice] = []
    for axis, (n, spacing_mm) in enumerate(zip(volume.shape, volume.spacing_mm, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(region.any(axis=others))
        margin = round(MARGIN_MM / spacing_mm)
        bounds.append(slice(max(0, int(inside[0]) - margin), min(n, int(inside[-1]) + 1 + margin)))
    return bounds[0], bounds[1], bounds[2]
