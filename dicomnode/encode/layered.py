"""Segments that may have pixels in common, written from layers of segment numbers.

highdicom 0.28.2 takes such segments as one plane per segment and slice: for forty lesions on a chest CT
that is sixteen gigabytes, nearly all of them empty. Segments of one layer never overlap, so here a slice is
given as the numbers in each layer, and a segment is taken out of its own. Two private methods of
highdicom are replaced for it; where they have other names it refuses the array, and nothing is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom.seg import Segmentation, SegmentsOverlapValues


class LayeredSegmentation(Segmentation):  # type: ignore[misc]
    """A BINARY segmentation whose `pixel_array` is (slice, row, column, layer) of segment numbers."""

    @classmethod
    def _check_and_cast_pixel_array(
        cls, pixel_array: Any, segment_numbers: Any, segmentation_type: Any, dtype: Any
    ) -> tuple[Any, SegmentsOverlapValues]:
        covered = np.count_nonzero(pixel_array, axis=-1).max() > 1
        return pixel_array, SegmentsOverlapValues.YES if covered else SegmentsOverlapValues.NO

    @staticmethod
    def _get_segment_pixel_array(pixel_array: npt.NDArray[Any], segment_number: int, **_: Any) -> Any:
        return (pixel_array == segment_number).any(axis=-1).astype(np.uint8)
