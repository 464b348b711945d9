"""Ultrasound images and loops, which have no place in the patient, as one volume.

Every still image is its own, and so is every loop: they share an array because a model looks at them one
after the other, not because they lie beside each other (docs/decisions/0011-ultrasound.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pydicom.uid import UID

from dicomnode.read.frames import FrameHeader, frame_count, frame_of, name_instance
from dicomnode.read.grey import check_for_the_screen, to_grey
from dicomnode.read.pixels import check_size, volume_shape
from dicomnode.read.regions import beside_the_tissue, pixel_spacing_mm, read_regions
from dicomnode.read.stored import stored_frames
from dicomnode.study import Instance, Series, SourceFrame, SourceVolume, text
from inference.volume import Clip, Volume, Voxels

PLACED = ("ImagePositionPatient", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def is_unplaced(series: Series) -> bool:
    """Whether these are ultrasound images none of which tries to say where it lies."""
    return series.modality.upper() == "US" and not any(
        text(instance.values, keyword) for instance in series.instances for keyword in PLACED
    )


def read_unplaced(series: Series) -> SourceVolume:
    """Grey values 0..255 of all images of one size, in the order of their InstanceNumber.

    A SEG has one size, so of a series with several sizes only the one that most images have is read, and
    the notes say how many were not. Raises UnreadableSeries with the reason when an image cannot be read.
    """
    found = [_frames(instance) for instance in sorted(series.instances, key=_order)]
    for frames in found:
        check_for_the_screen(frames[0])
    chosen = _of_most_common_size(found)
    headers = [header for frames in chosen for header in frames]
    clips = _clips(chosen)
    common = {clip.spacing_mm for clip in clips}
    volume = Volume(
        _read_grey(headers), None, "grey", common.pop() if len(common) == 1 else None, clips
    )  # fmt: skip
    left_out = len(found) - len(chosen)
    rows, columns = volume.shape[1:]
    notes = (
        f"{left_out} of {len(found)} images of the series were not looked at: their size is not the "
        f"{rows} rows and {columns} columns of the others.",
    )
    return SourceVolume(series, volume, tuple(h.frame for h in headers), notes if left_out else ())


def read_unplaced_frame(
    instance: Instance, frame_number: int | None
) -> tuple[Voxels, tuple[float, float] | None]:
    """One image or frame as grey values (row, column), and the size of its pixels where it is known.

    Raises UnreadableSeries with the reason when it cannot be read, or is not there.
    """
    header = frame_of(_frames(instance), frame_number)
    check_for_the_screen(header)
    return _read_grey([header])[0], pixel_spacing_mm(header, read_regions(header))


def _order(instance: Instance) -> tuple[int, str]:
    number = text(instance.values, "InstanceNumber")
    return int(number) if number.isdecimal() else 0, instance.sop_instance_uid


def _frames(instance: Instance) -> tuple[FrameHeader, ...]:
    count = frame_count(instance.header, name_instance(instance))
    if count == 1 and "Multi-frame" not in UID(instance.sop_class_uid).name:
        return (FrameHeader(SourceFrame(instance), (instance.header,)),)
    return tuple(
        FrameHeader(SourceFrame(instance, number), (instance.header,)) for number in range(1, count + 1)
    )


def _of_most_common_size(found: Sequence[tuple[FrameHeader, ...]]) -> list[tuple[FrameHeader, ...]]:
    sizes: dict[tuple[float | None, ...], list[tuple[FrameHeader, ...]]] = defaultdict(list)
    for frames in found:
        sizes[frames[0].number("Rows"), frames[0].number("Columns")].append(frames)
    return max(sizes.values(), key=lambda group: (len(group), sum(map(len, group))))


def _clips(images: Sequence[tuple[FrameHeader, ...]]) -> tuple[Clip, ...]:
    clips, first_slice = [], 0
    for frames in images:
        clips.append(Clip(first_slice, pixel_spacing_mm(frames[0], read_regions(frames[0]))))
        first_slice += len(frames)
    return tuple(clips)


def _read_grey(headers: Sequence[FrameHeader]) -> Voxels:
    """(slice, row, column); spectra, traces and scales beside the image of tissue are black."""
    shape = volume_shape(headers)
    voxels = np.zeros(shape, np.int16)
    for index, (header, stored, dataset) in enumerate(stored_frames(headers)):
        check_size(header, stored, shape)
        grey = to_grey(header, stored, dataset)
        beside = beside_the_tissue(read_regions(header), (shape[1], shape[2]))
        voxels[index] = np.where(beside, 0, grey)
    return voxels
