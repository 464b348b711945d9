"""Compares what two models saw in one series: voxel by voxel, lesion by lesion.

Frames are matched by the source image that they lie on, and must have the same place in the patient.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicomnode.encode.decode import SegmentFrame, read_frames
from dicomnode.errors import PermanentError

SAME_PLACE_MM = 1e-3

Mask = npt.NDArray[np.bool_]
Place = tuple[str, int | None]
"""Source image and frame of it."""
Label = tuple[str, str]
"""Code and coding scheme of what a segment is."""


@dataclass(eq=False)
class Seen:
    """What one model saw: its lesions by number, and their masks by place."""

    labels: dict[int, Label] = field(default_factory=dict)
    masks: dict[Place, dict[int, Mask]] = field(default_factory=lambda: defaultdict(dict))
    positions_mm: dict[Place, npt.NDArray[np.float64] | None] = field(default_factory=dict)

    def voxels(self) -> Counter[int]:
        """Voxels of each lesion."""
        counts: Counter[int] = Counter(dict.fromkeys(self.labels, 0))
        for masks in self.masks.values():
            for number, mask in masks.items():
                counts[number] += int(np.count_nonzero(mask))
        return counts

    def by_label(self, place: Place) -> dict[Label, Mask]:
        """What is labelled at a place, lesions of the same label joined."""
        joined: dict[Label, Mask] = {}
        for number, mask in self.masks.get(place, {}).items():
            label = self.labels[number]
            joined[label] = joined[label] | mask if label in joined else mask
        return joined


@dataclass(frozen=True)
class Match:
    """One lesion that both saw."""

    live: int
    candidate: int
    common_voxels: int


@dataclass(frozen=True)
class Comparison:
    """How far two models agree on one series."""

    live_voxels: int
    candidate_voxels: int
    common_voxels: int
    live_lesions: dict[int, int]
    candidate_lesions: dict[int, int]
    """Voxels by number."""
    matches: tuple[Match, ...]

    @property
    def dice(self) -> float | None:
        """Dice of the two label maps; None when neither saw anything."""
        both = self.live_voxels + self.candidate_voxels
        return 2.0 * self.common_voxels / both if both else None

    @property
    def only_live(self) -> int:
        """Lesions that the candidate did not see."""
        return len(self.live_lesions) - len(self.matches)

    @property
    def only_candidate(self) -> int:
        """Lesions that the live model did not see."""
        return len(self.candidate_lesions) - len(self.matches)

    def lesions(self) -> dict[str, Any]:
        """Which lesion is which, as JSON values."""
        return {
            "live": {str(number): count for number, count in self.live_lesions.items()},
            "candidate": {str(number): count for number, count in self.candidate_lesions.items()},
            "matches": [[match.live, match.candidate, match.common_voxels] for match in self.matches],
        }


def seen_in(segmentations: Iterable[Dataset]) -> Seen:
    """What the segmentations of one result show, in the order of its parts; raises as `read_frames` does."""
    seen = Seen()
    for segmentation in segmentations:
        offset = len(seen.labels)  # segments of each object begin with 1, lesions of a result go on
        for segment in segmentation.SegmentSequence:
            code = segment.SegmentedPropertyTypeCodeSequence[0]
            label = str(code.CodeValue), str(code.CodingSchemeDesignator)
            seen.labels[offset + int(segment.SegmentNumber)] = label
        for frame in read_frames(segmentation):
            _add(seen, frame, offset + frame.segment_number)
    return seen


def _add(seen: Seen, frame: SegmentFrame, number: int) -> None:
    place = frame.source_sop_instance_uid, frame.source_frame_number
    seen.masks[place][number] = frame.mask
    seen.positions_mm[place] = frame.position_mm


def compare(live: Seen, candidate: Seen) -> Comparison:
    """Raises PermanentError when the two do not lie on the same images."""
    common = 0
    overlaps: Counter[tuple[int, int]] = Counter()
    for place in live.masks.keys() & candidate.masks.keys():
        _check_place(place, live, candidate)
        labels, others = live.by_label(place), candidate.by_label(place)
        common += sum(int(np.count_nonzero(labels[one] & others[one])) for one in labels.keys() & others)
        for number, mask in live.masks[place].items():
            for other, its_mask in candidate.masks[place].items():
                if live.labels[number] == candidate.labels[other]:
                    overlaps[number, other] += int(np.count_nonzero(mask & its_mask))
    return Comparison(
        live_voxels=_labelled(live),
        candidate_voxels=_labelled(candidate),
        common_voxels=common,
        live_lesions=dict(live.voxels()),
        candidate_lesions=dict(candidate.voxels()),
        matches=tuple(_matched(overlaps)),
    )


def _labelled(seen: Seen) -> int:
    """Voxels with a label; where labels overlap, each counts."""
    return sum(int(np.count_nonzero(mask)) for place in seen.masks for mask in seen.by_label(place).values())


def _check_place(place: Place, live: Seen, candidate: Seen) -> None:
    one, other = live.positions_mm[place], candidate.positions_mm[place]
    same = one is None and other is None
    if one is not None and other is not None:
        same = bool(np.linalg.norm(one - other) <= SAME_PLACE_MM)
    shapes = {mask.shape for seen in (live, candidate) for mask in seen.masks[place].values()}
    if not same or len(shapes) != 1:
        raise PermanentError(f"the segmentations do not lie in the same place on image {place[0]}")


def _matched(overlaps: Counter[tuple[int, int]]) -> Iterable[Match]:
    """One to one, the greatest overlap first."""
    taken: set[tuple[str, int]] = set()
    for (live, candidate), count in sorted(overlaps.items(), key=lambda item: (-item[1], item[0])):
        ends = {("live", live), ("candidate", candidate)}
        if count and not ends & taken:
            taken |= ends
            yield Match(live, candidate, count)
