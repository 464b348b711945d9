"""Makes one small result that nobody gets, so that the first job does not wait for what is loaded late.

The encoders read highdicom's tables of attributes, and scipy and scikit-image load their parts, when they are
asked for something: together about a second.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dicomnode.encode.context import ResultContext
from dicomnode.encode.results import encode_results
from dicomnode.part10 import ParsedHeader
from dicomnode.records.db import utc_now
from dicomnode.series_writer import SOP_CLASSES, SeriesIdentity, slice_dataset
from dicomnode.study import Instance, Series, SourceFrame, SourceVolume
from inference.bundle import ModelBundle
from inference.labelmap import Lesion, LesionMap
from inference.measure import measure_lesions
from inference.volume import Volume

SHAPE = (4, 16, 16)
LESION = slice(1, 3), slice(4, 9), slice(5, 9)


def warm_up(bundle: ModelBundle) -> None:
    """Measure, encode and check a lesion of this model in an empty image, as for a job."""
    source = _source(bundle.card.modality)
    values = np.zeros(SHAPE, np.uint16)
    values[LESION] = 1
    lesion_map = LesionMap((values,), (Lesion(1, bundle.card.labels[0], LESION),))
    context = ResultContext(source, bundle.card, bundle.digest, 1, utc_now())
    encode_results(lesion_map, measure_lesions(lesion_map, source.volume), context)


def _source(modality: str) -> SourceVolume:
    volume = Volume(np.zeros(SHAPE, np.int16), np.eye(4)[:, [2, 1, 0, 3]], "HU")
    identity = SeriesIdentity(modality=modality if modality in SOP_CLASSES else "CT")
    instances = []
    for index in range(SHAPE[0]):
        header = slice_dataset(volume, index, identity)
        del header.PixelData
        instances.append(Instance(Path(f"{index}.dcm"), ParsedHeader(header), f"{index:064d}"))
    return SourceVolume(Series(tuple(instances)), volume, tuple(SourceFrame(found) for found in instances))
