"""From probabilities to a label map, and from a label map to single lesions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from inference.bundle import ModelCard, Postprocessing
from inference.errors import BundleError
from inference.foreground import foreground_box, is_on_host, on_host
from inference.labelmap import Label, LabelMap, Lesion, LesionMap, layered
from inference.preprocess import ModelInput, restore
from inference.volume import Box, Volume

Probabilities = npt.NDArray[np.float32]


def decide(
    probabilities: torch.Tensor,
    image: ModelInput,
    volume: Volume,
    card: ModelCard,
    region: npt.NDArray[np.bool_] | None = None,
) -> LesionMap:
    """The lesions of `volume` by the probabilities (class, slice, row, column) on the model's grid.

    Labels that may overlap are decided one by one, each in a layer of its own. Raises BundleError when
    the network gives another number of classes than the card has labels.
    """
    return lesions_in(labelled(probabilities, image, card), volume, card.postprocessing, region)


def lesions_in(
    label_maps: Iterable[tuple[LabelMap, Probabilities | None]],
    volume: Volume,
    how: Postprocessing,
    region: npt.NDArray[np.bool_] | None,
) -> LesionMap:
    """The lesions of all label maps, each found as by `find_lesions`."""
    maps = [find_lesions(label_map, volume, how, region, certainty) for label_map, certainty in label_maps]
    return maps[0] if len(maps) == 1 else layered(maps)


def labelled(
    probabilities: torch.Tensor, image: ModelInput, card: ModelCard
) -> Iterator[tuple[LabelMap, Probabilities | None]]:
    """Each label map on the source grid, and how certain it is where that is asked for.

    One, or one for each of labels that may overlap. Raises BundleError as `decide`.
    """
    how, background = card.postprocessing, 0 if card.labels_overlap else 1
    if len(probabilities) != len(card.labels) + background:
        raise BundleError(
            f"the network of model {card.name} has {len(probabilities)} outputs, "
            f"its card asks for {len(card.labels) + background}: export the model again"
        )
    for index, labels in enumerate(labels_of_maps(card)):
        alone = probabilities[index]
        classes = torch.stack([1.0 - alone, alone]) if card.labels_overlap else probabilities
        yield _found(classes, image, labels, how)


def labels_of_maps(card: ModelCard) -> list[tuple[Label, ...]]:
    """The labels of each label map: all in one, unless they may overlap."""
    return [(label,) for label in card.labels] if card.labels_overlap else [card.labels]


def to_label_map(
    probabilities: torch.Tensor, image: ModelInput, labels: tuple[Label, ...], how: Postprocessing
) -> tuple[LabelMap, Probabilities]:
    """Bring class probabilities (class, slice, row, column) back to the source grid and decide.

    Class 0 is background, the others are `labels` in their order. A voxel takes its likeliest label
    where all labels together reach the threshold. Also returns that joint probability (slice, row,
    column) on the source grid; outside the box it is 0.
    """
    joint, labelled = _labelled(probabilities, image, labels, how)
    values, certainty = (_in_source(found.cpu().numpy(), image) for found in (labelled, joint))
    return LabelMap(values, labels), certainty


def _found(
    probabilities: torch.Tensor, image: ModelInput, labels: tuple[Label, ...], how: Postprocessing
) -> tuple[LabelMap, Probabilities | None]:
    """As `to_label_map`, with no more of the probability than `find_lesions` looks at.

    It looks at none unless lesions need a peak, and then within them only.
    """
    joint, labelled = _labelled(probabilities, image, labels, how)
    box = None if is_on_host(labelled) else foreground_box(labelled)
    label_map = LabelMap(_in_source(on_host(labelled, box), image), labels)
    return label_map, _in_source(on_host(joint, box), image) if how.peak_probability else None


def _labelled(
    probabilities: torch.Tensor, image: ModelInput, labels: tuple[Label, ...], how: Postprocessing
) -> tuple[torch.Tensor, torch.Tensor]:
    """The joint probability of all labels, and the label of each voxel, 0 below the threshold."""
    joint, likeliest = joint_and_likeliest(probabilities[1:], image, labels)
    return joint, likeliest.mul_(joint >= how.probability_threshold)


def _in_source(found: npt.NDArray[Any], image: ModelInput) -> npt.NDArray[Any]:
    """What was found in the box on the source grid, 0 around it; itself when the box holds everything."""
    if found.shape == image.source_shape:
        return found
    whole = np.zeros(image.source_shape, found.dtype)
    whole[image.box] = found
    return whole


def joint_and_likeliest(
    probabilities: torch.Tensor, image: ModelInput, labels: tuple[Label, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the labels' probabilities, and the number of the first that has the highest; on the source grid.

    Both are on the device of `probabilities`: a card resamples many times faster than its host.
    One label after the other, so that the source grid never holds all of them, which for many organs
    would be the most memory of all; and torch's `argmax` over classes is many times slower.
    """
    joint = restore(probabilities[:1], image)[0]
    likeliest = torch.full(joint.shape, labels[0].number, dtype=torch.uint8, device=joint.device)
    highest = joint
    for label, probability in zip(labels[1:], probabilities[1:], strict=True):
        native = restore(probability[None], image)[0]
        joint = joint + native  # not in place: where nothing is resampled, it is the network's own answer
        likeliest = likeliest.masked_fill(native > highest, label.number)
        highest = torch.maximum(highest, native)
    return joint, likeliest


