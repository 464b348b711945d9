"""A chest-sized CT with any number of round lesions, for stages that need real sizes and not real lungs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicomnode.part10 import ParsedHeader
from dicomnode.selftest.volumes import LESION, LESION_LABEL, TISSUE
from dicomnode.series_writer import SeriesIdentity, slice_dataset, write_series
from dicomnode.study import Instance, Series, SourceFrame, SourceVolume
from inference.labelmap import Lesion, LesionMap
from inference.volume import Volume

SPACING_MM = (1.0, 0.8, 0.8)
LATTICE = (14, 36, 36)
"""Distance between lesion centres in voxels (slice, row, column)."""
RADIUS_MM = 4.5
SEED = 7


def lesion_map(count: int, slices: int, side: int = 512) -> LesionMap:
    """`count` balls in an order that spreads them over the whole volume.

    Raises ValueError when they do not fit.
    """
    shape = (slices, side, side)
    centres = np.stack(
        np.meshgrid(
            *(np.arange(step // 2, n - step // 2 + 1, step) for n, step in zip(shape, LATTICE, strict=True)),
            indexing="ij",
        ),
        axis=-1,
    ).reshape(-1, 3)
    if len(centres) < count:
        raise ValueError(f"{count} lesions do not fit into {shape}: at most {len(centres)} do")
    chosen = np.random.default_rng(SEED).permutation(len(centres))[:count]
    ball = _ball()
    values = np.zeros(shape, dtype=np.uint16)
    lesions = []
    for number, centre in enumerate(centres[chosen], start=1):
        corner = centre - np.array(ball.shape) // 2
        box = tuple(slice(int(a), int(a) + n) for a, n in zip(corner, ball.shape, strict=True))
        values[box][ball] = number
        lesions.append(Lesion(number, LESION_LABEL, (box[0], box[1], box[2])))
    return LesionMap((values,), tuple(lesions))


def volume(found: LesionMap) -> Volume:
    """Tissue with the lesions as bright as the threshold model of the self-test needs them, and noise."""
    noise = np.random.default_rng(SEED).integers(-5, 6, found.values.shape, dtype=np.int16)
    voxels = np.where(found.values > 0, np.int16(LESION), np.int16(TISSUE)) + noise
    affine = np.diag([SPACING_MM[2], SPACING_MM[1], SPACING_MM[0], 1.0])[:, [2, 1, 0, 3]]
    affine[:3, 3] = (-200.0, -200.0, -100.0)
    return Volume(voxels.astype(np.int16), affine, "HU")


def source(seen: Volume) -> SourceVolume:
    """The volume as a series whose headers are in memory, as they are when a job encodes."""
    identity = SeriesIdentity()
    instances = []
    for index in range(seen.shape[0]):
        header = slice_dataset(seen, index, identity)
        del header.PixelData
        instances.append(Instance(Path(f"{index}.dcm"), ParsedHeader(header), f"{index:064d}"))
    return SourceVolume(Series(tuple(instances)), seen, tuple(SourceFrame(found) for found in instances))


def write(seen: Volume, folder: Path) -> list[Path]:
    """The volume as files."""
    return write_series(seen, folder, SeriesIdentity())


def _ball() -> npt.NDArray[np.bool_]:
    reach = [int(RADIUS_MM / spacing) for spacing in SPACING_MM]
    steps = np.meshgrid(
        *(np.arange(-n, n + 1) * s for n, s in zip(reach, SPACING_MM, strict=True)), indexing="ij"
    )
    inside: npt.NDArray[np.bool_] = np.sqrt(sum(step**2 for step in steps)) <= RADIUS_MM
    return inside
