"""Lesions: a label map in, numbered lesions and their measurements out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - its own manual calls it so
from scipy import ndimage
from scipy.spatial.distance import pdist
from skimage.measure import label as skimage_label
from skimage.measure import regionprops

from inference.bundle import Postprocessing
from inference.labelmap import LabelMap, LesionMap
from inference.lesions import find_lesions
from inference.measure import Quantity, measure_lesions
from inference.volume import Volume
from tests.bench.harness import AtLeast, Case, Setting, Stage, simply
from tests.phantoms import LESION_LABEL

SPACING_MM = (1.0, 0.7, 0.7)
REACH, CELL = 12, 28
LESIONS_OF_GROWTH = (0, 50, 100, 200, 350, 500)
SLICES_OF_GROWTH = (50, 200, 500, 1000, 2000)
LESIONS_IN_SLICES = 20
SIDE_OF_GROWTH = 256
Values = npt.NDArray[np.uint8]


def scattered(shape: tuple[int, int, int], count: int) -> Values:
    """Ellipsoids with half axes of 3 to 11 voxels that do not touch."""
    chance, values = np.random.default_rng(0), np.zeros(shape, np.uint8)
    offsets = np.mgrid[(slice(-REACH, REACH + 1),) * 3].reshape(3, -1)
    places = np.stack(np.meshgrid(*(np.arange(REACH + 1, n - REACH, CELL) for n in shape), indexing="ij"), -1)
    for place in chance.permutation(places.reshape(-1, 3))[:count]:
        inside = offsets[:, ((offsets / chance.uniform(3, 11, (3, 1))) ** 2).sum(axis=0) <= 1.0]
        values[tuple(inside + place[:, None])] = 1
    return values


def noise(shape: tuple[int, int, int]) -> Volume:
    """Values to take the mean of."""
    values = np.random.default_rng(1).integers(-100, 100, shape, dtype=np.int16)
    return Volume(values, np.diag([*SPACING_MM, 1.0]), "HU")


def found_in(values: Values, volume: Volume) -> LesionMap:
    """All components are lesions."""
    return find_lesions(LabelMap(values, (LESION_LABEL,)), volume, Postprocessing())


def by_node(values: Values, volume: Volume) -> list[float]:
    """Everything; gives the largest diameters."""
    measured = measure_lesions(found_in(values, volume), volume)
    return sorted(m.largest_diameter.value for m in measured if isinstance(m.largest_diameter, Quantity))


def by_simpleitk(values: Values) -> list[float]:
    """Components and Feret diameters."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING_MM[::-1])
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.ComputeFeretDiameterOn()
    statistics.Execute(sitk.ConnectedComponent(image, True))
    return sorted(statistics.GetFeretDiameter(number) for number in statistics.GetLabels())


def by_scipy(values: Values) -> list[float]:
    """Components; all pairs of the voxels at the border."""
    components, _ = ndimage.label(values, np.ones((3, 3, 3)))
    found = []
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        inside = components[box] == number
        border = inside & ~ndimage.binary_erosion(inside)
        found.append(float(pdist(np.argwhere(border) * SPACING_MM).max(initial=0.0)))
    return sorted(found)


def by_skimage(values: Values) -> list[float]:
    """Components, and volumes by region properties; its Feret diameter is another one."""
    found = regionprops(skimage_label(values, connectivity=3), spacing=SPACING_MM)
    return sorted(region.area for region in found)


def cases(setting: Setting) -> Iterator[Case]:
    shape = setting.choose((60, 96, 96), (100, 256, 256), (300, 512, 512))
    volume = noise(shape)
    many = scattered(shape, setting.choose(3, 20, 200))
    expected = by_node(many, volume)
    for name, other in (("SimpleITK", by_simpleitk(many)), ("scipy", by_scipy(many))):
        if not np.allclose(other, expected, atol=1e-6):
            raise ValueError(f"{name} measures other diameters than the node")
    structure = np.ones((3, 3, 3))
    labelling = (
        simply("node", lambda: found_in(many, volume)),
        simply("scipy", lambda: ndimage.find_objects(ndimage.label(many, structure)[0])),
        simply("scikit-image", lambda: skimage_label(many, connectivity=3)),
        simply("SimpleITK", lambda: sitk.ConnectedComponent(sitk.GetImageFromArray(many), True)),
    )
    yield Case("components", labelling, "scipy", (AtLeast("node", 1.0, "scipy"),))
    measuring = (
        simply("node (everything)", lambda: by_node(many, volume)),
        simply("SimpleITK (Feret)", lambda: by_simpleitk(many)),
        simply("scipy (border pairs)", lambda: by_scipy(many)),
        simply("scikit-image (volumes only)", lambda: by_skimage(many)),
    )
    goals = (AtLeast("node (everything)", 1.0, "SimpleITK (Feret)"),)
    yield Case("components and measurements", measuring, "SimpleITK (Feret)", goals)
    for count in setting.choose((0, 2), LESIONS_OF_GROWTH[:3], LESIONS_OF_GROWTH):
        node = simply("node", partial(by_node, scattered(shape, count), volume))
        yield Case(f"{count} lesions", (node,), at=("lesions", count))
    for slices in setting.choose((30,), SLICES_OF_GROWTH[:2], SLICES_OF_GROWTH):
        long = (slices, SIDE_OF_GROWTH, SIDE_OF_GROWTH)
        node = simply("node", partial(by_node, scattered(long, LESIONS_IN_SLICES), noise(long)))
        words = f"{LESIONS_IN_SLICES} lesions in {slices} slices of {SIDE_OF_GROWTH} x {SIDE_OF_GROWTH}"
        yield Case(words, (node,), at=("slices", slices))


STAGE = Stage(
    "lesions",
    "Lesions and measurements",
    "200 ellipsoids in 300 x 512 x 512 voxels become lesions and are measured. `node` finds components, "
    "checks them, and measures volume, the area of the marching-cubes mesh, both axes in the best slice "
    "with their ends, the largest diameter, the centre and intensities. SimpleITK finds components, then in "
    "one filter volume, an estimate of the surface, the largest diameter, the centre and moments; scipy "
    "components and the largest diameter; scikit-image components and volumes. Diameters are checked to be "
    "equal before anything is timed.",
    cases,
    rounds=5,
)