def find_lesions(
    label_map: LabelMap,
    volume: Volume,
    how: Postprocessing,
    region: npt.NDArray[np.bool_] | None = None,
    certainty: Probabilities | None = None,
) -> LesionMap:
    """Split every lesion label into its 26-connected components; an organ stays in one piece.

    In a loop of images, which has time for its slice axis, a lesion is so followed from frame to frame.
    It never reaches from one still image or loop into another.
    Components are dropped when most of them lies outside `region`, when they are smaller than the
    model's smallest lesion, or when their highest `certainty` stays below the model's peak
    probability. Lesions are numbered by label, then from the largest to the smallest.
    """
    values = np.zeros(label_map.values.shape, np.uint16)
    lesions: list[Lesion] = []
    for label in label_map.labels:
        pieces = _pieces(label_map.values, label, volume)
        for piece in sorted(pieces, key=lambda piece: -piece.voxel_count):
            inside, box = piece.inside, piece.box
            if label.kind == "lesion" and not _accepted(inside, box, volume, how, region, certainty):
                continue
            lesions.append(Lesion(len(lesions) + 1, label, box))
            values[box][inside] = len(lesions)
    return LesionMap((values,), tuple(lesions))


@dataclass(frozen=True, eq=False)
class Piece:
    """Voxels that hang together: `inside` within `box`."""

    components: npt.NDArray[np.uint32]
    number: int
    box: Box
    voxel_count: int

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Which voxels of the box belong to it."""
        inside: npt.NDArray[np.bool_] = self.components == self.number
        return inside


def _pieces(values: npt.NDArray[np.uint8], label: Label, volume: Volume) -> Iterator[Piece]:
    """No piece lies in two runs of slices. Only the box around all labels is looked at more than once."""
    for run in volume.runs:
        around = smallest_box(values[run])
        if around is None:
            continue
        part, place = values[run][around] == label.number, _moved(around, (run.start, 0, 0))
        if (closer := smallest_box(part)) is None:
            continue
        part, place = part[closer], _moved(closer, (place[0].start, place[1].start, place[2].start))
        if label.kind == "organ":
            yield Piece(part.astype(np.uint32), 1, place, int(np.count_nonzero(part)))
            continue
        components, last = _connected(part)
        corner = place[0].start, place[1].start, place[2].start
        for number, (box, count) in enumerate(_boxes_and_counts(part, components, last), start=1):
            yield Piece(components[box], number, _moved(box, corner), count)


def _boxes_and_counts(
    part: npt.NDArray[np.bool_], components: npt.NDArray[np.uint32], count: int
) -> list[tuple[Box, int]]:
    """The smallest box around each of the components 1 to `count` of `part`, and how many voxels it has.

    Plane by plane, as each fits a cache, and only where there is something: most of an image is empty.
    """
    first = np.full((3, count + 1), np.iinfo(np.int64).max)
    end = np.zeros((3, count + 1), np.int64)
    voxels = np.zeros(count + 1, np.int64)
    for index, (inside, plane) in enumerate(zip(part, components, strict=True)):
        places = np.flatnonzero(inside)
        numbers = plane.ravel()[places]
        at = (np.full_like(places, index), *np.divmod(places, plane.shape[1]))
        for axis, along in enumerate(at):
            np.minimum.at(first[axis], numbers, along)
            np.maximum.at(end[axis], numbers, along + 1)
        np.add.at(voxels, numbers, 1)
    ranges = (map(slice, *ends) for ends in zip(first.tolist(), end.tolist(), strict=True))
    boxes = zip(*ranges, strict=True)
    return list(zip(boxes, voxels.tolist(), strict=True))[1:]  # 0 is what lies around them


def _connected(part: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.uint32], int]:
    """Numbers of the components of 26 neighbours, from 1, and how many there are.

    cc3d 4.1.1 fails on some parts of a single row.
    """
    if min(part.shape) == 1 or part.size < 64:
        found, count = ndimage.label(part, np.ones((3, 3, 3)))
        return found.astype(np.uint32), int(count)
    connected, count = cc3d.connected_components(part, connectivity=26, out_dtype=np.uint32, return_N=True)
    return connected, int(count)


def _moved(box: Box, by: tuple[int, int, int]) -> Box:
    slices, rows, columns = (slice(a.start + n, a.stop + n) for a, n in zip(box, by, strict=True))
    return slices, rows, columns


def smallest_box(mask: npt.NDArray[Any]) -> Box | None:
    """The box (slice, row, column) around all voxels of `mask` that are not 0; None where there are none."""
    occupied = np.flatnonzero(mask.any(axis=(1, 2)))
    if not occupied.size:
        return None
    slices = slice(int(occupied[0]), int(occupied[-1]) + 1)
    flat: npt.NDArray[np.bool_] = np.any(mask[slices], axis=0)
    rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    return slices, slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _accepted(
    inside: npt.NDArray[np.bool_],
    box: tuple[slice, slice, slice],
    volume: Volume,
    how: Postprocessing,
    region: npt.NDArray[np.bool_] | None,
    certainty: Probabilities | None,
) -> bool:
    if _too_small(inside, box[0].start, volume, how):
        return False
    if region is not None and region[box][inside].mean() < 0.5:
        return False
    return certainty is None or bool(certainty[box][inside].max() >= how.peak_probability)


def _too_small(inside: npt.NDArray[np.bool_], first_slice: int, volume: Volume, how: Postprocessing) -> bool:
    """By volume; without a place in the patient by the largest share of one image."""
    if volume.has_geometry:
        return volume.volume_mm3(inside, first_slice) < how.smallest_lesion_mm3
    _, rows, columns = volume.shape
    largest_area = int(np.count_nonzero(inside, axis=(1, 2)).max())
    return largest_area < how.smallest_lesion_share * rows * columns
