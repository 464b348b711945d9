"""Voxel indices as DICOM image coordinates.

Graphic Data (0070,0022) of an SCOORD are (column, row) pairs whose origin is the top left *corner* of
the top left pixel (PS3.3 C.18.6.1.2 and C.10.5.1.2), so the centre of that pixel is 0.5\\0.5 and an
image spans 0\\0 to Columns\\Rows. The cornerstone adapters (worldToImageCoords subtracts half a pixel
from Image Position) and highdicom (ImageToReferenceTransformer) read them so. `Axis` and numpy count
(row, column) from pixel centres: half a pixel is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

PIXEL_CENTRE = 0.5
RECTANGLE_POINTS = 5

Points = npt.NDArray[np.float64]


def to_graphic_data(indices: npt.ArrayLike) -> Points:
    """(row, column) indices of pixel centres (n, 2) as (column, row) image coordinates (n, 2)."""
    points: Points = np.asarray(indices, dtype=np.float64)[:, ::-1] + PIXEL_CENTRE
    return points


def outline(mask: npt.NDArray[Any]) -> Points:
    """The outer contour of the largest piece of a (row, column) mask: closed, as image coordinates.

    Runs halfway between pixel centres inside and outside, so it stays within the image.
    """
    contours = find_contours(np.pad(mask, 1).astype(np.float64), 0.5)
    return to_graphic_data(_more_than_a_rectangle(max(contours, key=_area)) - 1.0)


def _more_than_a_rectangle(contour: Points) -> Points:
    """The same outline of more than five points: viewers take five for their rectangle tool."""
    if len(contour) > RECTANGLE_POINTS:
        return contour
    middles = (contour[:-1] + contour[1:]) / 2
    return np.concatenate([np.stack([contour[:-1], middles], axis=1).reshape(-1, 2), contour[-1:]])


def _area(contour: Points) -> float:
    rows, columns = contour[:, 0], contour[:, 1]
    return float(abs(rows[:-1] @ columns[1:] - rows[1:] @ columns[:-1])) / 2
