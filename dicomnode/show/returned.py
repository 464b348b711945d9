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
    values = np.zeros(source.volume.shape, np.uint16)
    origins = source.volume.to_lps_mm([(index, 0, 0) for index in range(source.volume.shape[0])])
    for frame in read_frames(seg):
        if frame.position_mm is None:
            raise PermanentError(f"frame {frame.number} has no place in the patient")
        distances = np.linalg.norm(origins - frame.position_mm, axis=1)
        nearest = int(np.argmin(distances))
        if distances[nearest] > NEAREST_MM:
            raise PermanentError(f"frame {frame.number} lies {distances[nearest]:.2f} mm beside every slice")
        values[nearest][frame.mask] = frame.segment_number
    by_code = {label.type.value: label for label in labels}
    lesions = []
    for segment, box in zip(seg.SegmentSequence, ndimage.find_objects(values.astype(np.int32)), strict=True):
        label = by_code[segment.SegmentedPropertyTypeCodeSequence[0].CodeValue]
        lesions.append(Lesion(int(segment.SegmentNumber), label, box))
    return LesionMap(values, tuple(lesions))
