"""A segmentation that came back from an archive, put onto its source volume by position alone."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from scipy import ndimage

from dicomnode.encode.decode import read_frames
from dicomnode.errors import PermanentError
from dicomnode.study import SourceVolume
from inference.labelmap import Label, Lesion, LesionMap

NEAREST_MM = 0.01


def lesions_of(seg: Dataset, source: SourceVolume, labels: tuple[Label, ...]) -> LesionMap:
    """The segments of `seg` as lesions on the grid of `source`; each frame goes where its position says.

    Raises PermanentError when a frame lies on no slice of the source, or nowhere.
    """
    by_code = {label.type.value: label for label in labels}
    label_of = {
        int(segment.SegmentNumber): by_code[segment.SegmentedPropertyTypeCodeSequence[0].CodeValue]
        for segment in seg.SegmentSequence
    }
    overlap = seg.get("SegmentsOverlap", "NO") != "NO"
    layers = [np.zeros(source.volume.shape, np.uint16) for _ in (labels if overlap else labels[:1])]
    origins = source.volume.to_lps_mm([(index, 0, 0) for index in range(source.volume.shape[0])])
    for frame in read_frames(seg):
        if frame.position_mm is None:
            raise PermanentError(f"frame {frame.number} has no place in the patient")
        distances = np.linalg.norm(origins - frame.position_mm, axis=1)
        nearest = int(np.argmin(distances))
        if distances[nearest] > NEAREST_MM:
            raise PermanentError(f"frame {frame.number} lies {distances[nearest]:.2f} mm beside every slice")
        layer = label_of[frame.segment_number].number - 1 if overlap else 0
        layers[layer][nearest][frame.mask] = frame.segment_number
    boxes = [ndimage.find_objects(layer.astype(np.int32), max(label_of)) for layer in layers]
    lesions = []
    for number, label in sorted(label_of.items()):
        layer = label.number - 1 if overlap else 0
        lesions.append(Lesion(number, label, boxes[layer][number - 1], layer))
    return LesionMap(tuple(layers), tuple(lesions))
