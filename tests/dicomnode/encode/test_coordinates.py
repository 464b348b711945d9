"""Image coordinates begin at the corner of the first pixel, and contours stay on their lesion."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.draw import polygon2mask

from dicomnode.encode.coordinates import outline, to_graphic_data


def test_the_centre_of_the_first_pixel_is_half_a_pixel_from_the_origin() -> None:
    assert to_graphic_data([(0, 0), (2, 5)]).tolist() == [[0.5, 0.5], [5.5, 2.5]]


@pytest.mark.parametrize("corner", [(0, 0), (0, 9), (7, 0), (7, 9)])
def test_a_lesion_in_the_corner_is_outlined_within_the_image(corner: tuple[int, int]) -> None:
    mask = np.zeros((8, 10), bool)
    mask[corner] = True
    points = outline(mask)
    assert (points >= 0).all()
    assert (points <= (10, 8)).all()


def test_a_single_pixel_is_not_taken_for_a_rectangle() -> None:
    mask = np.zeros((8, 10), bool)
    mask[3, 4] = True
    points = outline(mask)
    assert len(points) > 5
    assert tuple(points[0]) == tuple(points[-1])
    assert tuple(points[:-1].mean(axis=0)) == pytest.approx((4.5, 3.5))


def test_the_contour_encloses_exactly_the_pixels_of_the_lesion() -> None:
    rows, columns = np.indices((40, 50))
    mask = ((rows - 17) / 9) ** 2 + ((columns - 30) / 13) ** 2 <= 1
    contour = outline(mask)[:, ::-1] - 0.5
    np.testing.assert_array_equal(polygon2mask(mask.shape, contour), mask)


def test_of_two_pieces_the_larger_is_outlined() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:4, 2:4] = mask[10:16, 10:16] = True
    assert (outline(mask) >= 10).all()


def test_of_a_ring_the_outer_edge_is_outlined() -> None:
    mask = np.zeros((20, 20), bool)
    mask[4:16, 4:16] = True
    mask[8:12, 8:12] = False
    points = outline(mask)
    assert tuple(points.min(axis=0)) == pytest.approx((4, 4))
    assert tuple(points.max(axis=0)) == pytest.approx((16, 16))
