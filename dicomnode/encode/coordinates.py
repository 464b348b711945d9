"""Voxel indices as DICOM image coordinates.

Graphic Data (0070,0022) of an SCOORD are (column, row) pairs whose origin is the top left *corner* of
the top left pixel (PS3.3 C.18.6.1.2 and C.10.5.1.2), so the centre of that pixel is 0.5\\0.5 and an
image spans 0\\0 to Columns\\Rows. The cornerstone adapters (worldToImageCoords subtracts half a pixel
from Image Position) and highdicom (ImageToReferenceTransformer) read them so. `Axis` and numpy count
(row, column) from pixel centres: half a pixel is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon
from skimage.measure import find_contours, points_in_poly

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


def outlines(mask: npt.NDArray[Any]) -> list[Points]:
    """All contours of a (row, column) mask, holes too: closed, as (column, row) image coordinates.

    The pixels whose centres lie within an odd number of them are those of the mask.
    """
    contours = find_contours(np.pad(mask, 1).astype(np.float64), 0.5)
    return [to_graphic_data(contour - 1.0) for contour in contours]


def filled(contours: Sequence[Points], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The (row, column) mask of the pixels whose centres lie within an odd number of `contours`."""
    mask = np.zeros(shape, dtype=np.bool_)
    for contour in contours:
        columns, rows = (contour - PIXEL_CENTRE).T
        mask[polygon(rows, columns, shape)] ^= True
    return mask


def without_holes(contours: Sequence[Points]) -> list[Points]:
    """The same area by outer contours alone: each hole is joined to its surroundings by a channel.

    Structure sets know no holes; the channel has no width ("keyhole", PS3.3 C.8.8.6.3).
    """
    outer = sorted((c for c in contours if _turns(c) == _turns(max(contours, key=_area))), key=_area)
    for hole in sorted((c for c in contours if _turns(c) != _turns(outer[-1])), key=_area, reverse=True):
        index = next(i for i, c in enumerate(outer) if points_in_poly(hole[:1], c)[0])
        outer[index] = _joined(outer[index], hole)
    return outer


def _joined(around: Points, hole: Points) -> Points:
    distances = np.linalg.norm(around[:-1, None] - hole[None, :-1], axis=2)
    start, end = np.unravel_index(np.argmin(distances), distances.shape)
    turned = np.concatenate([hole[end:-1], hole[: end + 1]])
    return np.concatenate([around[: start + 1], turned, around[start:]])


def _turns(contour: Points) -> bool:
    """Whether a contour runs clockwise: find_contours turns holes the other way."""
    return _signed_area(contour) > 0


def _more_than_a_rectangle(contour: Points) -> Points:
    """The same outline of more than five points: viewers take five for their rectangle tool."""
    if len(contour) > RECTANGLE_POINTS:
        return contour
    middles = (contour[:-1] + contour[1:]) / 2
    return np.concatenate([np.stack([contour[:-1], middles], axis=1).reshape(-1, 2), contour[-1:]])


def _area(contour: Points) -> float:
    return abs(_signed_area(contour))


def _signed_area(contour: Points) -> float:
    rows, columns = contour[:, 0], contour[:, 1]
    return float(rows[:-1] @ columns[1:] - rows[1:] @ columns[:-1]) / 2
