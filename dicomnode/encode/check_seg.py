"""Compares a segmentation, read back, with the lesion map: in patient space and by source reference.

Both ways matter: OHIF places frames by source reference, dcmqi and 3D Slicer by position, and no
validator notices when the two disagree. Images without a place in the patient have the reference only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicomnode.encode.context import ResultContext
from dicomnode.encode.decode import SegmentFrame, read_frames
from dicomnode.encode.parts import Part
from dicomnode.encode.sources import frame_position_mm
from dicomnode.encode.uids import tracking_uid
from dicomnode.encode.unplaced import ORIENTATION, common_spacing_mm
from dicomnode.errors import ResultRejected
from dicomnode.study import text
from inference.labelmap import LesionMap, Numbers
from inference.volume import Volume

SAME_PLACE_MM = 1e-3
"""Between a frame and its source image, whose position is copied."""

BACKGROUND = 0
"""Segment that highdicom describes in every label map; binary segments begin with 1."""

SLICE_TOLERANCE = 0.15
PIXEL_TOLERANCE = 0.3
"""Between a frame and the even grid of the volume, in steps of it: what `volumes.py` allows, and rounding."""

STEP_TOLERANCE_MM = 1e-2
"""Between pixel steps of a frame and of the volume, over the whole image."""


Drawn = dict[int, Numbers]
"""Numbers of lesions by slice, where there are any."""


def check_segs(
    segs: Sequence[Dataset], lesion_map: LesionMap, context: ResultContext, parts: Sequence[Part]
) -> None:
    """Raise ResultRejected unless `segs`, one for each part, hold the lesions of the map, voxel by voxel."""
    if len(segs) != len(parts):
        raise ResultRejected(f"the segmentation is in {len(segs)} parts, expected {len(parts)}")
    layers: list[Drawn] = [{} for _ in lesion_map.layers]
    for seg, part in zip(segs, parts, strict=True):
        _check_segments(seg, part, context)
        _check_references(seg, context)
        _draw(seg, part, layers, context)
    for drawn, expected in zip(layers, lesion_map.layers, strict=True):
        _compare(drawn, expected)


def _draw(seg: Dataset, part: Part, layers: Sequence[Drawn], context: ResultContext) -> None:
    """Draw the frames of one segmentation, each into the layer of its lesion; raises ResultRejected where
    they cannot lie.
    """
    layer_of = {lesion.number - part.offset: layers[lesion.layer] for lesion in part.lesions}
    placed, shape = context.source.volume.has_geometry, context.source.volume.shape[1:]
    slice_of = _slice_by_place if placed else _slice_by_reference
    spacings_mm = {}
    for frame in read_frames(seg):
        index = slice_of(frame, context)
        spacings_mm[index] = frame.spacing_mm
        if frame.segment_number not in layer_of:
            raise ResultRejected(f"SEG frame {frame.number}: segment {frame.segment_number} is not described")
        if frame.mask.shape != shape:
            raise ResultRejected(f"SEG frame {frame.number}: size {frame.mask.shape}, source {shape}")
        target = layer_of[frame.segment_number].setdefault(index, np.zeros(shape, np.uint16))
        inside = np.nonzero(frame.mask)
        if target[inside].any():
            raise ResultRejected(f"SEG frame {frame.number} overlaps another segment in slice {index}")
        target[inside] = frame.segment_number + part.offset
    if not placed:
        _check_spacings(spacings_mm, context)


def _compare(drawn: Drawn, expected: Numbers) -> None:
    empty = np.zeros(expected.shape[1:], np.uint16)
    wrong = [i for i, plane in enumerate(expected) if not np.array_equal(drawn.get(i, empty), plane)]
    if wrong:
        different = [np.argwhere(drawn.get(i, empty) != expected[i]) for i in wrong]
        row, column = (int(i) for i in different[0][0])
        at = (wrong[0], row, column)
        segment = int(drawn.get(wrong[0], empty)[row, column])
        raise ResultRejected(
            f"SEG differs from the lesion map in {sum(map(len, different))} voxels, first at (slice, row, "
            f"column) {at}: segment {segment}, lesion {int(expected[at])}"
        )


def _check_segments(seg: Dataset, part: Part, context: ResultContext) -> None:
    segments = [segment for segment in seg.SegmentSequence if segment.SegmentNumber != BACKGROUND]
    numbers = [int(segment.SegmentNumber) for segment in segments]
    expected = [lesion.number - part.offset for lesion in part.lesions]
    if numbers != expected:
        raise ResultRejected(f"SEG describes segments {numbers[:9]}, the lesions are {expected[:9]}")
    for segment, lesion in zip(segments, part.lesions, strict=True):
        where = f"SEG segment {lesion.number}"
        if text(segment, "TrackingUID") != tracking_uid(context, lesion.number):
            raise ResultRejected(f"{where}: tracking UID {text(segment, 'TrackingUID') or 'missing'}")
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        if text(algorithm, "AlgorithmVersion") != context.card.version:
            raise ResultRejected(f"{where}: algorithm version {text(algorithm, 'AlgorithmVersion')}")
        for keyword, code in (
            ("SegmentedPropertyCategoryCodeSequence", lesion.label.category),
            ("SegmentedPropertyTypeCodeSequence", lesion.label.type),
        ):
            item = segment[keyword].value[0]
            if (text(item, "CodeValue"), text(item, "CodingSchemeDesignator")) != (code.value, code.scheme):
                raise ResultRejected(f"{where}: {keyword} is not the code of the model card")


def _check_references(seg: Dataset, context: ResultContext) -> None:
    source = context.source
    known = {frame.instance.sop_instance_uid for frame in source.frames}
    header = source.frames[0].instance.header
    expected = text(header, "FrameOfReferenceUID") if source.volume.has_geometry else ""
    if text(seg, "FrameOfReferenceUID") != expected:
        raise ResultRejected("SEG has another frame of reference than its source")
    for series in seg.ReferencedSeriesSequence:
        if str(series.SeriesInstanceUID) != source.series.series_instance_uid:
            raise ResultRejected(f"SEG refers to foreign series {series.SeriesInstanceUID}")
        for item in series.ReferencedInstanceSequence:
            if str(item.ReferencedSOPInstanceUID) not in known:
                raise ResultRejected(f"SEG refers to foreign instance {item.ReferencedSOPInstanceUID}")


def _slice_by_reference(frame: SegmentFrame, context: ResultContext) -> int:
    """Slice whose image the frame names; raises ResultRejected for a place that the image does not have."""
    images = [(f.instance.sop_instance_uid, f.frame_number) for f in context.source.frames]
    image = frame.source_sop_instance_uid, frame.source_frame_number
    if images.count(image) != 1:
        raise ResultRejected(f"SEG frame {frame.number} names a source image that is no slice: {image}")
    index = images.index(image)
    orientation = [*frame.along_row, *frame.along_column]
    if frame.position_mm is not None or orientation != ORIENTATION:
        raise ResultRejected(
            f"SEG frame {frame.number} has a place in the patient, its source image has none"
        )
    return index


def _check_spacings(found: dict[int, npt.NDArray[np.float64] | None], context: ResultContext) -> None:
    """Pixel spacing of unplaced frames by slice; raises ResultRejected unless it is what `seg` may claim."""
    expected = common_spacing_mm(context.source.volume, found)
    for index, spacing_mm in found.items():
        claimed = None if spacing_mm is None else tuple(float(value) for value in spacing_mm)
        if claimed is None or expected is None:
            same = claimed is None and expected is None
        else:
            same = np.allclose(claimed, expected, rtol=1e-6)
        if not same:
            raise ResultRejected(f"SEG on slice {index}: pixel spacing {claimed}, source {expected}")


def _slice_by_place(frame: SegmentFrame, context: ResultContext) -> int:
    """Slice of the volume at the frame's position; raises ResultRejected unless its source image is there."""
    volume = context.source.volume
    if frame.position_mm is None or frame.spacing_mm is None:
        raise ResultRejected(f"SEG frame {frame.number} has no place in the patient")
    _check_steps(frame, frame.spacing_mm, volume)
    slice_at, row_at, column_at = volume.to_indices(frame.position_mm)
    index = round(float(slice_at))
    off_grid = abs(slice_at - index) > SLICE_TOLERANCE or max(abs(row_at), abs(column_at)) > PIXEL_TOLERANCE
    if not 0 <= index < volume.shape[0] or off_grid:
        raise ResultRejected(
            f"SEG frame {frame.number} lies at (slice, row, column) "
            f"({slice_at:.2f}, {row_at:.2f}, {column_at:.2f}) of the source grid, not on a slice"
        )
    source = context.source.frames[index]
    image = source.instance.sop_instance_uid, source.frame_number
    if (frame.source_sop_instance_uid, frame.source_frame_number) != image:
        raise ResultRejected(f"SEG frame {frame.number} lies on slice {index} but names another source image")
    distance_mm = float(np.linalg.norm(frame.position_mm - frame_position_mm(source)))
    if distance_mm > SAME_PLACE_MM:
        raise ResultRejected(f"SEG frame {frame.number} lies {distance_mm:.3f} mm from its source image")
    return index


def _check_steps(frame: SegmentFrame, spacing_mm: npt.NDArray[np.float64], volume: Volume) -> None:
    """Row and column steps, which also catches mirrored and transposed frames."""
    _, rows, columns = volume.shape
    row_spacing_mm, column_spacing_mm = spacing_mm
    for name, step, expected, count in (
        ("rows", frame.along_column * row_spacing_mm, volume.affine[:3, 1], rows),
        ("columns", frame.along_row * column_spacing_mm, volume.affine[:3, 2], columns),
    ):
        off_mm = float(np.linalg.norm(step - expected)) * count
        expected_mm = float(np.linalg.norm(expected))
        if off_mm > max(STEP_TOLERANCE_MM, 0.5 * expected_mm):
            raise ResultRejected(f"SEG frame {frame.number}: {name} run {off_mm:.2f} mm off the source grid")
