"""Lesions as solids in the patient: places and sizes in LPS millimetres, volumes by formula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """Its axes are those of the patient (L, P, S)."""

    centre_lps_mm: Point
    radii_mm: Point

    def contains(self, points_lps_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which of the points (..., 3) lie inside."""
        scaled = (points_lps_mm - np.array(self.centre_lps_mm)) / np.array(self.radii_mm)
        inside: npt.NDArray[np.bool_] = (scaled**2).sum(axis=-1) <= 1.0
        return inside

    @property
    def volume_mm3(self) -> float:
        """4/3 pi abc."""
        return float(4.0 / 3.0 * np.pi * np.prod(self.radii_mm))

    @property
    def longest_diameter_mm(self) -> float:
        """Largest distance between two of its points."""
        return 2.0 * max(self.radii_mm)

    @property
    def surface_mm2(self) -> float:
        """Knud Thomsen's formula, within 1.1 % (exact for a sphere)."""
        a, b, c = (radius**1.6075 for radius in self.radii_mm)
        return float(4.0 * np.pi * ((a * b + a * c + b * c) / 3.0) ** (1.0 / 1.6075))


@dataclass(frozen=True)
class Box:
    """Its edges run along the patient's axes (L, P, S)."""

    centre_lps_mm: Point
    size_mm: Point

    def contains(self, points_lps_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which of the points (..., 3) lie inside."""
        offset = np.abs(points_lps_mm - np.array(self.centre_lps_mm))
        inside: npt.NDArray[np.bool_] = (offset <= np.array(self.size_mm) / 2.0).all(axis=-1)
        return inside

    @property
    def volume_mm3(self) -> float:
        """Product of the edges."""
        return float(np.prod(self.size_mm))

    @property
    def longest_diameter_mm(self) -> float:
        """The space diagonal."""
        return float(np.linalg.norm(self.size_mm))

    @property
    def surface_mm2(self) -> float:
        """Area of the six faces."""
        a, b, c = self.size_mm
        return 2.0 * (a * b + a * c + b * c)


Shape = Ellipsoid | Box


def sphere(centre_lps_mm: Point, diameter_mm: float) -> Ellipsoid:
    """A ball."""
    radius = diameter_mm / 2.0
    return Ellipsoid(centre_lps_mm, (radius, radius, radius))
