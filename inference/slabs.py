"""Networks that look at slices: one slab of them after the other, so that memory hardly grows with a series.

What such a network says of a slice depends on that slice and its nearest neighbours. So nothing but the
labels is ever held of all slices: no input in single precision, and no probability but where something is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from inference.bundle import Preprocessing, Window
from inference.engine import SLICES_AT_A_TIME, Model
from inference.labelmap import LabelMap
from inference.lesions import Probabilities, labelled, labels_of_maps
from inference.preprocess import ModelInput, model_shape, on_turned_grid, prepare, turn_of
from inference.straighten import straightening
from inference.volume import Box, Volume

SLICES_PER_SLAB = 2 * SLICES_AT_A_TIME
"""Whole batches, so that results stay what they are."""


@dataclass(frozen=True)
class Slab:
    """Some slices of a volume that are answered for, and what the network sees for that."""

    answers: Box
    sees: Box
    """With the neighbours of the first and the last slice."""

    @property
    def answered_of_seen(self) -> slice:
        """The slices answered for, counted from the first that is seen."""
        first = self.sees[0].start
        return slice(self.answers[0].start - first, self.answers[0].stop - first)

    def part_asked(self, within: Sequence[slice], first_slice: int) -> Box | None:
        """What is seen of the part `within` of the model's grid, whose first slice is `first_slice`.

        None where nothing is.
        """
        start = max(self.answers[0].start, first_slice + within[0].start)
        stop = min(self.answers[0].stop, first_slice + within[0].stop)
        if start >= stop:
            return None
        before = self.sees[0].start
        return slice(start - before, stop - before), within[1], within[2]

    def only_answers(self, image: ModelInput) -> ModelInput:
        """The input made of what is seen, without neighbours, as that of a volume of its own."""
        slices, rows, columns = (part.stop - part.start for part in self.answers)
        return replace(
            image,
            image=image.image[self.answered_of_seen],
            box=(slice(0, slices), slice(0, rows), slice(0, columns)),
            source_shape=(slices, rows, columns),
        )


def goes_in_slabs(volume: Volume, how: Preprocessing, box: Box) -> bool:
    """Whether every slice of `box` gets the same answer when only its neighbours are there."""
    turn = turn_of(volume, how)
    return (
        how.spatial_dims == 2
        and how.spacing_mm[0] is None
        and isinstance(how.intensity, Window)  # a z-score is that of the whole image
        and "slice" not in how.mirrored
        and turn.axes[0] == 0
        and not turn.reversed_axes[0]
        and not (how.looks_across_slices and straightening(volume, box))
    )


def slabs_of(box: Box, context_slices: int) -> Iterator[Slab]:
    """All slices of `box`. Beyond its ends there are no neighbours."""
    slices, rows, columns = box
    for start in range(slices.start, slices.stop, SLICES_PER_SLAB):
        stop = min(start + SLICES_PER_SLAB, slices.stop)
        seen = slice(max(slices.start, start - context_slices), min(slices.stop, stop + context_slices))
        yield Slab((slice(start, stop), rows, columns), (seen, rows, columns))


class Gathered:
    """A label map and its certainty. Memory is taken only where a label lies: the rest is never written."""

    def __init__(self, shape: tuple[int, int, int], certain: bool) -> None:
        self.values = np.zeros(shape, np.uint8)
        self.certainty = np.zeros(shape, np.float32) if certain else None

    def add(self, place: Box, label_map: LabelMap, certainty: Probabilities | None) -> None:
        """What was found at a place."""
        inside = label_map.values > 0
        self.values[place][inside] = label_map.values[inside]
        if self.certainty is not None and certainty is not None:
            self.certainty[place][inside] = certainty[inside]


def labelled_in_slabs(
    volume: Volume, model: Model, box: Box, asked: npt.NDArray[np.bool_] | None = None
) -> list[tuple[LabelMap, Probabilities | None]]:
    """As `labelled` says of the whole `box`; background outside of the box around what is `asked`.

    A certainty is 0 where there is no label. For a volume that `goes_in_slabs` only.
    """
    card = model.bundle.card
    how, turn = card.preprocessing, turn_of(volume, card.preprocessing)
    grid = model_shape(volume, how, tuple(part.stop - part.start for part in box))
    within = tuple(slice(0, n) for n in grid) if asked is None else on_turned_grid(asked[box], turn, grid)
    maps = labels_of_maps(card)
    found = [Gathered(volume.shape, bool(card.postprocessing.peak_probability)) for _ in maps]
    for slab in slabs_of(box, how.context_slices):
        part = slab.part_asked(within, box[0].start)
        if part is None:
            continue
        image = prepare(volume, how, slab.sees)
        answers = model.answers(image, part)[:, slab.answered_of_seen]
        for whole, one in zip(found, labelled(answers, slab.only_answers(image), card), strict=True):
            whole.add(slab.answers, *one)
    return [
        (LabelMap(whole.values, labels), whole.certainty) for whole, labels in zip(found, maps, strict=True)
    ]
