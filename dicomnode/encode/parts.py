"""Splits a result with many frames: Weasis shows no segmentation of more than 400."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from pydicom import Dataset

from dicomnode.encode.context import ResultContext
from dicomnode.encode.uids import tracking_uid
from inference.labelmap import Lesion, LesionMap

FRAME_BUDGET = 400


@dataclass(frozen=True)
class Part:
    """Lesions with consecutive numbers that share one segmentation."""

    lesions: tuple[Lesion, ...]
    number: int = 1
    count: int = 1

    @property
    def offset(self) -> int:
        """Lesion number minus segment number, which begins with 1 in every object (PS3.3 C.8.20.4)."""
        return self.lesions[0].number - 1

    @property
    def words(self) -> str:
        """What is said of it in a series description; nothing of the only one."""
        return f" {self.number} of {self.count}" if self.count > 1 else ""

    @property
    def slices(self) -> list[int]:
        """Those between the first and the last of a lesion of it; others hold none."""
        return sorted({i for lesion in self.lesions for i in range(lesion.box[0].start, lesion.box[0].stop)})

    def layers(self, lesion_map: LesionMap) -> list[np.ndarray[Any, Any]]:
        """Segment numbers on the grid of the lesion map, in the smallest type that holds them: its layers,
        as far as they hold lesions of this.
        """
        kind = np.uint8 if len(self.lesions) < 256 else np.uint16
        found = []
        for index in sorted({lesion.layer for lesion in self.lesions}):
            numbers = np.zeros(lesion_map.layers[index].shape, dtype=kind)
            for lesion in self.lesions:
                if lesion.layer == index:
                    numbers[lesion.box][lesion_map.mask(lesion)] = lesion.number - self.offset
            found.append(numbers)
        return found


def whole(lesion_map: LesionMap) -> Part:
    """All lesions in one part."""
    return Part(lesion_map.lesions)


def parts_without_overlap(lesion_map: LesionMap) -> tuple[Part, ...]:
    """A part for each layer that holds lesions: a label map has one number for each voxel."""
    groups = [tuple(group) for _, group in groupby(lesion_map.lesions, key=lambda lesion: lesion.layer)]
    return tuple(Part(group, number, len(groups)) for number, group in enumerate(groups, start=1))


def parts_of(lesion_map: LesionMap, budget: int = FRAME_BUDGET) -> tuple[Part, ...]:
    """As few parts as keep the frames of each within the budget, in the order of the lesions.

    A lesion that alone has more (an organ in a long series) is a part of its own: a segment that is cut
    in two would be two findings.
    """
    groups = list(_grouped(lesion_map, budget))
    return tuple(Part(tuple(group), number, len(groups)) for number, group in enumerate(groups, start=1))


def _grouped(lesion_map: LesionMap, budget: int) -> Iterator[list[Lesion]]:
    group: list[Lesion] = []
    frames = 0
    for lesion in lesion_map.lesions:
        its_frames = int(np.count_nonzero(lesion_map.mask(lesion).any(axis=(1, 2))))
        if group and frames + its_frames > budget:
            yield group
            group, frames = [], 0
        group.append(lesion)
        frames += its_frames
    if group:
        yield group


def remarks_on_parts(segs: tuple[Dataset, ...]) -> list[str]:
    """Sentences on lesions that alone have more frames than every viewer shows."""
    return [
        f"{seg.SegmentSequence[0].TrackingID} is on {seg.NumberOfFrames} images and is not cut in two: "
        f"viewers that show no segmentation of more than {FRAME_BUDGET} frames do not show it."
        for seg in segs
        if int(seg.NumberOfFrames) > FRAME_BUDGET and len(seg.SegmentSequence) == 1
    ]


def segments_by_lesion(segs: tuple[Dataset, ...], context: ResultContext) -> dict[int, tuple[Dataset, int]]:
    """The segmentation and segment number of every lesion, by its tracking UID."""
    found = {
        str(segment.get("TrackingUID", "")): (seg, int(segment.SegmentNumber))
        for seg in segs
        for segment in seg.SegmentSequence
    }
    numbers = range(1, sum(len(seg.SegmentSequence) for seg in segs) + 1)
    uids = {number: tracking_uid(context, number) for number in numbers}
    return {number: found[uid] for number, uid in uids.items() if uid in found}
