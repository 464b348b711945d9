"""Surface of a lesion: the area of the marching-cubes mesh, without making the mesh.

What the mesh does between eight neighbouring voxels depends on nothing but which of them belong to the
lesion: there are 256 cases. They are meshed once; of a lesion it is enough to count how often each occurs.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from skimage.measure import marching_cubes

from inference.diameters import Mask, Points

CASES = 256
ALL_BUT_UNIFORM = range(1, CASES - 1)
"""Eight voxels that are all inside, or all outside, have no surface between them."""
Values = npt.NDArray[np.float64]


def surface_area(mask: Mask, grid_to_mm: Points, gaps: npt.ArrayLike) -> float:
    """Area in mm2 of the mesh half way between what is in `mask` (slice, row, column) and what is not.

    `grid_to_mm` (3, 3) maps index steps to millimetres. `gaps` says how many steps of the slice axis lie
    before, between and behind the slices of `mask`: one more than there are slices.
    """
    counts = _case_counts(mask)
    at = np.asarray(gaps, dtype=np.float64)
    key = tuple(grid_to_mm.ravel().tolist())
    return sum(
        float(counts[at == gap].sum(axis=0) @ _area_of_cases(key, gap)) for gap in np.unique(at).tolist()
    )


def _case_counts(mask: Mask) -> npt.NDArray[np.int64]:
    """How often each case occurs (layer between slices, case), with nothing around `mask`.

    Bit 4 * slice + 2 * row + column of a case is set where that one of its voxels is inside.
    """
    inside: npt.NDArray[np.uint8] = np.pad(mask, 1).view(np.uint8)
    across = np.bitwise_or(inside[:, :, :-1], inside[:, :, 1:] << 1)
    down = np.bitwise_or(across[:, :-1], across[:, 1:] << 2)
    cases = np.bitwise_or(down[:-1], down[1:] << 4)
    return np.stack([np.bincount(layer.ravel(), minlength=CASES) for layer in cases])


@lru_cache(maxsize=1024)
def _area_of_cases(grid_to_mm: tuple[float, ...], gap: float) -> Values:
    """The area in mm2 of the mesh of each case, between two slices `gap` steps apart."""
    triangles = _triangles() * (gap, 1.0, 1.0) @ np.reshape(grid_to_mm, (3, 3)).T
    first, second, third = np.moveaxis(triangles, 2, 0)
    areas: Values = np.linalg.norm(np.cross(second - first, third - first), axis=-1).sum(axis=-1) / 2
    return areas


@cache
def _triangles() -> Values:
    """The mesh of each case (case, triangle, corner, axis) in steps; what is left over has no area."""
    meshes = {}
    for case in ALL_BUT_UNIFORM:
        voxels = np.unpackbits(np.uint8(case), bitorder="little").reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(voxels.astype(np.float32), 0.5)
        meshes[case] = vertices[faces]
    triangles = np.zeros((CASES, max(map(len, meshes.values())), 3, 3))
    for case, mesh in meshes.items():
        triangles[case, : len(mesh)] = mesh
    return triangles
